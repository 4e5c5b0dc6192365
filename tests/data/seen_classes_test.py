"""What is hidden from a localizer that knows the seen classes only."""

import numpy as np
import pytest

from clap_jax.data import class_splits, feature_windows, features, seen_classes


def source_of(dataset, hidden, *, max_length=24, **others):
  infos = dataset.split("train").metadata().examples
  grid = features.FeatureGrid(start_sec=0.0, stride_sec=0.5, clip_sec=1.0)
  loaded = {
    info.id: features.VideoFeatures(np.ones((23, 3), np.float32), grid)
    for info in infos
  }
  options = feature_windows.SequenceOptions(
    max_length=max_length, crop_probability=1.0
  )
  return seen_classes.SeenClassesSource(
    infos, loaded, options=options, hidden_classes=frozenset(hidden), **others
  )


def test_hidden_actions_are_torn_out(dataset):
  source = source_of(dataset, {1})
  for number, info in enumerate(source.examples):
    example = source[number]
    assert set(example.labels.tolist()) <= {0}
    assert len(example.labels) == (info.labels != 1).sum()
    start_sec = np.arange(23) * 0.5
    overlaps = np.zeros(23, bool)
    for (start, end), label in zip(info.segments, info.labels, strict=True):
      if label == 1:
        overlaps |= (start_sec + 1.0 > start) & (start_sec < end)
    valid = example.mask[:23]
    assert not valid[overlaps].any()
    # A clip that only touches a hidden action may go as well.
    touching = (start_sec + 1.0 >= 1.0) & (start_sec <= 12.0)
    assert valid[~overlaps & ~touching].all()
    np.testing.assert_array_equal(example.features[:, 0], example.mask)


def test_crops_hide_the_same_time(dataset):
  source = source_of(dataset, {0, 2})
  whole = {i: source[i] for i in range(len(source))}
  for index in range(8):
    item = source.item(index, seed=1)
    # All features are one, so a masked step is what was torn out or padding.
    assert item.mask.sum() <= whole[item.video_index].mask.sum()
    assert item.features[item.mask].all()
    assert not item.features[~item.mask].any()


def test_lists_of_zero_shot_splits(tmp_path):
  for part, names in (("train", "a\nb\n"), ("test", "c\n\n")):
    (tmp_path / part).mkdir()
    (tmp_path / part / "split_0.list").write_text(names)
  for part in ("train", "test"):
    split = class_splits.class_split(str(tmp_path / part / "split_0.list"))
    assert (split.base, split.novel) == (("a", "b"), ("c",))
  with pytest.raises(FileNotFoundError, match="split_1"):
    class_splits.class_split(str(tmp_path / "test" / "split_1.list"))
  with pytest.raises(ValueError, match="expected"):
    class_splits.class_split(str(tmp_path / "split_0.list"))


def test_published_zero_shot_splits(shared_data):
  root = shared_data / "fewshot_splits"
  if not root.is_dir():
    pytest.skip(f"no real data: {root} is missing")
  sizes = {("50", "ActivityNet"): (100, 100), ("75", "ActivityNet"): (150, 50)}
  sizes |= {("50", "THUMOS14"): (10, 10), ("75", "THUMOS14"): (15, 5)}
  for (share, dataset_name), counts in sizes.items():
    folder = f"zero_shot_train_{share}_test_{100 - int(share)}"
    for number in range(10):
      path = root / folder / dataset_name / "train" / f"split_{number}.list"
      split = class_splits.class_split(str(path))
      assert (len(split.base), len(split.novel)) == counts


def test_windows_hide_the_time_of_their_own_video(dataset):
  whole = source_of(dataset, {1})
  number_of = {info.id: n for n, info in enumerate(whole.examples)}
  windows = source_of(dataset, {1}, max_length=8, window_overlap=0.5)
  assert len(windows) > 2 * len(whole)
  for index, info in enumerate(windows.examples):
    start, mask = windows.starts[index], windows[index].mask
    expected = whole[number_of[info.id]].mask[start : start + len(mask)]
    np.testing.assert_array_equal(mask[: len(expected)], expected)
