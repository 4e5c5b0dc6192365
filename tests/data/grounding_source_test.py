import numpy as np
import pytest

from clap_jax.data import queries
from clap_jax.data.feature_windows import SequenceOptions
from clap_jax.data.features import FeatureError, FeatureGrid, VideoFeatures
from clap_jax.data.grounding_source import GroundingSource, text_rows
from clap_jax.data.pipeline import training_batches

GRID = FeatureGrid(start_sec=0.0, stride_sec=0.5, clip_sec=2.0)
NUM_TOKENS, WIDTH = 4, 5


def make_split(num_videos=4):
  """Each video: a first moment, a second one, and one of two windows."""
  asked = [
    queries.GroundingQuery(
      id=f"{video}/{number}",
      video_id=f"v{video}",
      text=f"text {video} {number}",
      windows=windows,
    )
    for video in range(num_videos)
    for number, windows in enumerate(
      [((1.0, 3.0),), ((4.0, 9.0),), ((2.0, 3.0), (6.0, 8.0))]
    )
  ]
  durations = {f"v{video}": 12.0 for video in range(num_videos)}
  return queries.GroundingSplit(tuple(asked), durations)


def make_vectors(split):
  rng = np.random.default_rng(0)
  texts = queries.unique_texts(split.queries)
  lengths = rng.integers(1, NUM_TOKENS + 1, (len(texts), 1))
  return queries.QueryVectors(
    texts,
    rng.normal(size=(len(texts), NUM_TOKENS, WIDTH)).astype(np.float32),
    np.arange(NUM_TOKENS) < lengths,
  )


def make_features(videos, length=21):
  """Column 0 holds the number of the feature."""
  steps = np.zeros((length, 3), np.float32)
  steps[:, 0] = np.arange(length)
  return {video: VideoFeatures(steps, GRID) for video in videos}


def make_source(split=None, *, own=4, absent=2, **options):
  split = split or make_split()
  return GroundingSource(
    split,
    make_features(split.duration_sec),
    vectors=make_vectors(split),
    options=SequenceOptions(**{"max_length": 24} | options),
    queries_per_video=own,
    absent_per_video=absent,
  )


def test_a_batch_of_videos_with_own_and_negative_queries():
  source = make_source()
  assert len(source) == 4
  vectors = make_vectors(make_split())
  examples = [source.item(i, seed=3) for i in range(3)]
  batch = source.collate(examples, batch_size=4)
  assert batch.features.shape == (4, 24, 3)
  assert batch.query.shape == (4, 6, NUM_TOKENS, WIDTH)
  np.testing.assert_array_equal(batch.valid.sum(axis=1), [5, 5, 5, 0])
  np.testing.assert_array_equal(batch.is_absent.sum(axis=1), [2, 2, 2, 0])
  for row, column in zip(*np.nonzero(batch.valid), strict=True):
    index = batch.query_index[row, column]
    query = source.queries[index]
    np.testing.assert_array_equal(
      batch.query[row, column], vectors.vectors[index]
    )
    windows = batch.segments[row, column][batch.segment_mask[row, column]]
    if batch.is_absent[row, column]:
      assert not len(windows) and not batch.saliency[row, column].any()
      continue
    np.testing.assert_allclose(
      windows, GRID.to_grid(np.array(query.windows)), atol=1e-5
    )
    middle_sec = GRID.to_seconds(np.arange(21))
    inside = queries.snippet_saliency(query, middle_sec)
    np.testing.assert_array_equal(batch.saliency[row, column, :21], inside)
  own = [
    {source.queries[i].video_id for i in row[~absent & valid]}
    for row, absent, valid in zip(
      batch.query_index, batch.is_absent, batch.valid, strict=True
    )
  ]
  assert [len(videos) for videos in own] == [1, 1, 1, 0]


def test_crops_ask_only_what_they_show():
  source = make_source(max_length=12, own=2, absent=0)
  counts = []
  for index in range(80):
    example = source.item(index, seed=0)
    length = example.mask.sum()
    counts.append(len(example.moments))
    for moments in example.moments:
      assert len(moments.segments) == len(source.queries[moments.index].windows)
      assert (moments.segments >= -0.5).all()
      assert (moments.segments <= length - 0.5).all()
      assert (moments.segments[:, 0] < moments.segments[:, 1]).all()
      first = example.features[0, 0]  # the number of the window's first step
      query = source.queries[moments.index]
      whole = GRID.to_grid(np.array(query.windows)) - first
      cut = whole.clip(-0.5, length - 0.5)
      np.testing.assert_allclose(moments.segments, cut, atol=1e-5)
  assert max(counts) == 2 and np.mean(counts) > 1


def test_training_is_a_function_of_seed_and_step():
  source = make_source(crop_probability=0.5, min_crop_share=0.5)
  runs = []
  for threads, start in ((0, 0), (2, 2)):
    with training_batches(
      source, batch_size=3, seed=1, num_threads=threads, start_step=start
    ) as batches:
      runs.append([next(batches) for _ in range(4 - start)])
  for a, b in zip(runs[0][2:], runs[1], strict=True):
    for x, y in zip(a, b, strict=True):
      np.testing.assert_array_equal(x, y)


def test_what_is_missing_is_named():
  split = make_split()
  features = make_features(["v1"])
  keywords = {
    "options": SequenceOptions(max_length=24),
    "queries_per_video": 2,
    "absent_per_video": 0,
  }
  source = GroundingSource(
    split, features, vectors=make_vectors(split), **keywords
  )
  assert len(source) == 1
  with pytest.raises(FeatureError, match="none of 12 queries has features"):
    GroundingSource(split, {}, vectors=make_vectors(split), **keywords)
  short = queries.QueryVectors(*(x[:5] for x in make_vectors(split)))
  with pytest.raises(FeatureError, match="7 queries have no token vectors"):
    text_rows(split.queries, short)
