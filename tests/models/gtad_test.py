"""The sub-graph localizer: masks, the fused first layer, decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax.models import gtad, gtad_decoding
from clap_jax.ops import proposals as proposal_ops

CONFIG = gtad.GtadConfig(
  width=8,
  num_groups=2,
  max_duration=6,
  num_bins=4,
  num_context_bins=2,
  map_widths=(6, 5, 4),
  map_kernel_size=3,
)
NUM_CLASSES, NUM_STEPS = 3, 10


@pytest.fixture(scope="module")
def trained():
  """(apply, params, features, mask); the second video has seven steps."""
  model = gtad.GtadLocalizer(CONFIG, NUM_CLASSES)
  features = np.random.default_rng(0).normal(size=(2, NUM_STEPS, 4))
  features = features.astype(np.float32)
  mask = np.ones((2, NUM_STEPS), bool)
  mask[1, 7:] = False
  params = jax.jit(model.init)(jax.random.key(0), features, mask)
  # Away from the start: its output weights are almost zero.
  params = jax.tree.map(lambda p: p * 3.0, params)
  apply = jax.jit(lambda p, x, m: model.apply(p, x, m)._replace(proposals=None))
  return apply, params, features, mask


def test_padding_changes_nothing(trained):
  apply, params, features, mask = trained
  before = apply(params, features, mask)
  spoiled = features.copy()
  spoiled[1, 7:] = 100.0
  after = apply(params, spoiled, mask)
  for name in ("start_logits", "end_logits", "class_logits"):
    np.testing.assert_allclose(
      getattr(after, name)[mask], getattr(before, name)[mask], atol=1e-5
    )
  inside = np.asarray(before.proposal_mask)
  assert inside[0].all() and inside[1].sum() == len(
    proposal_ops.all_proposals(7, max_duration=6).start
  )
  np.testing.assert_allclose(
    after.classification_logits[inside],
    before.classification_logits[inside],
    atol=1e-5,
  )


def test_every_parameter_matters(trained):
  apply, params, features, mask = trained

  def total(params):
    out = apply(params, features, mask)
    return sum(
      jnp.sum(jnp.sin(values))
      for values in (
        out.start_logits,
        out.end_logits,
        out.class_logits,
        out.regression_logits,
        out.classification_logits,
      )
    )

  gradient = jax.jit(jax.grad(total))(params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_the_first_map_layer_equals_reading_before_it():
  """W (K x) = K (W x): the layer is applied to the steps, then read."""
  head = gtad.MapHead(
    gtad.GtadConfig(
      width=8, num_groups=2, num_bins=4, num_context_bins=2, map_widths=(6, 2)
    )
  )
  proposals = proposal_ops.all_proposals(5, max_duration=5)
  rng = np.random.default_rng(0)
  x, context = rng.normal(size=(2, 1, 5, 8)).astype(np.float32)
  variables = head.init(
    jax.random.key(0), x, context, proposals, deterministic=True
  )
  values = head.apply(variables, x, context, proposals, deterministic=True)
  params = variables["params"]
  segments = proposal_ops.read_spans(proposals, share=0.5)
  hidden = np.array(params["read_bias"])[None].repeat(len(segments), 0)
  for name, source, bins in (("own", x, 4), ("context", context, 2)):
    weights = proposal_ops.align_weights(segments, num_steps=5, num_bins=bins)
    read = np.einsum("mbt,td->mbd", weights, source[0])
    kernel = np.asarray(params[f"read_{name}"]["kernel"]).reshape(8, bins, 6)
    hidden = hidden + np.einsum("mbd,dbf->mf", read, kernel)
  hidden = np.maximum(hidden, 0)
  for layer in ("map_1", "out"):
    hidden = hidden @ params[layer]["kernel"] + params[layer]["bias"]
    hidden = np.maximum(hidden, 0) if layer == "map_1" else hidden
  np.testing.assert_allclose(values[0], hidden, atol=1e-4)


def test_neighbours_are_the_nearest_valid_steps():
  x = jnp.array([[[0.0], [5.0], [0.5], [5.2], [0.1]]])
  mask = jnp.array([[True, True, True, True, False]])
  index = gtad.nearest_snippets(x, mask, count=2)
  np.testing.assert_array_equal(index[0, :4], [[0, 2], [1, 3], [2, 0], [3, 1]])
  gathered = gtad.gather_snippets(x, index)
  np.testing.assert_allclose(gathered[0, 0, :, 0], [0.0, 0.5])


def perfect(segment, label, num_steps=NUM_STEPS):
  """Predictions that know one action of steps segment[0] ... segment[1]."""
  proposals = proposal_ops.all_proposals(num_steps, max_duration=6)
  start, end = segment
  exact = (proposals.start == start) & (proposals.duration == end - start + 1)
  steps = np.arange(num_steps)
  inside = (steps >= start) & (steps <= end)
  classes = np.full((num_steps, NUM_CLASSES), -4.0)
  classes[inside, label] = 4.0

  def logits(where):
    return jnp.asarray(np.where(where, 4.0, -4.0))[None]

  return proposal_ops.ProposalPredictions(
    start_logits=logits(steps == start),
    end_logits=logits(steps == end),
    class_logits=jnp.asarray(classes)[None],
    regression_logits=logits(exact),
    classification_logits=logits(exact),
    proposals=proposals,
    proposal_mask=jnp.ones((1, len(proposals.start)), bool),
    mask=jnp.ones((1, num_steps), bool),
  )


@pytest.mark.parametrize("boundary_filter", [False, True])
def test_what_is_known_is_found(boundary_filter):
  config = gtad_decoding.GtadDecodeConfig(
    num_kept=5, num_candidates=30, boundary_filter=boundary_filter
  )
  found = gtad_decoding.decode(perfect((2, 5), 1), config=config)
  np.testing.assert_allclose(found.segments[0, 0], (1.5, 5.5))
  assert found.labels[0, 0] == 1 and found.mask[0, 0]
  assert found.scores[0, 0] == pytest.approx(1 / (1 + np.exp(-4.0)) ** 3)
  if not boundary_filter:
    return
  kept = np.asarray(found.segments[0])[np.asarray(found.mask[0])]
  # The video's own ends always count, beside the boundaries.
  assert set(kept[:, 0]) <= {1.5, -0.5} and set(kept[:, 1]) <= {5.5, 9.5}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"width": 10}, "multiple of 4"),
    ({"num_groups": 3}, "num_groups"),
    ({"map_widths": (8,)}, "two or more"),
    ({"num_bins": 0}, "num_bins"),
    ({"network": "pyramid"}, "network"),
    ({"network": "convolution"}, "num_context_bins"),
  ],
)
def test_wrong_sizes(changes, message):
  with pytest.raises(ValueError, match=message):
    gtad.GtadConfig(**changes)
