"""The space of features and class names: means, regression, choice."""

import types

import numpy as np
import pytest

from clap_jax.data import features
from clap_jax.evaluation import zero_shot_classifier
from clap_jax.metrics import detection, protocols, tables

GRID = features.FeatureGrid(start_sec=0.0, stride_sec=1.0, clip_sec=2.0)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def segments_of(texts, kernel, *, classes, per_class, seed=0, noise=0.1):
  """Features whose image under `kernel`'s pseudo-inverse is the class text."""
  rng = np.random.default_rng(seed)
  labels = np.repeat(classes, per_class)
  clean = texts[labels] @ np.linalg.pinv(kernel)
  drawn = rng.normal(0, noise * clean.std(), clean.shape)
  return zero_shot_classifier.Segments(clean + drawn, labels)


@pytest.fixture(scope="module")
def world():
  rng = np.random.default_rng(1)
  return unit(rng.normal(size=(12, 6))), rng.normal(size=(16, 6))


def test_means_equal_the_loop():
  rng = np.random.default_rng(0)
  sequence = rng.normal(size=(9, 4)).astype(np.float32)
  segments = np.array(
    [[0.2, 3.9], [-4, 20], [5.4, 5.7], [7.0, 8.0], [2.6, 2.9]]
  )
  steps = [range(1, 4), range(9), [6], [7, 8], [3]]
  got = zero_shot_classifier.mean_features(sequence, segments)
  for row, inside in enumerate(steps):
    np.testing.assert_allclose(
      got[row], np.mean([sequence[i] for i in inside], axis=0), rtol=1e-5
    )


def test_segments_of_videos_with_features():
  infos = [
    types.SimpleNamespace(
      id=name, segments=np.array(spans).reshape(-1, 2), labels=np.array(labels)
    )
    for name, spans, labels in (
      ("a", [[1.0, 4.0], [0.0, 2.0]], [3, 1]),
      ("none", [[0.0, 9.0]], [2]),
      ("b", [], []),
    )
  ]
  video = features.VideoFeatures(np.arange(12.0).reshape(6, 2), GRID)
  found = zero_shot_classifier.collect(infos, {"a": video, "b": video})
  assert found.labels.tolist() == [3, 1]
  spans = GRID.to_grid(infos[0].segments)
  np.testing.assert_allclose(
    found.features, zero_shot_classifier.mean_features(video.features, spans)
  )
  with pytest.raises(ValueError, match="no video has both"):
    zero_shot_classifier.collect(infos[1:], {"b": video})


def test_a_linear_relation_reaches_unseen_classes(world):
  texts, kernel = world
  seen, unseen = range(9), range(9, 12)
  training = segments_of(texts, kernel, classes=seen, per_class=20)
  space = zero_shot_classifier.fit(training, texts, classes=seen, ridge=1e-4)
  found = segments_of(texts, kernel, classes=unseen, per_class=10, seed=2)
  share = space.probabilities(
    found.features, texts[9:], seen_mask=np.zeros(3, bool)
  )
  np.testing.assert_allclose(share.sum(axis=1), 1.0)
  assert (share.argmax(axis=1) + 9 == found.labels).mean() > 0.9
  with pytest.raises(ValueError, match="no labelled segment of a seen class"):
    zero_shot_classifier.fit(found, texts, classes=seen, ridge=1.0)


@pytest.mark.parametrize("top_classes", [0, 2])
def test_precision_is_that_of_the_evaluator(top_classes):
  """Each segment a video of its own, found exactly."""
  rng = np.random.default_rng(3)
  share, labels = rng.dirichlet(np.ones(5), 40), rng.integers(0, 5, 40)
  seen_mask = np.array([True, False, True, True, False])
  got = zero_shot_classifier.balanced_precision(
    share, labels, seen_mask=seen_mask, top_classes=top_classes
  )
  kept = zero_shot_classifier.best_classes(share, top_classes)
  rows = [(i, c) for i in range(40) for c in kept[i]]
  table = tables.DetectionTable.from_columns(
    video=[str(i) for i, _ in rows],
    start_sec=[0.0] * len(rows),
    end_sec=[1.0] * len(rows),
    label=[str(c) for _, c in rows],
    score=[share[i, c] for i, c in rows],
  )
  means = []
  for mask in (seen_mask, ~seen_mask):
    chosen = np.flatnonzero(mask[labels])
    truth = tables.SegmentTable.from_columns(
      video=[str(i) for i in chosen],
      start_sec=[0.0] * len(chosen),
      end_sec=[1.0] * len(chosen),
      label=[str(labels[i]) for i in chosen],
    )
    protocol = protocols.PROTOCOLS["motion_sprites"]
    means.append(detection.evaluate(table, truth, protocol)["average_map"])
  assert got == pytest.approx(2 * means[0] * means[1] / sum(means), abs=1e-12)


def test_seen_classes_are_held_back_where_that_helps(world):
  texts, kernel = world
  halves = [
    segments_of(texts, kernel, classes=range(9), per_class=8, seed=s, noise=3.0)
    for s in (4, 5)
  ]
  folds = zero_shot_classifier.folds_of(*halves, seen=range(9))
  assert sorted(c for fold in folds for c in fold.unseen) == list(range(9))
  assert all(
    set(fold.seen) | set(fold.unseen) == set(range(9)) for fold in folds
  )
  chosen = zero_shot_classifier.choose(folds, texts, top_classes=1)
  assert chosen.seen_penalty > 0  # without it one label is a seen class's
  with pytest.raises(ValueError, match="cannot be balanced"):
    zero_shot_classifier.choose(
      [folds[0]._replace(val=halves[1].of(folds[0].seen))],
      texts,
      top_classes=0,
    )


def test_it_is_read_as_it_was_written(tmp_path, world):
  texts, kernel = world
  training = segments_of(texts, kernel, classes=range(9), per_class=4)
  space = zero_shot_classifier.fit(training, texts, classes=range(9), ridge=0.1)
  space = space._replace(scale=20.0, seen_penalty=0.3)
  zero_shot_classifier.save(tmp_path / "space.npz", space)
  for one, other in zip(
    zero_shot_classifier.load(tmp_path / "space.npz"), space, strict=True
  ):
    np.testing.assert_array_equal(one, other)
