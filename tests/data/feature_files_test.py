"""Community feature files: layouts, timing, resizing, windows."""

import h5py
import numpy as np
import pytest

from clap_jax.data import feature_files
from clap_jax.data.feature_files import FeatureFiles, FileFeatures, resized
from clap_jax.data.feature_sources import LocalizationSource
from clap_jax.data.feature_windows import SequenceOptions, Window, windows_of
from clap_jax.data.features import (
  FeatureError,
  FeatureGrid,
  VideoFeatures,
  read_features,
)
from clap_jax.data.pipeline import evaluation_batches
from clap_jax.storage import locations, objects
from tests.data.clips_test import make_info

RATES = (24000 / 1001, 30000 / 1001, 30.0)


def info(name="a", **changes):
  return make_info(**({"id": name} | changes))


def frames(**changes):
  return FeatureFiles(
    **(
      {
        "names": ("{id}.npy",),
        "timing": "frames",
        "stride_frames": 4.0,
        "window_frames": 16.0,
      }
      | changes
    )
  )


def test_hdf5_layouts(tmp_path):
  array = np.arange(12, dtype=np.float64).reshape(4, 3)
  with h5py.File(tmp_path / "tsp.h5", "w") as file:
    file["a"] = array
    file["b"] = array + 1
    file["text"] = "no numbers"
    file["type"] = np.dtype("f4")
  with h5py.File(tmp_path / "c3d.hdf5", "w") as file:
    file["v_a/c3d_features"] = array
    file["v_b/c3d_features"] = array + 1
    file["v_b/other"] = array
  np.testing.assert_array_equal(
    read_features(tmp_path / "tsp.h5", key="a"), array
  )
  for key in ("v_a", "v_a/c3d_features"):
    read = read_features(tmp_path / "c3d.hdf5", key=key)
    np.testing.assert_array_equal(read, array)
  for path, key, message in (
    ("tsp.h5", "c", "no data set 'c'; it holds 4 entries: a, b"),
    ("tsp.h5", None, "it holds 4 entries"),
    ("tsp.h5", "type", "no data set 'type'; it holds 4 entries: a, b"),
    ("tsp.h5", "text", "expected numbers"),
    ("c3d.hdf5", "v_b", "2 entries under 'v_b': c3d_features, other"),
  ):
    with pytest.raises(FeatureError, match=message):
      read_features(tmp_path / path, key=key)
  (tmp_path / "x.h5").write_bytes(b"no HDF5 at all")
  with pytest.raises(FeatureError, match="cannot read"):
    read_features(tmp_path / "x.h5", key="a")

  videos = FileFeatures(
    tmp_path,
    [info("a"), info("b"), info("z")],
    files=frames(names=("c3d.hdf5",), key="v_{id}/c3d_features"),
    on_missing="skip",
  )
  assert list(videos) == ["a", "b"] and "z" not in videos
  np.testing.assert_array_equal(videos["b"].features, array + 1)
  with pytest.raises(FileNotFoundError, match=r"other\.h5 is missing"):
    FileFeatures(
      tmp_path, [info()], files=frames(names=("other.h5",), key="{id}")
    )


def test_files_in_a_bucket(tmp_path, monkeypatch):
  array = np.arange(6, dtype=np.float32).reshape(3, 2)
  with h5py.File(tmp_path / "a.h5", "w") as file:
    file["x"] = array
  np.savetxt(tmp_path / "a.csv", array, delimiter=",")
  np.save(tmp_path / "a.npy", array)
  contents = {f"bucket/{p.name}": p.read_bytes() for p in tmp_path.iterdir()}
  monkeypatch.setattr(
    objects, "read_start", lambda scheme, key, size: contents[key][:size]
  )
  for name in ("a.h5", "a.csv", "a.npy"):
    found = read_features(locations.at("gs://bucket", name))
    np.testing.assert_array_equal(found, array)


def test_streams_are_joined_and_missing_files_named(tmp_path):
  np.save(tmp_path / "a_rgb.npy", np.ones((5, 2)))
  np.savez(tmp_path / "a_flow.npz", x=np.full((4, 3), 2.0))
  np.save(tmp_path / "b_rgb.npy", np.ones((5, 2)))
  files = frames(names=("{id}_rgb.npy", "{id}_flow.npz"))
  video = FileFeatures(tmp_path, [info()], files=files)["a"]
  np.testing.assert_array_equal(video.features, [[1, 1, 2, 2, 2]] * 4)
  with pytest.raises(FeatureError, match=r"1 of 2 .*\(b; .* b_flow\.npz\)"):
    FileFeatures(tmp_path, [info(), info("b")], files=files)
  with pytest.raises(FeatureError, match="not a file name"):
    FileFeatures(tmp_path, [info("../a")], files=files)
  np.save(tmp_path / "b.npy", np.ones((5, 4)))
  np.save(tmp_path / "a.npy", np.ones((5, 2)))
  two = FileFeatures(tmp_path, [info(), info("b")], files=frames())
  assert two["a"].features.shape == (5, 2)
  with pytest.raises(FeatureError, match="b has features of width 4"):
    two["b"]
  (tmp_path / "a.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
  pickled = FileFeatures(tmp_path, [info()], files=frames(names=("{id}.pkl",)))
  with pytest.raises(FeatureError, match=r"convert it to \.npz"):
    pickled["a"]


@pytest.mark.parametrize("num_steps", [None, 50, 300])
@pytest.mark.parametrize("offset", [0.0, 8.0])
@pytest.mark.parametrize("fps", RATES)
def test_seconds_round_trip_and_features_stand_where_the_grid_says(
  tmp_path, fps, offset, num_steps
):
  count = 100
  middle_sec = (offset + np.arange(count) * 4 + 8) / fps
  np.save(tmp_path / "a.npy", middle_sec[:, None])
  video = FileFeatures(
    tmp_path,
    [info(fps=fps)],
    files=frames(offset_frames=offset),
    num_steps=num_steps,
  )["a"]
  grid, length = video.grid, len(video.features)
  assert length == (num_steps or count)
  # The value of a feature is the second it was made at.
  inner = slice(3, -3)
  np.testing.assert_allclose(
    video.features[inner, 0],
    grid.to_seconds(np.arange(length))[inner],
    rtol=1e-5,
  )
  seconds = np.random.default_rng(0).uniform(
    grid.to_seconds(0), grid.to_seconds(length - 1), 1000
  )
  np.testing.assert_allclose(grid.to_seconds(grid.to_grid(seconds)), seconds)
  snapped = grid.to_seconds(np.rint(grid.to_grid(seconds)))
  assert np.abs(snapped - seconds).max() <= grid.stride_sec / 2 + 1e-9


def test_a_fixed_rate_beats_the_annotations(tmp_path):
  np.save(tmp_path / "a.npy", np.ones((5, 2)))
  slow = frames(fps=15.0, stride_frames=16.0)
  grid = FileFeatures(tmp_path, [info(fps=30.0)], files=slow)["a"].grid
  assert grid == FeatureGrid(start_sec=0, stride_sec=16 / 15, clip_sec=16 / 15)
  with pytest.raises(FeatureError, match="no fps of a"):
    FileFeatures(tmp_path, [info(fps=0.0)], files=frames())["a"]


def test_even_features_divide_what_they_cover(tmp_path):
  np.save(tmp_path / "a.npy", np.arange(10.0)[:, None])
  files = FeatureFiles(names=("{id}.npy",), timing="even")
  infos = [info(duration_sec=20.0)]
  grid = FileFeatures(tmp_path, infos, files=files)["a"].grid
  assert (grid.start_sec, grid.stride_sec) == (0.0, 2.0)
  assert grid.to_grid(0.0) == -0.5 and grid.to_grid(20.0) == 9.5
  covered = FileFeatures(
    tmp_path, infos, files=files, num_steps=5, covered_sec={"a": 15.0}
  )["a"]
  assert covered.grid.stride_sec == 3.0
  np.testing.assert_allclose(covered.features[:, 0], [0.5, 2.5, 4.5, 6.5, 8.5])


def test_resizing_one_feature_and_to_the_same_length():
  grid = FeatureGrid(start_sec=1.0, stride_sec=0.5, clip_sec=2.0)
  one = resized(VideoFeatures(np.full((1, 2), 3.0, np.float32), grid), 4)
  np.testing.assert_array_equal(one.features, np.full((4, 2), 3.0))
  features = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
  same = resized(VideoFeatures(features, grid), 7)
  np.testing.assert_allclose(same.features, features, rtol=1e-6)
  np.testing.assert_allclose(
    same.grid.to_seconds(np.arange(7)), grid.to_seconds(np.arange(7))
  )


def test_windows_cover_a_sequence():
  options = SequenceOptions(max_length=8)
  assert windows_of(5, options, overlap=0.5) == [Window(0, 5)]
  assert windows_of(20, options, overlap=None) == [Window(0, 20)]
  starts = [w.start for w in windows_of(21, options, overlap=0.5)]
  assert starts == [0, 4, 8, 12, 13]
  assert [w.start for w in windows_of(16, options, overlap=0.0)] == [0, 8]

  grid = FeatureGrid(start_sec=0.0, stride_sec=1.0, clip_sec=1.0)
  video = VideoFeatures(np.arange(21, dtype=np.float32)[:, None], grid)
  segments = np.array([(2.5, 6.5), (9.5, 12.5)])
  source = LocalizationSource(
    [info(segments=segments, labels=np.int32([0, 1]))],
    {"a": video},
    options=options,
    window_overlap=0.5,
  )
  assert len(source) == 5
  seen = set()
  with evaluation_batches(source, batch_size=4) as batches:
    for batch in batches:
      for row, index in enumerate(batch.video_index):
        if index < 0:
          continue
        start = source.starts[index]
        assert source.examples[index].id == "a"
        np.testing.assert_array_equal(
          batch.features[row, :, 0], start + np.arange(8)
        )
        for segment in batch.segments[row][batch.segment_mask[row]] + start:
          seen.add(tuple(segment))
  assert {(2.0, 6.0), (9.0, 12.0)} <= seen


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"timing": "guess"}, "timing must be"),
    ({"axis_order": "bt"}, "axis_order"),
    ({"names": ()}, "names must be"),
    ({"names": ("a.h5",)}, "holds {id}"),
    ({"names": ("a.h5", "{id}.npy"), "key": "{id}"}, "names must be"),
    ({"stride_frames": None}, "needs stride_frames"),
    ({"window_frames": 0.0}, "needs stride_frames"),
    ({"timing": "even"}, "takes no fps"),
    ({"fps": -1.0}, "fps must be above 0"),
  ],
)
def test_wrong_descriptions(changes, message):
  with pytest.raises(ValueError, match=message):
    frames(**changes)


def test_real_layouts(shared_data):
  folder = shared_data / "features"
  rows = (
    ("mmaction2_tests/activitynet_features", "v_test1", "{id}.csv", (5, 400)),
    ("paddlevideo", "bmn_example_feat", "{id}.npy", (100, 400)),
  )
  for directory, name, pattern, shape in rows:
    files = FeatureFiles(names=(pattern,), timing="even")
    video = FileFeatures(folder / directory, [info(name)], files=files)[name]
    assert video.features.shape[1] == shape[1]
    covered = len(video.features) * video.grid.stride_sec
    assert covered == pytest.approx(info().duration_sec)
  both = frames(
    names=("{id}_rgb.npy", "{id}_flow.npy"), stride_frames=64, window_frames=64
  )
  name = "women_long_jump"
  video = FileFeatures(
    folder / "bmt_women_long_jump", [info(name, fps=25.0)], files=both
  )[name]
  assert video.features.shape == (14, 2048)
  # The video of the features is 35.2 s long.
  assert video.grid.to_seconds(13) + 1.28 == pytest.approx(35.84)
  name = "qtyBzFV9yTs_60.0_210.0"
  seconds = frames(
    names=("slowfast_{id}.npz", "clip_{id}.npz"),
    fps=1.0,
    stride_frames=2.0,
    window_frames=2.0,
  )
  video = FileFeatures(folder / "qvhighlights", [info(name)], files=seconds)[
    name
  ]
  assert video.features.shape == (75, 2304 + 512)
  assert video.grid.to_grid(150.0) == 74.5
  tsp = frames(names=("tsp_r2plus1d_34-max_gvf.h5",), key="{id}")
  videos = FileFeatures(
    shared_data / "thumos14",
    [info("video_test_0000004"), info("video_test_9999999")],
    files=tsp,
    on_missing="skip",
  )
  assert list(videos) == ["video_test_0000004"]
  with pytest.raises(FeatureError, match=r"shape \(512,\)"):
    videos["video_test_0000004"]  # of the whole video: no time axis


@pytest.mark.parametrize(
  ("video_id", "file"),
  [
    ("v_a", "a"),
    ("a", "v_a"),
    ("a.mp4", "a"),
    ("v_a.mp4", "a"),
    ("caf\u00e9", "cafe\u0301"),
  ],
)
def test_files_of_another_spelling_are_found(tmp_path, video_id, file):
  array = np.arange(12, dtype=np.float32).reshape(4, 3)
  np.save(tmp_path / f"{file}.npy", array)
  videos = FileFeatures(tmp_path, [info(video_id)], files=frames())
  np.testing.assert_array_equal(videos[video_id].features, array)
  with h5py.File(tmp_path / "all.h5", "w") as all_videos:
    all_videos[file] = array
  files = frames(names=("all.h5",), key="{id}")
  videos = FileFeatures(tmp_path, [info(video_id)], files=files)
  np.testing.assert_array_equal(videos[video_id].features, array)


def test_files_of_another_video_are_not_taken(tmp_path):
  np.save(tmp_path / "a.npy", np.ones((4, 3)))
  infos = [info("a"), info("v_a")]
  videos = FileFeatures(tmp_path, infos, files=frames(), on_missing="skip")
  assert list(videos) == ["a"]
  np.save(tmp_path / "v_b.npy", np.ones((4, 3)))
  np.save(tmp_path / "b.npy", np.ones((4, 3)))
  with pytest.raises(FeatureError, match="'b', 'v_b'"):
    FileFeatures(tmp_path, [info("b.mp4")], files=frames())


def test_what_was_asked_for_last_stays_in_memory(tmp_path, monkeypatch):
  array = np.ones((8, 4), np.float32)
  for name in "abc":
    np.save(tmp_path / f"{name}.npy", array)
  monkeypatch.setattr(feature_files, "_MAX_CACHE_BYTES", 2 * array.nbytes)
  loaded = feature_files.FileFeatures(
    tmp_path, [info(name) for name in "abc"], files=frames()
  )
  read = []
  original = loaded._read
  monkeypatch.setattr(
    loaded, "_read", lambda one: read.append(one.id) or original(one)
  )
  for name in "ababcaba":
    loaded[name]
  # c takes the place of a, and a that of b, not asked for since.
  assert read == ["a", "b", "c", "a", "b"]
  assert loaded._num_cached_bytes == 2 * array.nbytes
