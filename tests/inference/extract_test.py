"""Tests extraction against direct encoding, and its resumption."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from clap_jax.data import class_texts, feature_reader, features, records
from clap_jax.inference import extract
from clap_jax.media import decode
from clap_jax.models import dual_encoder
from tests.data import built_dataset

STRIDE_SEC = 0.5


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  path = tmp_path_factory.mktemp("extract_data")
  built_dataset.write_dataset(path, num_videos=3, num_shards=1)
  return path


@pytest.fixture(scope="module")
def dataset(data_dir):
  return records.open_dataset(data_dir, "toy/small")


def run(encoder, dataset, out, **options):
  options = {"stride_sec": STRIDE_SEC} | options
  return extract.extract(encoder, dataset, out=out, **options)


@pytest.fixture(scope="module")
def extracted(encoder, dataset, tmp_path_factory):
  """Features of all three videos; not to be changed."""
  out = tmp_path_factory.mktemp("extracted") / "features"
  seen = []
  done = run(encoder, dataset, out, on_progress=lambda *x: seen.append(x))
  assert done.written == ("video_000", "video_001", "video_002")
  assert not done.kept
  assert not done.failed
  assert seen == [(1, 3), (2, 3), (3, 3)]
  return out


def test_features_are_those_of_clips_decoded_one_by_one(
  encoder, dataset, extracted
):
  example = dataset.split("train")[1]
  found = features.load_features(extracted, "video_001")
  assert found.grid == features.FeatureGrid(
    start_sec=0.0, stride_sec=STRIDE_SEC, clip_sec=2.0
  )
  assert len(found.features) == found.grid.num_features(12.0) == 21
  model = dual_encoder.DualEncoder(encoder.config)
  for index in (0, 7, 20):
    frames = decode.decode_clip(
      example.video,
      start_sec=index * STRIDE_SEC,
      clip_sec=2.0,
      num_frames=4,
      size=16,
    )
    expected = model.apply(
      encoder.params, frames[None], method="video_feature"
    )[0]
    np.testing.assert_allclose(
      found.features[index], expected, rtol=1e-4, atol=1e-5
    )
  assert found.features.std(axis=0).max() > 0


def test_the_file_follows_the_contract(extracted):
  with np.load(extracted / "video_000.npz", allow_pickle=False) as arrays:
    shapes = {key: arrays[key].shape for key in arrays.files}
    assert arrays["features"].dtype == np.float32
  assert shapes == {
    "features": (21, 16),
    "start_sec": (),
    "stride_sec": (),
    "clip_sec": (),
  }


def test_texts_have_their_token_vectors(encoder, dataset, extracted):
  with np.load(
    extracted / feature_reader.TEXTS_FILE, allow_pickle=False
  ) as arrays:
    texts = arrays["texts"].tolist()
    vectors, mask = arrays["vectors"], arrays["mask"]
  captions = {
    text
    for info in dataset.split("train").metadata().examples
    for _, _, text in info.captions
  }
  assert len(texts) == len(set(texts))
  assert set(texts) == captions
  row = len(texts) - 1
  alone, alone_mask = encoder.text_vectors([texts[row]])
  np.testing.assert_allclose(vectors[row], alone[0], rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(mask[row], alone_mask[0])


def test_a_stopped_extraction_goes_on(encoder, dataset, extracted, tmp_path):
  class KilledError(Exception):
    pass

  def kill(done, total):
    if done == 2:
      raise KilledError

  out = tmp_path / "features"
  with pytest.raises(KilledError):
    run(encoder, dataset, out, on_progress=kill)
  assert not (out / "video_002.npz").exists()
  before = (out / "video_000.npz").stat().st_mtime_ns
  (out / "video_001.npz").unlink()
  done = run(encoder, dataset, out)
  assert (done.kept, done.written) == (
    ("video_000",),
    ("video_001", "video_002"),
  )
  assert (out / "video_000.npz").stat().st_mtime_ns == before
  for name in ("video_000", "video_001", "video_002"):
    np.testing.assert_array_equal(
      features.load_features(out, name).features,
      features.load_features(extracted, name).features,
    )


def test_a_finished_extraction_is_not_written_again(
  encoder, dataset, extracted
):
  def times():
    return {p: p.stat().st_mtime_ns for p in extracted.rglob("*")}

  before = times()
  done = run(encoder, dataset, extracted)
  assert len(done.kept) == 3
  assert times() == before


@pytest.mark.parametrize("what", ["stride_sec", "parameters", "clip"])
def test_features_are_not_mixed(encoder, dataset, extracted, what):
  clip = dataclasses.replace(encoder.clip, clip_sec=4.0)
  params = jax.tree.map(lambda x: x + 1e-3, encoder.params)
  other, stride_sec = {
    "stride_sec": (encoder, 1.0),
    "parameters": (dataclasses.replace(encoder, params=params), STRIDE_SEC),
    "clip": (dataclasses.replace(encoder, clip=clip), STRIDE_SEC),
  }[what]
  before = (extracted / feature_reader.EXTRACTION_FILE).read_text()
  with pytest.raises(FileExistsError, match=f"differ in {what};"):
    run(other, dataset, extracted, stride_sec=stride_sec)
  assert (extracted / feature_reader.EXTRACTION_FILE).read_text() == before


def test_class_names_lie_in_the_space_of_the_clips(encoder, dataset, extracted):
  texts = class_texts.load(extracted / feature_reader.CLASSES_FILE)
  assert texts.names == dataset.label_names
  video = features.load_features(extracted, "video_001").features
  model = dual_encoder.DualEncoder(encoder.config)
  by_hand = [encoder.class_texts([name]) for name in dataset.label_names]
  expected = [
    np.asarray(model.apply(encoder.params, video, method="project_video"))
    @ one.vectors[0]
    for one in by_hand
  ]
  np.testing.assert_allclose(
    texts.similarities(video)[:, :-1], np.stack(expected, -1), atol=1e-5
  )
  np.testing.assert_allclose(
    np.linalg.norm(texts.vectors, axis=-1), 1.0, atol=1e-5
  )
  assert len(set(np.round(texts.vectors @ texts.background, 6))) == 3
  assert texts.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)


def test_overwrite(encoder, dataset, tmp_path):
  run(encoder, dataset, tmp_path)
  done = run(encoder, dataset, tmp_path, stride_sec=2.0, overwrite=True)
  assert len(done.written) == 3
  assert len(features.load_features(tmp_path, "video_000").features) == 6


def test_texts_are_not_written_or_removed_through_a_link(
  encoder, dataset, tmp_path
):
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  np.savez(elsewhere / "thesis.npz", results=np.ones(3))
  out = tmp_path / "out"
  out.mkdir()
  (out / "texts").symlink_to(elsewhere)
  for overwrite in (False, True):
    with pytest.raises(ValueError, match="symbolic link"):
      run(encoder, dataset, out, overwrite=overwrite)
  assert [path.name for path in elsewhere.iterdir()] == ["thesis.npz"]
  assert [path.name for path in out.iterdir()] == ["texts"]


def test_foreign_files_are_not_overwritten(encoder, dataset, tmp_path):
  np.savez(tmp_path / "thesis.npz", results=np.ones(3))
  for overwrite in (False, True):
    with pytest.raises(FileExistsError, match=r"extracted\.json"):
      run(encoder, dataset, tmp_path, overwrite=overwrite)
  assert [path.name for path in tmp_path.iterdir()] == ["thesis.npz"]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"stride_sec": 0.0}, "stride_sec is "),
    ({"stride_sec": float("nan")}, "stride_sec is "),
    ({"splits": ("test",)}, "'test'.*choose from train"),
  ],
)
def test_bad_requests_leave_nothing_behind(
  encoder, dataset, tmp_path, options, message
):
  with pytest.raises(ValueError, match=message):
    run(encoder, dataset, tmp_path / "out", **options)
  assert not (tmp_path / "out").exists()


def broken_dataset(directory):
  """The second of three videos cannot be decoded."""
  spec = built_dataset.features()
  built_dataset.write_dataset(directory, num_videos=3, num_shards=1)
  examples = [built_dataset.make_example(number) for number in range(3)]
  examples[1]["video"] = examples[1]["video"][:500]
  built_dataset.write_shard(
    directory / "toy/small/1.0.0/toy-train.tfrecord-00000-of-00001",
    [spec.serialize_example(spec.encode_example(e)) for e in examples],
  )
  return records.open_dataset(directory, "toy/small")


def test_a_video_that_cannot_be_decoded_is_listed(encoder, tmp_path):
  dataset = broken_dataset(tmp_path / "data")
  out = tmp_path / "features"
  for _ in range(2):  # called again, it stays listed
    done = run(encoder, dataset, out)
    (entry,) = done.failed
    assert entry["id"] == "video_001"
    assert entry["reason"]
    facts = json.loads((out / feature_reader.EXTRACTION_FILE).read_text())
    assert [e["id"] for e in facts["failed"]] == ["video_001"]
    assert facts["finished"]
  assert len(done.kept) == 2


class TwoSplits:
  """The toy dataset with its split under two names, cut in halves."""

  splits = ("train", "validation")

  def __init__(self, dataset):
    self.name, self.directory = dataset.name, dataset.directory
    self.label_names = dataset.label_names
    self._source = dataset.split("train")

  def split(self, name):
    return Half(self._source, name, first=0 if name == "train" else 2)


class Half:
  def __init__(self, source, name, *, first):
    self.name, self._source, self._first = name, source, first

  def __len__(self):
    return 2 if self._first == 0 else 1

  def __getitem__(self, index):
    return self._source[self._first + index]

  def metadata(self, *, on_corrupt):
    table = self._source.metadata(on_corrupt=on_corrupt)
    stop = self._first + len(self)
    return dataclasses.replace(
      table, examples=table.examples[self._first : stop]
    )


def test_one_split_after_the_other_is_as_both_at_once(encoder, tmp_path):
  dataset = TwoSplits(broken_dataset(tmp_path / "data"))
  out = tmp_path / "features"
  for split in dataset.splits:
    run(encoder, dataset, out, splits=(split,))
  facts = json.loads((out / feature_reader.EXTRACTION_FILE).read_text())
  assert [e["id"] for e in facts["failed"]] == ["video_001"]
  with np.load(out / feature_reader.TEXTS_FILE, allow_pickle=False) as arrays:
    texts = set(arrays["texts"].tolist())
    assert len(arrays["vectors"]) == len(arrays["mask"]) == len(texts)
  assert texts == {
    text
    for split in dataset.splits
    for info in dataset.split(split).metadata(on_corrupt="skip").examples
    for _, _, text in info.captions
  }
