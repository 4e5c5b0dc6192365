"""Shards that are committed one by one: resumption, stores, runners."""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import av
import pytest

from clap_jax.annotations import source_files
from clap_jax.data.records import open_dataset
from clap_jax.media.decode import decode_clip
from clap_jax.storage import locations
from tests.tfds_builders import transcoding_test
from tfds_builders import build, collection, finishing, shards, transcoding

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
NUM_VIDEOS = 6
# Builds with one video per shard and notes each transcoding.
_BUILD = """
import sys
from tfds_builders import build, shards, transcoding
shards.VIDEOS_PER_SHARD = 1
source, out, log = sys.argv[1:]
original = transcoding.transcode_apart
def noted(file, target, **kwargs):
  with open(log, 'a') as notes:
    notes.write(target.name + chr(10))
  return original(file, target, **kwargs)
transcoding.transcode_apart = noted
build.build('folder', data_dir=out, videos=source, workers=2,
            annotations=source + '/a.csv')
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A few videos, one of them broken, and their annotations."""
  folder = tmp_path_factory.mktemp("source")
  rows = ["video,start,end,label,caption,subset"]
  for number in range(NUM_VIDEOS):
    name = f"v{number}.mp4"
    transcoding_test.make_video(folder / name, seconds=2 + number / 4, fps=10)
    rows.append(f"{name},0.5,1.5,run,runner {number},train")
  (folder / "broken.mp4").write_bytes(b"\0\0\0\x20ftypisom" + b"\7" * 999)
  rows.append("broken.mp4,0,1,run,,train")
  (folder / "a.csv").write_text("\n".join(rows) + "\n")
  return folder


def build_folder(source, out, **options):
  return build.build(
    "folder",
    data_dir=out,
    videos=source,
    annotations=source / "a.csv",
    **options,
  )


def _checksums(out):
  path = out / "folder/default/1.0.0" / finishing.CHECKSUMS
  return path.read_text()


def _command(source, out, log, before=""):
  code = before + _BUILD
  return [sys.executable, "-c", code, str(source), str(out), str(log)]


def _start(source, out, log):
  return subprocess.Popen(
    _command(source, out, log),
    cwd=REPOSITORY,
    stderr=subprocess.PIPE,
  )


def _kill_and_resume(source, tmp_path, kills):
  """Kills builds at random moments, then lets one end.

  A build that ends before its first kill is started over with shorter waits.
  A kill may also hit a process that has committed and is about to exit: that
  build is complete, and another start would rightly be refused.
  """
  clean, log = tmp_path / "clean.log", tmp_path / "killed.log"
  process = _start(source, tmp_path / "clean", clean)
  assert process.wait(300) == 0, process.stderr.read()[-2000:]
  assert len(clean.read_text().splitlines()) == NUM_VIDEOS + 1
  rng, killed, longest_sec = random.Random(0), 0, 0.8
  work = tmp_path / "killed" / ".building-folder-default" / "shards"
  finished = tmp_path / "killed/folder/default/1.0.0"
  while killed < kills:
    process = _start(source, tmp_path / "killed", log)
    deadline = time.monotonic() + 300
    while not work.exists() and time.monotonic() < deadline:
      time.sleep(0.01)
    time.sleep(rng.uniform(0, longest_sec))
    process.send_signal(signal.SIGKILL)
    returncode = process.wait(60)
    assert returncode in (0, -signal.SIGKILL), process.stderr.read()[-2000:]
    if not finished.exists():
      killed += 1
    elif killed:
      break
    else:
      shutil.rmtree(tmp_path / "killed")
      log.unlink()
      longest_sec /= 2
  if not finished.exists():
    process = _start(source, tmp_path / "killed", log)
    assert process.wait(300) == 0, process.stderr.read()[-2000:]
  assert killed > 0
  assert _checksums(tmp_path / "killed") == _checksums(tmp_path / "clean")
  again = len(log.read_text().splitlines()) - (NUM_VIDEOS + 1)
  assert again <= killed * 2, "more than one shard per worker was redone"
  return killed


def test_a_killed_build_resumes_to_the_same_bytes(source, tmp_path):
  _kill_and_resume(source, tmp_path, kills=1)


@pytest.mark.faults
def test_many_kills(source, tmp_path, figure):
  """Fifty kills, over as many builds as that takes."""
  killed = 0
  for number in range(50):
    folder = tmp_path / str(number)
    folder.mkdir()
    killed += _kill_and_resume(source, folder, kills=10)
    if killed >= 50:
      break
  figure(
    f"#25 {killed} kills of builds of {NUM_VIDEOS + 1} videos",
    "the bytes of an unbroken build, at most one shard per worker redone",
    "the same bytes, 1 shard per worker",
  )
  assert killed >= 50


# Files may not grow beyond so many bytes, in the build and in its decoders.
_FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))
"""
# A clock that is years off, folders listed backwards.
_MOVED = """
import os, time
def backwards(function):
  return lambda *args: sorted(function(*args), reverse=True, key=str)
os.listdir = backwards(os.listdir)
moved = time.time
time.time = lambda: moved() + 3e8
"""


def _run(source, out, before="", **environment):
  return subprocess.run(
    _command(source, out, out.with_suffix(".log"), before),
    cwd=REPOSITORY,
    env=os.environ | environment,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


@pytest.mark.parametrize(
  "full_at",
  ["a decoder", pytest.param("a shard", marks=pytest.mark.faults)],
)
def test_a_full_disk_stops_the_build_and_blames_no_video(
  source, tmp_path, full_at, figure
):
  assert _run(source, tmp_path / "clean").returncode == 0
  shard_sizes = [
    path.stat().st_size
    for path in (tmp_path / "clean/folder/default/1.0.0").glob("*.tfrecord-*")
  ]
  limit = 1000 if full_at == "a decoder" else max(shard_sizes) - 50
  out = tmp_path / "full"
  stopped = _run(source, out, _FULL.format(limit))
  assert stopped.returncode
  assert "File too large" in stopped.stderr.splitlines()[-1]
  assert not (out / "folder/default/1.0.0").exists()
  work = out / ".building-folder-default" / "shards"
  for path in work.glob("*.done.json"):
    done = json.loads(path.read_text())
    shard = path.with_name(path.name.removesuffix(".done.json"))
    assert shard.stat().st_size == done["bytes"] <= limit
  resumed = _run(source, out)
  assert resumed.returncode == 0, resumed.stderr[-2000:]
  assert _checksums(out) == _checksums(tmp_path / "clean")
  figure(
    f"#4 disk full in {full_at} of a build",
    "stopped, only whole shards marked done, then the bytes of a whole build",
    "no partial shard marked done",
  )


@pytest.mark.faults
def test_clock_zone_locale_seed_and_order_change_no_byte(
  source, tmp_path, figure
):
  assert _run(source, tmp_path / "clean").returncode == 0
  moved = _run(
    source,
    tmp_path / "moved",
    _MOVED,
    TZ="Pacific/Kiritimati",
    LC_ALL="C",
    PYTHONHASHSEED="12345",
  )
  assert moved.returncode == 0, moved.stderr[-2000:]
  assert _checksums(tmp_path / "moved") == _checksums(tmp_path / "clean")
  figure(
    "#27 build under another clock, TZ, locale, hash seed, folder order",
    "the same bytes",
    "identical",
  )


@pytest.mark.parametrize("store", transcoding.STORES)
def test_every_store_gives_clips(source, tmp_path, store):
  limits = transcoding.StoreLimits(store=store)
  build_folder(source, tmp_path, limits=limits, subset=2)
  dataset = open_dataset(tmp_path, "folder/default")
  manifest = dataset.manifest("train")
  assert manifest["store"]["form"] == store
  for example in (dataset.split("train")[i] for i in range(2)):
    original = (source / f"{example.id}.mp4").read_bytes()
    assert (example.video == original) == (store == "original")
    clip = decode_clip(
      example.video, start_sec=1.0, clip_sec=0.5, num_frames=4, size=32
    )
    assert abs(float(clip[0, 20:].mean()) - 120) < 10  # see make_video
    with av.open(str(_written(tmp_path, example.video))) as container:
      stream = container.streams.video[0]
      frames = list(container.decode(stream))
      assert len(frames) == example.num_frames
      if store == "jpeg":
        assert stream.codec_context.name == "mjpeg"
        assert all(frame.key_frame for frame in frames)


def _written(folder, video):
  path = folder / "check.bin"
  path.write_bytes(video)
  return path


def test_a_changed_source_or_setting_redoes_its_shards(source, tmp_path):
  folder = tmp_path / "shards"
  folder.mkdir()
  name = sorted(source.glob("v*.mp4"))[0]
  copy = tmp_path / name.name
  copy.write_bytes(name.read_bytes())
  job = _job(copy, ("run",))
  done = shards.build_shard(job, folder)
  assert shards.read_done(job, folder) == done
  other = dataclasses.replace(job, limits=transcoding.StoreLimits(max_fps=5))
  assert shards.read_done(other, folder) is None
  os.utime(copy, (1, 1))
  changed = _job(copy, ("run",))
  assert shards.read_done(changed, folder) is None
  again = shards.build_shard(changed, folder)
  assert again["sha256"] == done["sha256"]
  (folder / changed.stem).write_bytes(b"")
  assert shards.read_done(changed, folder) is None
  shards.clean(folder, [job])
  assert sorted(p.name for p in folder.iterdir()) == sorted(job.file_names)


def _job(path, class_names=()):
  version = locations.version(path)
  item = collection.Item("v", "train", path, (), (), version=version)
  return shards.ShardJob("s", (item,), class_names, transcoding.StoreLimits())


def test_shards_without_a_usable_video_are_left_out(source, tmp_path):
  result = build_folder(source, tmp_path, workers=3)
  manifest = result["manifests"]["train"]
  assert manifest["present"] == NUM_VIDEOS
  assert [c["id"] for c in manifest["corrupt"]] == ["broken"]
  assert manifest["videos"]["broken"]["sha256"] == source_files.hash_file(
    source / "broken.mp4"
  )
  names = [s["name"] for s in manifest["shards"]]
  assert all(name.endswith(f"-of-{len(names):05d}") for name in names)
  records = open_dataset(tmp_path, "folder/default").split("train")
  assert {records[i].id for i in range(len(records))} == {
    f"v{number}" for number in range(NUM_VIDEOS)
  }


def test_beam_writes_the_same_bytes(source, tmp_path):
  pytest.importorskip("apache_beam", reason="the extra `beam` is not installed")
  build_folder(source, tmp_path / "threads")
  build_folder(source, tmp_path / "beam", runner="beam")
  assert _checksums(tmp_path / "beam") == _checksums(tmp_path / "threads")


def test_overlapping_attempts_of_a_bundle_leave_one_file(source, tmp_path):
  job = _job(sorted(source.glob("v*.mp4"))[0])
  first = shards.build_shard(job, str(tmp_path))
  written = tmp_path / job.file_names[-1]
  written.unlink()  # a second attempt that saw nothing
  second = shards.build_shard(job, str(tmp_path))
  assert first == second == json.loads(written.read_text())
  assert sorted(p.name for p in tmp_path.iterdir()) == sorted(job.file_names)


def test_runners_and_numbers_are_checked(source, tmp_path):
  for options, message in (
    ({"runner": "spark"}, "unknown runner"),
    ({"workers": 0}, "workers must be at least 1"),
    ({"selection_percent": 100}, "expected 1 to 99"),
  ):
    with pytest.raises(ValueError, match=message):
      build_folder(source, tmp_path, **options)
