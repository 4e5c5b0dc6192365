"""The two independent overlaps of the package agree."""

import numpy as np

from clap_jax.metrics import overlap
from clap_jax.ops import segments


def test_metrics_and_ops_agree():
  rng = np.random.default_rng(0)
  first, second = np.sort(rng.uniform(0, 9, (2, 500, 2)), axis=-1)
  ours = overlap.iou(first, second, empty_pair=0.0)
  np.testing.assert_allclose(segments.iou(first, second), ours, atol=1e-5)
  np.testing.assert_allclose(overlap.hull_iou(first, second), ours, atol=1e-12)
  assert overlap.iou(first[0], first[0], empty_pair=0.0) == 1
  empty = np.array([2.0, 2.0])
  assert overlap.iou(empty, empty, empty_pair=np.inf) == np.inf
  assert overlap.hull_iou(empty, empty) == 0
