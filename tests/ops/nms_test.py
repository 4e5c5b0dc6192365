import jax
import numpy as np
import pytest

from clap_jax.ops import nms
from clap_jax.types import Detections

SOFT = {"sigma": 0.5, "min_score": 0.01, "class_wise": True}


def random_candidates(seed, n=40, num_classes=3):
  rng = np.random.default_rng(seed)
  start = rng.uniform(0, 30, n)
  segments = np.stack([start, start + rng.uniform(1, 15, n)], axis=-1)
  return Detections(
    segments=segments.astype(np.float32),
    scores=rng.uniform(0, 1, n).astype(np.float32),
    labels=rng.integers(0, num_classes, n).astype(np.int32),
    mask=rng.random(n) < 0.9,
  )


def overlap(a, b):
  common = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
  union = (a[1] - a[0]) + (b[1] - b[0]) - common
  return common / union if union > 0 else 0.0


def reference(candidates, rescale, min_score, num_kept):
  """Each class by itself with plain loops, then merged by score."""
  found = []
  for label in set(candidates.labels.tolist()):
    pool = [
      [float(s), tuple(map(float, x))]
      for x, s, y, m in zip(*candidates, strict=True)
      if m and y == label
    ]
    while pool:
      best = max(pool, key=lambda item: item[0])
      pool.remove(best)
      if best[0] < min_score:
        break
      found.append((*best, label))
      for item in pool:
        item[0] = rescale(item[0], overlap(best[1], item[1]))
  return sorted(found, key=lambda item: -item[0])[:num_kept]


def check(kept, expected):
  count = int(np.sum(kept.mask))
  assert count == len(expected)
  assert np.all(kept.mask[:count])
  scores, segments, labels = zip(*expected, strict=True)
  np.testing.assert_allclose(kept.scores[:count], scores, rtol=2e-5)
  np.testing.assert_allclose(kept.segments[:count], segments, rtol=1e-6)
  np.testing.assert_array_equal(kept.labels[:count], labels)
  for field in kept:
    assert not np.any(field[count:])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_kept", [10, 60])
def test_class_wise_suppression_equals_separate_classes(seed, num_kept):
  candidates = random_candidates(seed)
  soft = reference(
    candidates, lambda s, o: s * np.exp(-(o**2) / 0.5), 0.01, num_kept
  )
  check(nms.soft_nms(candidates, num_kept=num_kept, **SOFT), soft)


def test_class_agnostic_suppression_ignores_labels():
  candidates = random_candidates(5)
  one_class = candidates._replace(labels=np.zeros_like(candidates.labels))
  expected = nms.soft_nms(one_class, num_kept=20, **SOFT)
  got = nms.soft_nms(candidates, num_kept=20, **{**SOFT, "class_wise": False})
  np.testing.assert_array_equal(got.scores, expected.scores)
  np.testing.assert_array_equal(got.segments, expected.segments)


def test_scores_fall():
  candidates = random_candidates(7)
  kept = nms.soft_nms(candidates, num_kept=40, **SOFT)
  assert np.all(np.diff(kept.scores) <= 0)


def test_order_of_input_does_not_matter_and_vmap_agrees():
  batch = [random_candidates(seed) for seed in (1, 2)]
  order = np.random.default_rng(0).permutation(40)
  stacked = jax.tree.map(lambda *x: np.stack(x), *batch)
  many = jax.jit(jax.vmap(lambda c: nms.soft_nms(c, num_kept=30, **SOFT)))
  got = many(stacked)
  shuffled = many(jax.tree.map(lambda x: x[:, order], stacked))
  for i, one in enumerate(batch):
    single = nms.soft_nms(one, num_kept=30, **SOFT)
    for a, b, c in zip(got, shuffled, single, strict=True):
      np.testing.assert_allclose(a[i], c, rtol=1e-5)
      np.testing.assert_allclose(b[i], c, rtol=1e-5)


def test_ties_go_to_the_first_and_nothing_yields_nothing():
  candidates = Detections(
    segments=np.float32([[0, 4], [1, 5], [20, 21]]),
    scores=np.float32([0.5, 0.5, 0.5]),
    labels=np.int32([0, 0, 0]),
    mask=np.array([True, True, True]),
  )
  kept = nms.soft_nms(candidates, num_kept=4, **SOFT)
  np.testing.assert_array_equal(kept.segments[:3], [[0, 4], [20, 21], [1, 5]])
  nothing = candidates._replace(mask=np.zeros(3, bool))
  for field in nms.soft_nms(nothing, num_kept=4, **SOFT):
    assert not np.any(field)


def test_best_candidates_sorts_and_pads():
  candidates = random_candidates(3, n=5)
  kept = nms.best_candidates(candidates, num_kept=8, min_score=0.0)
  expected = np.sort(candidates.scores[candidates.mask])[::-1]
  np.testing.assert_array_equal(kept.scores[: len(expected)], expected)
  assert not np.any(kept.mask[len(expected) :])


def test_voting_equals_the_weighted_mean():
  candidates = random_candidates(4)
  kept = nms.soft_nms(candidates, num_kept=6, **SOFT)
  got = nms.vote(kept, candidates, iou_threshold=0.5, class_wise=True)
  for k in range(6):
    segment, label = np.asarray(kept.segments[k]), int(kept.labels[k])
    weight, total = 0.0, np.zeros(2)
    for x, s, y, m in zip(*candidates, strict=True):
      o = overlap(segment, x)
      if m and y == label and o >= 0.5:
        weight += o * s
        total += o * s * x
    np.testing.assert_allclose(got.segments[k], total / weight, rtol=1e-5)
  apart = kept._replace(segments=kept.segments + 1000)
  same = nms.vote(apart, candidates, iou_threshold=0.5, class_wise=True)
  np.testing.assert_array_equal(same.segments, apart.segments)
