"""Episodes as arrays: nothing hidden is seen, nothing of the query is told."""

import dataclasses

import numpy as np
import pytest

from clap_jax.data import episode_batches, episodes
from clap_jax.data.class_texts import ClassTexts
from clap_jax.data.features import FeatureGrid, VideoFeatures
from tests.data.built_dataset import LABEL_NAMES
from tests.data.clips_test import make_info

GRID = FeatureGrid(start_sec=0.0, stride_sec=0.5, clip_sec=2.0)
WIDTH, MAX_LENGTH = 6, 24


def make_texts() -> ClassTexts:
  rng = np.random.default_rng(1)
  vectors = rng.normal(size=(4, 5)).astype(np.float32)
  vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
  # In another order than the dataset's: columns go by name.
  return ClassTexts(
    tuple(reversed(LABEL_NAMES)),
    vectors[:3],
    vectors[3],
    rng.normal(size=(WIDTH, 5)).astype(np.float32),
    10.0,
  )


def make_videos(infos=None, **options) -> episode_batches.EpisodeVideos:
  infos = infos or [make_info(index) for index in range(6)]
  features = {
    info.id: VideoFeatures(
      np.random.default_rng(info.index)
      .normal(size=(GRID.num_features(info.duration_sec), WIDTH))
      .astype(np.float32),
      GRID,
    )
    for info in infos
  }
  return episode_batches.EpisodeVideos(
    infos,
    features,
    label_names=LABEL_NAMES,
    max_length=MAX_LENGTH,
    texts=make_texts(),
    **options,
  )


def make_sampler(videos, classes=LABEL_NAMES, ways=2):
  return episodes.EpisodeSampler(
    videos.counts(), classes, episodes.EpisodeOptions(ways=ways, shots=2)
  )


def evaluation_batch(videos, run):
  source = episode_batches.EvaluationEpisodes(videos, run)
  rows = [source[i] for i in range(len(source))]
  return source.collate(rows, batch_size=len(rows) + 1)


def test_what_is_predicted_cannot_depend_on_the_labels_of_the_query():
  """Other labels on the queries, the same episodes: the same arrays."""
  infos = [make_info(index) for index in range(6)]
  run = [e for e in make_sampler(make_videos(infos)).run(0)][:1]
  (query,) = (info for info in infos if info.id == run[0].query)
  changed = dataclasses.replace(
    query,
    labels=(query.labels + 1) % 3,
    segments=query.segments + np.float32(0.7),
  )
  others = [changed if info is query else info for info in infos]
  batch = evaluation_batch(make_videos(infos), run)
  again = evaluation_batch(make_videos(others), run)
  assert batch.segments.shape[1] == batch.labels.shape[1] == 0
  for name, array in batch._asdict().items():
    np.testing.assert_array_equal(array, getattr(again, name), err_msg=name)


def test_hidden_classes_are_masked_in_query_and_support():
  hidden = ("spins",)
  infos = [make_info(index) for index in range(6)]
  videos = make_videos(infos, hidden_names=hidden)
  sampler = make_sampler(videos, classes=("slides", "fades"))
  source = episode_batches.TrainingEpisodes(videos, sampler)
  info_of = {info.id: info for info in infos}
  num_masked = 0
  for index in range(12):
    episode = sampler.episode(index, seed=0)
    row = source.collate([source.item(index, seed=0)], batch_size=1)
    seen = [(episode.query, row.query_mask[0])]
    for way, ids in enumerate(episode.support):
      seen += zip(ids, row.support_mask[0, way], strict=True)
    for video_id, mask in seen:
      info = info_of[video_id]
      for step in range(GRID.num_features(info.duration_sec)):
        start = step * 0.5
        overlaps = any(
          start < end and start + 2.0 > begin
          for (begin, end), label in zip(
            info.segments, info.labels, strict=True
          )
          if LABEL_NAMES[label] in hidden
        )
        assert mask[step] == (not overlaps)
        num_masked += overlaps
  assert num_masked


def test_a_segment_that_hides_behind_another_is_not_an_example():
  info = make_info(
    segments=np.float32([(2.0, 6.0), (3.5, 4.5)]), labels=np.int32([1, 0])
  )
  assert make_videos([info]).counts()["v0"] == {
    "slides": 1,
    "spins": 1,
    "fades": 0,
  }
  videos = make_videos([info], hidden_names=("spins",))
  assert videos.counts()["v0"] == {"slides": 0, "fades": 0}


def test_training_batches_hold_the_segments_of_the_ways():
  videos = make_videos()
  sampler = make_sampler(videos)
  source = episode_batches.TrainingEpisodes(videos, sampler)
  batch = source.collate(
    [source.item(i, seed=0) for i in range(3)], batch_size=4
  )
  info_of = {info.id: info for info in videos.examples}
  for row in range(3):
    episode = sampler.episode(row, seed=0)
    info = info_of[episode.query]
    expected = {
      (round(float(start), 4), round(float(end), 4), LABEL_NAMES[label])
      for (start, end), label in zip(info.segments, info.labels, strict=True)
      if LABEL_NAMES[label] in episode.classes
    }
    keep = batch.segment_mask[row]
    found = {
      (round(float(start), 4), round(float(end), 4), episode.classes[label])
      for (start, end), label in zip(
        GRID.to_seconds(batch.segments[row][keep]),
        batch.labels[row][keep],
        strict=True,
      )
    }
    assert found == expected
  assert batch.episode_index.tolist() == [0, 1, 2, -1]


def test_support_is_marked_where_its_own_class_acts():
  videos = make_videos()
  episode = episodes.Episode("v0", ("fades", "slides"), (("v1",), ("v2",)))
  batch = evaluation_batch(videos, [episode])
  for way, (video_id, name) in enumerate([("v1", "fades"), ("v2", "slides")]):
    (info,) = (i for i in videos.examples if i.id == video_id)
    middle_sec = GRID.to_seconds(np.arange(MAX_LENGTH))
    (segment,) = info.segments[info.labels == LABEL_NAMES.index(name)]
    np.testing.assert_array_equal(
      batch.support_action[0, way, 0],
      (middle_sec >= segment[0]) & (middle_sec < segment[1]),
    )
  texts = make_texts()
  length = GRID.num_features(12.0)
  cosines = texts.similarities(batch.query[0, :length])
  columns = [texts.names.index("fades"), texts.names.index("slides"), 3]
  np.testing.assert_allclose(
    batch.query_text[0, :length], cosines[:, columns], atol=1e-6
  )


def test_a_segment_between_two_features_takes_the_nearest():
  mask = np.ones(6, bool)
  short = np.array([[2.2, 2.4]])
  found = episode_batches.action_mask(short, mask)
  assert np.flatnonzero(found).tolist() == [2]
  beyond = np.array([[8.0, 9.0]])
  assert episode_batches.action_mask(beyond, mask).tolist()[-1]
  mask[2] = False
  assert not episode_batches.action_mask(short, mask).any()


def test_videos_longer_than_max_length_are_refused():
  info = make_info(duration_sec=40.0)
  with pytest.raises(ValueError, match="raise max_length"):
    make_videos([info])
