"""Feature grids, files and the batches made of them."""

import pickle
import zipfile

import numpy as np
import pytest

from clap_jax.data.feature_sources import (
  LocalizationSource,
)
from clap_jax.data.feature_windows import SequenceOptions
from clap_jax.data.features import (
  FeatureError,
  FeatureGrid,
  VideoFeatures,
  features_path,
  load_features,
  load_split_features,
  read_features,
  save_features,
)
from clap_jax.data.pipeline import evaluation_batches, training_batches
from tests.data.clips_test import make_info

GRID = FeatureGrid(start_sec=0.0, stride_sec=0.5, clip_sec=2.0)


def make_features(num_features: int = 21, grid=GRID) -> VideoFeatures:
  """Column 0 holds the number of the feature."""
  features = np.zeros((num_features, 3), np.float32)
  features[:, 0] = np.arange(num_features)
  return VideoFeatures(features, grid)


@pytest.mark.parametrize("fps", [24000 / 1001, 30000 / 1001, 30.0])
def test_grid_round_trip_within_half_a_stride(fps):
  grid = FeatureGrid.from_frames(
    fps=fps, stride_frames=8, clip_frames=16, first_frame=4
  )
  duration_sec = 7200.0
  count = grid.num_features(duration_sec)
  last_end_sec = grid.to_seconds(count - 1) + grid.clip_sec / 2
  assert last_end_sec <= duration_sec + 1e-6 < last_end_sec + grid.stride_sec
  for index in (0, 1, 1000, count - 1):
    middle_frame = 4 + 8 * index + 8
    assert grid.to_seconds(index) * fps == pytest.approx(middle_frame)
  times = np.random.default_rng(0).uniform(
    grid.to_seconds(0), grid.to_seconds(count - 1), 5000
  )
  np.testing.assert_allclose(grid.to_seconds(grid.to_grid(times)), times)
  snapped = grid.to_seconds(np.rint(grid.to_grid(times)))
  assert np.abs(snapped - times).max() <= grid.stride_sec / 2 + 1e-9


def test_grid_of_short_videos_and_bad_values():
  assert GRID.num_features(0.3) == 1
  assert GRID.num_features(2.0) == 1 and GRID.num_features(2.5) == 2
  for bad in (0.0, -1.0, float("nan"), float("inf")):
    with pytest.raises(FeatureError):
      FeatureGrid(start_sec=0.0, stride_sec=bad, clip_sec=1.0)


def test_files_round_trip_and_are_checked(tmp_path):
  video = make_features()
  save_features(tmp_path, "a-b_1.x", video)
  loaded = load_features(tmp_path, "a-b_1.x")
  np.testing.assert_array_equal(loaded.features, video.features)
  assert loaded.grid == GRID
  assert [path.name for path in tmp_path.iterdir()] == ["a-b_1.x.npz"]
  save_features(tmp_path, "c", video)
  with pytest.raises(FeatureError, match=r"2 videos \(x, y\)"):
    load_split_features(tmp_path, ["c", "x", "y"])
  assert list(load_split_features(tmp_path, ["c", "x"], on_missing="skip")) == [
    "c"
  ]
  other = make_features(grid=FeatureGrid(start_sec=0, stride_sec=1, clip_sec=2))
  save_features(tmp_path, "d", other)
  with pytest.raises(FeatureError, match="mixes"):
    load_split_features(tmp_path, ["c", "d"])
  video.features[3, 1] = np.nan
  with pytest.raises(FeatureError, match="NaN"):
    save_features(tmp_path, "e", video)
  path = features_path(tmp_path, "c")
  data = bytearray(path.read_bytes())
  data[200] ^= 1
  path.write_bytes(bytes(data))
  with pytest.raises(FeatureError, match="cannot read"):
    load_features(tmp_path, "c")
  for name in ("../x", "/x", "a/b", "", ".x", "a\0", "x" * 300, "a\n"):
    with pytest.raises(FeatureError, match="not a file name"):
      features_path(tmp_path, name)


class _Canary:
  """Creates a file when it is unpickled."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return (open, (self.path, "w"))


def test_community_files(tmp_path):
  canary = tmp_path / "canary_was_run"
  array = np.arange(12, dtype=np.float64).reshape(4, 3)
  np.save(tmp_path / "a.npy", array)
  np.save(tmp_path / "t.npy", array.T[None])
  np.savez(tmp_path / "a.npz", rgb=array)
  np.savez(tmp_path / "two.npz", rgb=array, flow=array + 1)
  text = "\n".join(",".join(map(str, row)) for row in array)
  (tmp_path / "a.csv").write_text(text)
  (tmp_path / "h.csv").write_text("f0,f1,f2\n" + text)
  for name in ("a.npy", "a.npz", "a.csv", "h.csv"):
    read = read_features(tmp_path / name)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array)
  read = read_features(tmp_path / "t.npy", axis_order="dt")
  np.testing.assert_array_equal(read, array)
  read = read_features(tmp_path / "two.npz", key="flow")
  np.testing.assert_array_equal(read, array + 1)
  with pytest.raises(FeatureError, match=r"\['flow', 'rgb'\]"):
    read_features(tmp_path / "two.npz")
  (tmp_path / "a.pkl").write_bytes(pickle.dumps(_Canary(canary)))
  with pytest.raises(FeatureError, match="can run arbitrary"):
    read_features(tmp_path / "a.pkl")
  np.save(tmp_path / "o.npy", np.array([_Canary(canary)]), allow_pickle=True)
  with pytest.raises(FeatureError, match="cannot read"):
    read_features(tmp_path / "o.npy")
  with zipfile.ZipFile(tmp_path / "o.npz", "w") as archive:
    archive.write(tmp_path / "o.npy", "features.npy")
  with pytest.raises(FeatureError, match="cannot read"):
    read_features(tmp_path / "o.npz")
  assert not canary.exists()
  for text in ("a,b\nc,d", "1,2\n3", "1,nan"):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(FeatureError):
      read_features(tmp_path / "x.csv")


def make_localization(max_length: int = 24, **options) -> LocalizationSource:
  infos = [make_info(index) for index in range(5)]
  features = {info.id: make_features() for info in infos}
  return LocalizationSource(
    infos, features, options=SequenceOptions(max_length=max_length, **options)
  )


def test_localization_evaluation_batches():
  source = make_localization()
  with evaluation_batches(source, batch_size=4) as batches:
    first, second = list(batches)
  assert first.features.shape == (4, 24, 3) and first.segments.shape == (
    4,
    2,
    2,
  )
  np.testing.assert_array_equal(first.mask.sum(axis=1), [21] * 4)
  assert not first.features[:, 21:].any()
  np.testing.assert_array_equal(second.video_index, [4, -1, -1, -1])
  assert not second.mask[1:].any() and not second.segment_mask[1:].any()
  # (1 s, 3.5 s) on clips of 2 s every 0.5 s: the middle of clip 0 is at 1 s.
  np.testing.assert_allclose(first.segments[0], [(0.0, 5.0), (8.0, 13.0)])
  np.testing.assert_array_equal(first.labels[1], [1, 2])
  with pytest.raises(FeatureError, match="v0 has 21 features"):
    make_localization(max_length=20)[0]


def test_random_crops_move_segments_with_the_features():
  source = make_localization(max_length=10, min_crop_share=0.6)
  starts = set()
  for index in range(100):
    example = source.item(index, seed=0)
    length = int(example.mask.sum())
    assert 6 <= length <= 10
    first = example.features[0, 0]
    starts.add(first)
    np.testing.assert_array_equal(
      example.features[:length, 0], first + np.arange(length)
    )
    assert len(example.segments) or length < 8
    whole = {0: (0.0, 5.0), 1: (8.0, 13.0)}
    info = source.examples[example.video_index]
    for segment, label in zip(example.segments, example.labels, strict=True):
      full = np.array(whole[int(np.flatnonzero(info.labels == label)[0])])
      cut = (full - first).clip(-0.5, length - 0.5)
      np.testing.assert_allclose(segment, cut)
      assert segment[1] - segment[0] >= 2.5
  assert len(starts) > 6


def test_localization_training_is_pure_and_hides_classes():
  source = make_localization(crop_probability=0.5, min_crop_share=0.5)
  runs = []
  for threads, start in ((0, 0), (2, 3)):
    with training_batches(
      source, batch_size=5, seed=1, num_threads=threads, start_step=start
    ) as batches:
      runs.append([next(batches) for _ in range(6 - start)])
  for a, b in zip(runs[0][3:], runs[1], strict=True):
    for x, y in zip(a, b, strict=True):
      np.testing.assert_array_equal(x, y)
  for batch in runs[0]:
    assert sorted(batch.video_index) == [0, 1, 2, 3, 4]
  infos = [make_info(index) for index in range(3)]
  features = {info.id: make_features() for info in infos[:2]}
  hidden = LocalizationSource(
    infos,
    features,
    options=SequenceOptions(max_length=30),
    hidden_classes=frozenset({0, 1}),
  )
  assert len(hidden) == 2
  assert [example.labels.tolist() for example in (hidden[0], hidden[1])] == [
    [],
    [2],
  ]


def test_a_window_inside_a_long_action_is_not_background():
  info = make_info(segments=np.float32([(0.0, 11.0)]), labels=np.int32([2]))
  source = LocalizationSource(
    [info],
    {info.id: make_features()},
    options=SequenceOptions(max_length=5, min_crop_share=1.0),
  )
  for index in range(20):
    np.testing.assert_array_equal(source.item(index, seed=0).labels, [2])


def test_windows_of_training_hold_a_whole_action():
  segments = np.float32([(1.0, 3.0), (9.0, 11.5)])
  info = make_info(segments=segments, labels=np.int32([2, 1]))
  source = LocalizationSource(
    [info],
    {info.id: make_features()},
    options=SequenceOptions(max_length=8, min_visible_share=1e-6),
    window_overlap=0.5,
    whole_share=0.9,
  )
  held = {(window.start, window.length) for _, window in source._windows}
  assert len(source) == len(held) > 1
  # One epoch has every such window once.
  drawn = [source.item(index, seed=0) for index in range(len(source))]
  firsts = {example.features[0].tobytes() for example in drawn}
  assert len(firsts) == len(source)
  grid = make_features().grid
  for start, length in held:
    low, high = grid.to_grid(segments.astype(np.float64)).T
    seen = np.minimum(high, start + length - 0.5) - np.maximum(low, start - 0.5)
    assert np.max(seen / (high - low)) >= 0.9
  with pytest.raises(FeatureError, match="max_length"):
    LocalizationSource(
      [info],
      {info.id: make_features()},
      options=SequenceOptions(max_length=1),
      window_overlap=0.5,
      whole_share=0.9,
    )


def test_real_community_features(shared_data):
  folder = shared_data / "features"
  expected = {
    "bmt_women_long_jump/women_long_jump_rgb.npy": 1024,
    "mmaction2_tests/activitynet_features/v_test1.csv": 400,
    "qvhighlights/slowfast_qtyBzFV9yTs_60.0_210.0.npz": 2304,
  }
  for name, width in expected.items():
    path = folder / name
    if path.exists():
      assert read_features(path).shape[1] == width
