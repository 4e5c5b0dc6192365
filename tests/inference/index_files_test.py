"""Tests reading of untrusted index folders."""

import json
import os

import numpy as np
import pytest

from clap_jax import main
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import index as index_lib
from clap_jax.inference import index_files, inputs
from tests.data import built_dataset

REMOVED = object()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  folder = tmp_path_factory.mktemp("videos")
  for seed, name in enumerate(("a.mp4", "b.mp4")):
    (folder / name).write_bytes(built_dataset.encode_mp4(32, seed=seed))
  return folder


@pytest.fixture
def index(encoder, videos, tmp_path):
  out = tmp_path / "index"
  build(encoder, videos, out)
  return out


def build(encoder, videos, out):
  files = inputs.find_in(videos).files
  return index_lib.build(encoder, files, out=out, stride_sec=1.0)


def change(path, keys, value):
  document = json.loads(path.read_text())
  place = document
  for key in keys[:-1]:
    place = place[key]
  if value is REMOVED:
    del place[keys[-1]]
  else:
    place[keys[-1]] = value
  path.write_text(json.dumps(document))


@pytest.mark.parametrize(
  ("keys", "value"),
  [
    (("videos", 1, "first"), -5),
    (("videos", 1, "first"), 0),
    (("videos", 0, "first"), True),
    (("videos", 0, "count"), -1),
    (("videos", 0, "count"), 0),
    (("videos", 0, "count"), 10**30),
    (("videos", 0, "count"), 2.0),
    (("videos", 0, "duration_sec"), "long"),
    (("videos", 0, "duration_sec"), -1.0),
    (("videos", 0, "duration_sec"), float("nan")),
    (("videos", 0, "path"), ""),
    (("videos", 0, "path"), "a\0b"),
    (("videos", 0, "path"), 3),
    (("videos", 0, "sha256"), "../../etc/passwd"),
    (("videos", 0, "other"), 1),
    (("videos", 0, "sha256"), REMOVED),
    (("videos", 0), []),
    (("videos",), {}),
    (("failed",), [1]),
    (("failed",), [{"video": 1, "reason": "x"}]),
    (("stride_sec",), 0),
    (("clip_sec",), "2"),
    (("parameters",), None),
    (("encoder_directory",), 4),
  ],
)
def test_every_value_is_checked(encoder, index, keys, value):
  index_lib.open_index(index)
  change(index / index_files.INDEX_FILE, keys, value)
  with pytest.raises(ValueError, match=r"index\.json") as raised:
    index_lib.open_index(index)
  assert str(keys[0]) in str(raised.value)


@pytest.mark.parametrize(
  "content", [b"[1]", b"{", b"[" * 100_000, b"\xff\xfe", b"null"]
)
def test_a_malformed_index_is_bad_input(index, content, capsys):
  (index / index_files.INDEX_FILE).write_bytes(content)
  assert main.main(["search", "it spins", "--index", str(index)]) == 2
  assert "index.json" in capsys.readouterr().err


def npy(header: bytes) -> bytes:
  return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
  "content",
  [
    b"",
    npy(b"{'descr': '<f2', 'fortran_order': False, 'shape': (1 << 60, 8)}\n"),
    npy(b"{'descr': '<f2', 'fortran_order': False, 'shape': (9999999, 8)}\n"),
    npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (6, 8)}\n"),
    npy(b"(" * 9000 + b"\n"),
  ],
)
def test_malformed_vectors_are_bad_input(index, content, capsys):
  (index / index_files.VECTORS_FILE).write_bytes(content)
  assert main.main(["search", "it spins", "--index", str(index)]) == 2
  assert "vectors.npy" in capsys.readouterr().err


def test_another_number_of_rows_raises(index):
  vectors = np.load(index / index_files.VECTORS_FILE)
  np.save(index / index_files.VECTORS_FILE, vectors[:-1])
  with pytest.raises(ValueError, match=rf"{len(vectors)} rows"):
    index_lib.open_index(index)


@pytest.mark.parametrize(
  "name",
  [
    index_files.INDEX_FILE,
    index_files.VECTORS_FILE,
    "videos",
    "videos/{digest}.npz",
  ],
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_links_and_pipes_are_neither_read_nor_written(
  encoder, videos, index, name, kind
):
  name = name.format(digest=index_lib.open_index(index).videos[0].sha256)
  path, target = index / name, index.parent / "target"
  path.rename(target)
  if kind == "link":
    path.symlink_to(target)
  else:
    os.mkfifo(path)

  def files():
    return sorted(
      (str(p), p.stat().st_mtime_ns) for p in [target, *target.glob("*")]
    )

  before = files()
  with pytest.raises((ValueError, OSError), match=name.rpartition("/")[2]):
    build(encoder, videos, index)
    index_lib.open_index(index)
  assert files() == before


@pytest.mark.parametrize(
  "name", ["index.json.partial", "vectors.npy.partial", "a.partial"]
)
def test_no_predictable_name_is_written_through(
  encoder, videos, index, tmp_path, name
):
  victim = tmp_path / "victim"
  victim.write_text("mine")
  (index / name).symlink_to(victim)
  build(encoder, videos, index)
  assert victim.read_text() == "mine"


@pytest.mark.parametrize(
  "changes",
  [
    {"vectors": np.zeros((3, 4), np.float16)},
    {"vectors": np.zeros((0, 8), np.float16)},
    {"vectors": np.zeros((3, 8), np.float64)},
    {"duration_sec": np.float64("nan")},
    {"duration_sec": np.zeros(3)},
  ],
)
def test_kept_vectors_are_checked(encoder, videos, index, changes):
  digest = index_lib.open_index(index).videos[0].sha256
  path = index / "videos" / f"{digest}.npz"
  np.savez(path, **dict(np.load(path)) | changes)
  with pytest.raises(ValueError, match=digest):
    build(encoder, videos, index)


def test_search_takes_another_place_of_the_encoder(
  encoder, index, monkeypatch, tmp_path
):
  asked = []
  monkeypatch.setattr(
    encoder_lib, "load_encoder", lambda path: asked.append(str(path)) or encoder
  )
  change(index / index_files.INDEX_FILE, ("encoder_directory",), "/nowhere")
  arguments = ["search", "it spins", "--index", str(index)]
  assert main.main([*arguments, "--model", str(tmp_path)]) == 0
  assert asked == [str(tmp_path)]


def test_links_out_of_the_folder_of_videos_are_not_indexed(
  encoder, tmp_path, monkeypatch
):
  folder, secret = tmp_path / "videos", tmp_path / "secret.mp4"
  folder.mkdir()
  content = built_dataset.encode_mp4(32)
  secret.write_bytes(content)
  (folder / "a.mp4").write_bytes(content)
  (folder / "link.mp4").symlink_to(secret)
  monkeypatch.setattr(encoder_lib, "load_encoder", lambda _: encoder)
  out = tmp_path / "index"
  model = tmp_path / "model"
  model.mkdir()
  arguments = ["index", str(folder), "--model", str(model), "--out", str(out)]
  assert main.main(arguments) == 0
  made = index_lib.open_index(out)
  assert [video.path for video in made.videos] == [str(folder / "a.mp4")]
  assert [e["video"] for e in made.failed] == [str(folder / "link.mp4")]
