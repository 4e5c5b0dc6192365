"""Tests building, resuming and searching an index."""

import numpy as np
import pytest

from clap_jax.inference import index as index_lib
from clap_jax.inference import inputs
from tests.data import built_dataset
from tests.inference import toy_model

STRIDE_SEC = 0.5


@pytest.fixture
def folder(tmp_path):
  folder = tmp_path / "videos"
  (folder / "deeper").mkdir(parents=True)
  for seed, name in enumerate(("a.mp4", "deeper/b.mp4")):
    (folder / name).write_bytes(
      built_dataset.encode_mp4(48 + 16 * seed, seed=seed)
    )
  (folder / "broken.mp4").write_bytes(b"no video at all")
  (folder / "notes.txt").write_text("not looked at")
  return folder


def _build(encoder, folder, out):
  return index_lib.build(
    encoder, inputs.find_in(folder).files, out=out, stride_sec=STRIDE_SEC
  )


def test_index_lists_encodes_and_goes_on(encoder, folder, tmp_path):
  out = tmp_path / "index"
  index = _build(encoder, folder, out)
  assert [v.path.rpartition("/")[2] for v in index.videos] == ["a.mp4", "b.mp4"]
  assert [entry["video"].rpartition("/")[2] for entry in index.failed] == [
    "broken.mp4"
  ]
  assert isinstance(index.vectors, np.memmap)
  assert len(index.vectors) == sum(video.count for video in index.videos)
  norms = np.linalg.norm(np.asarray(index.vectors, np.float32), axis=1)
  np.testing.assert_allclose(norms, 1.0, atol=2e-3)
  before = {p: p.stat().st_mtime_ns for p in (out / "videos").iterdir()}
  (folder / "c.mp4").write_bytes(built_dataset.encode_mp4(40, seed=2))
  again = _build(encoder, folder, out)
  assert len(again.videos) == 3
  after = {p: p.stat().st_mtime_ns for p in (out / "videos").iterdir()}
  assert before.items() <= after.items() and len(after) == 3


def test_best_clip_of_all_videos_comes_first(encoder, folder, tmp_path):
  index = _build(encoder, folder, tmp_path / "index")
  row = index.videos[1].first + 3
  query = np.asarray(index.vectors[row], np.float32)
  moments = index_lib.search(index, query, top=5)
  scores = np.asarray(index.vectors, np.float32) @ query
  assert moments[0]["score"] == pytest.approx(scores.max(), abs=1e-6)
  assert [m["score"] for m in moments] == sorted(
    (m["score"] for m in moments), reverse=True
  )
  for moment in moments:
    length = {v.path: v.duration_sec for v in index.videos}[moment["video"]]
    assert 0 <= moment["start_sec"] < moment["end_sec"] <= length


def test_videos_that_cannot_be_among_the_best_are_skipped(tmp_path):
  """The same moments as from looking at every video."""
  rng = np.random.default_rng(0)
  counts = rng.integers(1, 30, 60)
  firsts = np.cumsum([0, *counts[:-1]])
  videos = tuple(
    index_lib.IndexedVideo(str(i), "", 100.0, int(first), int(count))
    for i, (first, count) in enumerate(zip(firsts, counts, strict=True))
  )
  vectors = rng.normal(size=(counts.sum(), 4)).astype(np.float16)
  index = index_lib.Index(
    directory=tmp_path, encoder_directory="", parameters="", stride_sec=1.0,
    clip_sec=2.0, videos=videos, failed=(), vectors=vectors,
  )  # fmt: skip
  query = np.array([1.0, 0.5, -0.5, 0.0], np.float32)
  scores = vectors.astype(np.float32) @ query
  expected = sorted(
    (
      moment[0]
      for v in videos
      for moment in index_lib._moments(
        scores[v.first : v.first + v.count], top=7
      )
    ),
    reverse=True,
  )[:7]
  found = [moment["score"] for moment in index_lib.search(index, query, top=7)]
  assert found == pytest.approx(expected)


def test_a_moment_spans_its_peak_and_is_found_once():
  scores = np.full(20, 0.1, np.float32)
  scores[5:9] = [0.6, 0.9, 0.8, 0.58]
  scores[14] = 0.7
  found = list(index_lib._moments(scores, top=2))
  assert [entry[1:] for entry in found] == [(5, 8), (14, 14)]
  assert [entry[0] for entry in found] == pytest.approx([0.9, 0.7])


def test_an_index_is_of_one_encoder(encoder, folder, tmp_path):
  _build(encoder, folder, tmp_path / "index")
  other = toy_model.make_encoder(tmp_path, seed=3)
  with pytest.raises(FileExistsError, match="differs in parameters"):
    _build(other, folder, tmp_path / "index")
  with pytest.raises(FileExistsError, match="not an index and not empty"):
    _build(encoder, folder, folder)


def test_other_folders_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match="clap index"):
    index_lib.open_index(tmp_path)
  with pytest.raises(FileNotFoundError, match="no videos"):
    inputs.find_in(tmp_path)
