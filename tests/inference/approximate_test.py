"""The approximate index: as the exact one where it is small, good where not."""

import dataclasses
import os

import numpy as np
import pytest

from clap_jax.inference import approximate, inputs
from clap_jax.inference import index as index_lib
from tests.data import built_dataset

WIDTH, STRIDE_SEC = 32, 0.5


def unit(vectors):
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_index(directory, *, num_videos, clips=40, seed=0):
  """Videos whose clips lie around a place of their own."""
  rng = np.random.default_rng(seed)
  places = rng.normal(size=(num_videos, 1, WIDTH))
  noise = 0.5 * rng.normal(size=(num_videos, clips, WIDTH))
  vectors = unit(places + noise).reshape(-1, WIDTH).astype(np.float16)
  videos = tuple(
    index_lib.IndexedVideo(f"{i}.mp4", "", clips * STRIDE_SEC, i * clips, clips)
    for i in range(num_videos)
  )
  directory.mkdir()
  made = index_lib.Index(
    directory=directory, encoder_directory="", parameters="",
    stride_sec=STRIDE_SEC, clip_sec=2.0, videos=videos, failed=(),
    vectors=vectors, is_approximate=True,
  )  # fmt: skip
  approximate.build(vectors, directory)
  return made


def test_a_small_index_gives_the_same_moments(tmp_path):
  index = make_index(tmp_path / "index", num_videos=12)
  for query in unit(np.random.default_rng(1).normal(size=(10, WIDTH))):
    found = index_lib.search(index, query, top=5)
    assert found == index_lib.search(index, query, top=5, exact=True)


def test_a_larger_one_finds_nearly_the_same_videos(tmp_path):
  index = make_index(tmp_path / "index", num_videos=500)
  hits = 0
  rows = np.random.default_rng(2).choice(len(index.vectors), 40, replace=False)
  for row in rows:
    query = np.asarray(index.vectors[row], np.float32)
    exact = index_lib.search(index, query, top=1, exact=True)
    hits += index_lib.search(index, query, top=1) == exact
  assert hits >= 38


def test_only_the_named_videos_are_read(tmp_path, monkeypatch):
  index = make_index(tmp_path / "index", num_videos=50)
  counted = []
  scores = index_lib._scores
  monkeypatch.setattr(
    index_lib,
    "_scores",
    lambda vectors, vector: (
      counted.append(len(vectors)) or scores(vectors, vector)
    ),
  )
  index_lib.search(index, np.asarray(index.vectors[7], np.float32), top=3)
  assert sum(counted) <= 3 * 40


def test_a_file_of_other_vectors_is_refused(tmp_path):
  index = make_index(tmp_path / "index", num_videos=3)
  other = dataclasses.replace(index, vectors=index.vectors[:-1])
  with pytest.raises(ValueError, match=r"119 vectors of width 32"):
    index_lib.search(other, np.ones(WIDTH, np.float32), top=1)


@pytest.mark.parametrize(
  ("part", "change"),
  [
    ("rows", lambda array: array + 1_000_000),
    ("rows", lambda array: array - 1_000_000),
    ("places", lambda array: array[:1]),
    ("places", lambda array: array[::-1]),
    ("places", lambda array: array * 0.5),
    ("centres", lambda array: array[:, :3]),
    ("vectors", lambda array: array.astype(object)),
  ],
)
def test_damaged_files_are_refused(tmp_path, part, change):
  index = make_index(tmp_path / "index", num_videos=3)
  path = index.directory / f"cells_{part}.npy"
  changed = change(np.load(path))
  with path.open("wb") as file:
    if changed.dtype.hasobject:  # a pickle, as numpy.save would write it
      file.write(b"\x93NUMPY\x01\x00\x3f\x00{'descr': '|O', ")
    else:
      np.save(file, changed)
  with pytest.raises(ValueError, match=f"cells_{part}"):
    index_lib.search(index, np.ones(WIDTH, np.float32), top=1)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_links_and_pipes_are_refused(tmp_path, kind):
  index = make_index(tmp_path / "index", num_videos=3)
  path = index.directory / "cells_rows.npy"
  if kind == "link":
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
  else:
    path.unlink()
    os.mkfifo(path)
  with pytest.raises(ValueError, match=r"cells_rows\.npy"):
    index_lib.search(index, np.ones(WIDTH, np.float32), top=1)


def test_build_writes_it_and_takes_an_old_one_away(encoder, tmp_path):
  videos = tmp_path / "videos"
  videos.mkdir()
  (videos / "a.mp4").write_bytes(built_dataset.encode_mp4(48))
  paths, out = inputs.find_in(videos).files, tmp_path / "index"
  shared = {"out": out, "stride_sec": STRIDE_SEC}
  made = index_lib.build(encoder, paths, is_approximate=True, **shared)
  query = np.asarray(made.vectors[0], np.float32)
  assert made.is_approximate
  assert index_lib.search(made, query, top=3) == index_lib.search(
    made, query, top=3, exact=True
  )
  assert not index_lib.build(encoder, paths, **shared).is_approximate
