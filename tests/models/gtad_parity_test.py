"""The sub-graph localizer against published descriptions of G-TAD and BMN."""

import dataclasses

import jax
import numpy as np
import pytest

from clap_jax.models import gtad, gtad_decoding
from tests.models import gtad_oracle

NUM_STEPS, CHANNELS = 7, 8


def make_config(name):
  if name == "bmn":
    graph = dataclasses.replace(
      make_config("gtad_thumos"), network="convolution", num_context_bins=0
    )
    return dataclasses.replace(graph, max_duration=7)
  kernel_size = {"gtad_anet": 1, "gtad_thumos": 3}[name]
  return gtad.GtadConfig(
    width=16,
    num_groups=4,
    max_duration=7 if kernel_size == 1 else 5,
    num_bins=4,
    num_context_bins=2,
    map_widths=(6, 5, 4),
    map_kernel_size=kernel_size,
    has_classes=False,
    prior_probability=0.5,
  )


@pytest.fixture(scope="module", params=["gtad_anet", "gtad_thumos", "bmn"])
def outputs(request):
  """(config, predictions of one video, the oracle's)."""
  config = make_config(request.param)
  model = gtad.GtadLocalizer(config, 1)
  rng = np.random.default_rng(1)
  features = rng.normal(size=(1, NUM_STEPS, CHANNELS)).astype(np.float32)
  mask = np.ones((1, NUM_STEPS), bool)
  shapes = jax.eval_shape(model.init, jax.random.key(0), features, mask)
  variables = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) * 0.4, shapes
  )
  found = jax.jit(
    lambda *inputs: model.apply(*inputs)._replace(proposals=None)
  )(variables, features, mask)
  weights = gtad_oracle.weights_of(variables["params"], config)
  forward = gtad_oracle.forward
  if config.network == "convolution":
    forward = gtad_oracle.bmn_forward
  expected = forward(features[0].T.astype(np.float64), weights, config)
  return config, found, expected


def proposals_of(config):
  return gtad.proposal_ops.all_proposals(
    NUM_STEPS, max_duration=config.max_duration
  )


def test_network(outputs):
  config, found, (starts, ends, scores) = outputs
  assert found.class_logits is None
  proposals = proposals_of(config)
  own = scores[:, proposals.duration - 1, proposals.start]
  for logits, expected in (
    (found.start_logits, starts),
    (found.end_logits, ends),
    (found.regression_logits, own[0]),
    (found.classification_logits, own[1]),
  ):
    np.testing.assert_allclose(
      gtad_oracle.sigmoid(np.asarray(logits[0], np.float64)),
      expected,
      atol=1e-4,
    )


@pytest.mark.parametrize(
  ("is_filtered", "max_steps", "decay_iou"),
  [
    (True, 0, (0.0, 0.0)),  # G-TAD on ActivityNet
    (False, 3, (0.0, 0.0)),  # and on THUMOS14
    (False, 0, (0.23, 0.89)),  # BMN; no IoU is at a threshold
  ],
)
def test_detections(outputs, is_filtered, max_steps, decay_iou):
  config, predictions, _ = outputs
  proposals = proposals_of(config)
  starts, ends, overlap, quality = (
    gtad_oracle.sigmoid(np.asarray(logits[0], np.float64))
    for logits in (
      predictions.start_logits,
      predictions.end_logits,
      predictions.regression_logits,
      predictions.classification_logits,
    )
  )
  scores = np.zeros((2, config.max_duration, NUM_STEPS))
  scores[:, proposals.duration - 1, proposals.start] = overlap, quality
  rows = gtad_oracle.proposals(
    starts,
    ends,
    scores,
    longest=config.max_duration,
    is_filtered=is_filtered,
    has_boundary_scores=any(decay_iou),
    max_steps=max_steps,
  )
  expected = gtad_oracle.soft_nms(
    rows, sigma=0.8, num_kept=6, decay_iou=decay_iou
  )
  found = gtad_decoding.decode(
    predictions._replace(proposals=proposals),
    config=gtad_decoding.GtadDecodeConfig(
      num_kept=6,
      num_candidates=1000,
      sigma=0.8,
      min_score=0.0,
      class_wise=False,
      boundary_filter=is_filtered,
      ends_at_next_step=True,
      max_steps=max_steps,
      boundary_scores=any(decay_iou),
      decay_iou=decay_iou,
    ),
  )
  kept = np.asarray(found.mask[0])
  assert kept.sum() == len(expected)
  np.testing.assert_allclose(
    (np.asarray(found.segments[0])[kept] + 0.5) / NUM_STEPS,
    [row[:2] for row in expected],
    atol=1e-5,
  )
  np.testing.assert_allclose(
    np.asarray(found.scores[0])[kept], [row[2] for row in expected], rtol=1e-4
  )
