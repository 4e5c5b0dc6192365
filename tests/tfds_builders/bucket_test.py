"""Builds from a bucket into a bucket: the bytes of a build on a disk."""

import hashlib
import json
import multiprocessing
import os
import pathlib
import signal
import tempfile

import pytest

from clap_jax import main
from clap_jax.data import records
from clap_jax.storage import leases, locations, objects, output, untrusted
from tests import object_store
from tests.tfds_builders import shards_test, transcoding_test
from tfds_builders import collection, shards, transcoding

NAMES = ("v0.mp4", "broken.mp4", "v1.mp4")
DATASET = "folder/default/1.0.0"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """Two videos, one that is damaged, and rows of these and an absent one."""
  folder = tmp_path_factory.mktemp("source")
  rows = ["video,start,end,label,subset"]
  for name in NAMES:
    transcoding_test.make_video(folder / name, seconds=2, fps=10)
    rows.append(f"{name},0.5,1.5,run,train")
  broken = folder / "broken.mp4"
  broken.write_bytes(broken.read_bytes()[:900])
  (folder / "a.csv").write_text("\n".join([*rows, "absent,0,1,run,train"]))
  return folder


@pytest.fixture(scope="module")
def local(source, tmp_path_factory):
  """Relative name -> MD5 of the files of a build on a disk."""
  out = tmp_path_factory.mktemp("local")
  shards_test.build_folder(source, out)
  return {
    path.relative_to(out / DATASET).as_posix(): hashlib.md5(
      path.read_bytes(), usedforsecurity=False
    ).hexdigest()
    for path in (out / DATASET).rglob("*")
    if path.is_file()
  }


@pytest.fixture
def remote(bucket, source):
  return _sent(source, bucket.url)


@pytest.fixture
def here(tmp_path, monkeypatch):
  """An empty working folder and a folder for temporary files."""
  (tmp_path / "cwd").mkdir()
  (tmp_path / "tmp").mkdir()
  monkeypatch.chdir(tmp_path / "cwd")
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
  yield tmp_path
  left = [*(tmp_path / "cwd").iterdir(), *(tmp_path / "tmp").iterdir()]
  # TFDS makes a folder of its own when it is imported.
  assert not [path for path in left if not path.name.endswith("tfds")]


def _sent(source, url):
  videos = locations.at(url, "videos")
  for path in source.iterdir():
    output.copy(path, videos / path.name)
  return videos


def _content(out):
  """Relative name -> MD5, from the listing."""
  infos = (locations.at(out) / DATASET).infos_below()
  return {name: info.fingerprint[1] for name, info in infos.items()}


@pytest.mark.parametrize("scheme", objects.SCHEMES)
def test_a_build_has_the_bytes_of_one_on_a_disk(scheme, source, here, request):
  if scheme == "gs":
    url = request.getfixturevalue("bucket").url
    videos = _sent(source, url)
    _check_command(url, videos, request.getfixturevalue("local"))
    return
  with object_store.emulated_s3() as url:
    local = request.getfixturevalue("local")
    _check_command(url, _sent(source, url), local)


def _check_command(url, videos, local):
  arguments = [
    *("build", "folder", f"--data_dir={url}/data", f"--videos={videos}"),
    f"--annotations={videos}/a.csv",
  ]
  assert main.main(arguments) == 0
  assert _content(f"{url}/data") == local
  manifest = records.open_dataset(f"{url}/data", "folder/default").manifest(
    "train"
  )
  assert manifest["missing"] == ["absent"] and manifest["present"] == 2
  assert [entry["id"] for entry in manifest["corrupt"]] == ["broken"]
  shown = locations.at(url, "data").folders()
  assert not any(path.name == ".building-folder-default" for path in shown)
  assert main.main(arguments) == 2  # it is finished


def test_a_build_of_fewer_videos_leaves_none_of_the_old_objects(
  bucket, remote, here
):
  out = f"{bucket.url}/data"
  shards_test.build_folder(remote, out)
  before = _content(out)
  shards_test.build_folder(remote, out, subset=1, overwrite=True)
  names = {name for name in _content(out) if "tfrecord-" in name}
  assert len(names) == 2 < sum("tfrecord-" in name for name in before)
  [record] = (
    records.open_dataset(out, "folder/default").split("train").shard_lengths
  )
  assert record == 1


def test_an_object_that_vanishes_is_left_out_and_listed(bucket, remote, here):
  def on_start(path):
    if path.endswith("v1.mp4"):
      locations.at(path).unlink()

  built = shards_test.build_folder(
    remote, f"{bucket.url}/data", on_start=on_start
  )
  manifest = built["manifests"]["train"]
  reasons = {entry["id"]: entry["reason"] for entry in manifest["corrupt"]}
  assert manifest["present"] == 1 and reasons.keys() == {"v1", "broken"}
  assert "no such object" in reasons["v1"]


def test_a_bucket_that_does_not_answer_is_no_fault_of_a_video(
  monkeypatch, tmp_path
):
  def refuse(scheme, key, num_bytes):
    raise objects.ObjectStorageError(f"{scheme}://{key}: 503")

  monkeypatch.setattr(objects, "read_start", refuse)
  item = collection.Item("v", "train", locations.at("gs://bucket/v"), (), ())
  job = shards.ShardJob("s", (item,), (), transcoding.StoreLimits())
  with pytest.raises(objects.ObjectStorageError, match="gs://bucket/v: 503"):
    shards.pack_item(
      item, limits=job.limits, scratch=tmp_path, has_classes=True
    )
  assert not list(tmp_path.iterdir())


def _work(jobs, folder, scratch, dies_at):
  """A worker: temporary and working folders of its own, and some jobs."""
  scratch.mkdir()
  os.chdir(scratch)
  tempfile.tempdir = str(scratch)

  def on_start(path):
    if path.endswith(dies_at):
      os.kill(os.getpid(), signal.SIGKILL)

  for job in jobs:
    shards.build_shard(job, str(folder), on_start=on_start)


def test_workers_without_a_common_folder_and_a_kill(
  bucket, remote, local, tmp_path, monkeypatch
):
  """Two workers share the jobs; what a killed one left is redone, no more."""
  started, build_all = [], shards.build_all

  def spread(jobs, folder, **options):
    # The second dies at its second shard, after the first.
    context = multiprocessing.get_context("spawn")
    ordered = sorted(jobs, key=lambda job: job.items[0].id == "v1")
    parts = (ordered[:1], "none"), (ordered[1:], "v1.mp4")
    workers = [
      context.Process(
        target=_work, args=(part, folder, tmp_path / str(number), dies_at)
      )
      for number, (part, dies_at) in enumerate(parts)
    ]
    for worker in workers:
      worker.start()
    for worker in workers:
      worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, -signal.SIGKILL]
    options["on_start"] = started.append
    return build_all(jobs, folder, **options)

  monkeypatch.setattr(shards, "build_all", spread)
  shards_test.build_folder(remote, f"{bucket.url}/data")
  assert [pathlib.PurePath(path).name for path in started] == ["v1.mp4"]
  assert _content(f"{bucket.url}/data") == local


def test_a_second_build_at_one_place_is_refused(bucket, remote, monkeypatch):
  monkeypatch.setattr(leases, "DURATION_SEC", 4.0)
  out = f"{bucket.url}/data"

  def on_start(path):
    with pytest.raises(FileExistsError, match="another build"):
      shards_test.build_folder(remote, out)

  shards_test.build_folder(remote, out, subset=1, on_start=on_start)


def test_beam_workers_build_the_same_bytes(bucket, remote, local, monkeypatch):
  """Two processes of Beam's runner on this machine; none of it is done here."""
  pytest.importorskip("apache_beam", reason="the extra `beam` is not installed")
  options = "--direct_num_workers=2", "--direct_running_mode=multi_processing"
  out = f"{bucket.url}/data"
  monkeypatch.setattr(shards, "_write_shard", None)
  shards_test.build_folder(remote, out, runner="beam", runner_options=options)
  assert _content(out) == local


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("motion_sprites/tiny", ()),
    ("trimmed", ("--videos=gs://bucket/v", "--join")),
  ],
)
def test_what_is_made_on_a_disk_is_refused(name, options, bucket, here, capsys):
  arguments = ["build", name, f"--data_dir={bucket.url}/d", *options]
  assert main.main(arguments) == 2
  assert "on a disk" in capsys.readouterr().err


def test_done_files_of_a_job_are_read_back(bucket, source):
  """Names have the digest: the version of a source, not its time alone."""
  [video] = [p for p in source.iterdir() if p.name == "v0.mp4"]
  folder = locations.at(bucket.url, "in")
  output.copy(video, folder / "v0.mp4")
  [(path, version)] = collection.VideoFiles(folder).versions.items()
  assert version[1:] == path.info().fingerprint and path.suffix == ".mp4"
  item = collection.Item("v", "train", path, (), (), version=version)
  job = shards.ShardJob("s", (item,), (), transcoding.StoreLimits())
  out = locations.at(bucket.url, "out")
  done = shards.build_shard(job, out)
  assert shards.read_done(job, out) == done
  stated = untrusted.read_json(job.file_names[-1], folder=out)
  assert json.dumps(stated) == json.dumps(done)
