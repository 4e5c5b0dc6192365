"""One loss, many ways: all agree with float64 loops, value and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from clap_jax.losses import contrastive, contrastive_sharded
from tests.losses import contrastive_oracle

BATCH, WIDTH, SCALE, BIAS = 32, 16, 100.0, -3.0
# Not a divisor of any device's share, so that tiles are padded.
TILE = 3
PLACES = [
  ("dense", 1),
  ("tiled", 1),
  *(
    (implementation, devices)
    for implementation in ("dense", "gathered", "tiled", "ring")
    for devices in (2, 4, 8)
  ),
]
# The default run compiles one preset everywhere and the others, and the sigmoid
# objective, where the code differs most; `-m slow` runs the rest.
TELLING = [("tiled", 1), ("gathered", 8), ("ring", 8)]
FAST = [
  *(("captions", "softmax", *place) for place in PLACES),
  *(("captions", "sigmoid", *place) for place in TELLING),
  *(
    (preset, "softmax", *place)
    for preset in contrastive.PRESETS
    for place in TELLING
    if preset != "captions"
  ),
]
SLOW = [
  (preset, objective, *place)
  for preset in contrastive.PRESETS
  for objective in contrastive.OBJECTIVES
  for place in PLACES
  if (preset, objective, *place) not in FAST
]


def make_mesh(devices, shape=None, names=("data",)):
  shape = shape or (devices,)
  return jax.make_mesh(
    shape,
    names,
    axis_types=(AxisType.Auto,) * len(shape),
    devices=jax.devices()[:devices],
  )


def gradient_function(mesh, *, axes=("data",), **options):
  """A jitted (video, text, scale, bias, pairs) -> ((loss, metrics), grads)."""

  def loss(video, text, scale, bias, pairs):
    return contrastive_sharded.contrastive_loss(
      video, text, pairs, scale, logit_bias=bias, **options
    )

  compiled = jax.jit(
    jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
  )

  def call(video, text, scale, bias, pairs):
    sharding = NamedSharding(mesh, PartitionSpec(axes))
    video, text, pairs = jax.device_put((video, text, pairs), sharding)
    with jax.set_mesh(mesh):
      return compiled(video, text, jnp.float32(scale), jnp.float32(bias), pairs)

  return call


@functools.cache
def example(uneven, seed=0, batch=BATCH):
  rng = np.random.default_rng(seed)
  embeddings = contrastive_oracle.random_embeddings(rng, batch, WIDTH)
  pairs = contrastive_oracle.random_pairs(rng, batch, uneven=uneven)
  return *embeddings, pairs


def assert_close(actual, expected, *, rtol=1e-5, atol=1e-12):
  """Relative to the largest entry of what is expected."""
  actual, expected = np.asarray(actual, np.float64), np.asarray(expected)
  assert np.all(np.isfinite(actual))
  size = np.max(np.abs(expected))
  assert np.max(np.abs(actual - expected)) <= rtol * size + atol


def assert_matches_oracle(result, expected, *, cancelling=False):
  """Everything within 1e-5, relative.

  In a batch of a few items the gradient of the scale may be a hundred times
  smaller than the terms it sums; `cancelling` allows 5e-7 of their mass.
  """
  (loss, _), gradients = result
  atol = 5e-7 * expected.mass if cancelling else 1e-12
  assert_close(loss, expected.loss)
  assert_close(gradients[0], expected.by_video)
  assert_close(gradients[1], expected.by_text)
  assert_close(gradients[2], expected.by_scale, atol=atol)
  assert_close(gradients[3], expected.by_bias, atol=atol)


def check_all_masks(preset, objective, implementation, devices):
  rules = contrastive.PRESETS[preset]
  function = gradient_function(
    make_mesh(devices),
    rules=rules,
    objective=objective,
    implementation=implementation,
    tile_size=TILE,
  )
  for uneven in (False, True):
    video, text, pairs = example(uneven)
    expected = contrastive_oracle.oracle(
      video,
      text,
      pairs,
      scale=SCALE,
      bias=BIAS,
      rules=rules,
      objective=objective,
    )
    result = function(video, text, SCALE, BIAS, pairs)
    assert_matches_oracle(result, expected)


@pytest.mark.parametrize(
  "case", FAST, ids=lambda case: "-".join(map(str, case))
)
def test_matches_float64_loops(case):
  check_all_masks(*case)


@pytest.mark.slow
@pytest.mark.parametrize(
  "case", SLOW, ids=lambda case: "-".join(map(str, case))
)
def test_matches_float64_loops_on_the_rest_of_the_product(case):
  check_all_masks(*case)


@pytest.mark.parametrize("implementation", ["gathered", "ring"])
def test_batch_over_two_axes_of_a_larger_mesh(implementation):
  mesh = make_mesh(8, (2, 2, 2), ("data", "fsdp", "tensor"))
  rules = contrastive.PRESETS["captions"]
  function = gradient_function(
    mesh,
    axes=("data", "fsdp"),
    rules=rules,
    implementation=implementation,
    tile_size=TILE,
  )
  video, text, pairs = example(True)
  expected = contrastive_oracle.oracle(
    video, text, pairs, scale=SCALE, bias=0.0, rules=rules, objective="softmax"
  )
  assert_matches_oracle(function(video, text, SCALE, 0.0, pairs), expected)


# One item per device; what it expects is stated, not taken from the oracle.
EDGE_BATCH = 8


def edge_oracle(video, text, pairs, scale=SCALE):
  return contrastive_oracle.oracle(
    video,
    text,
    pairs,
    scale=scale,
    bias=0.0,
    rules=contrastive.PRESETS["captions"],
    objective="softmax",
  )


@functools.cache
def edge_function(implementation, objective="softmax"):
  devices = 1 if implementation == "dense" else 8
  return gradient_function(
    make_mesh(devices),
    rules=contrastive.PRESETS["captions"],
    objective=objective,
    implementation=implementation,
    tile_size=TILE,
  )


EVERY_WAY = pytest.mark.parametrize(
  "implementation", ["dense", "gathered", "tiled", "ring"]
)


@EVERY_WAY
@pytest.mark.parametrize("objective", contrastive.OBJECTIVES)
def test_no_text_at_all_is_zero_without_gradient(implementation, objective):
  video, text, pairs = example(False, batch=EDGE_BATCH)
  pairs = pairs._replace(has_text=np.zeros(EDGE_BATCH, bool))
  (loss, metrics), gradients = edge_function(implementation, objective)(
    video, text, SCALE, BIAS, pairs
  )
  assert loss == 0
  assert all(np.all(np.asarray(leaf) == 0) for leaf in gradients)
  assert metrics["num_captions"] == 0
  assert metrics["num_valid"] == EDGE_BATCH


@EVERY_WAY
def test_rows_without_negatives_count_with_value_zero(implementation):
  """First all clips are of one class, so that no pair is left; then item 0 is
  background, so that its pairs with the others are the only ones."""
  video, text, pairs = example(False, batch=EDGE_BATCH)
  distinct = np.arange(EDGE_BATCH, dtype=np.int32)
  pairs = pairs._replace(
    text_id=distinct,
    video_id=distinct,
    class_id=np.zeros(EDGE_BATCH, np.int32),
    is_action=np.ones(EDGE_BATCH, bool),
  )
  function = edge_function(implementation)
  (loss, _), gradients = function(video, text, SCALE, 0.0, pairs)
  assert loss == 0
  assert all(np.all(np.asarray(leaf) == 0) for leaf in gradients)

  is_action = np.arange(EDGE_BATCH) > 0
  pairs = pairs._replace(is_action=is_action, valid=np.arange(EDGE_BATCH) < 5)
  expected = edge_oracle(video, text, pairs, scale=10.0)
  assert_matches_oracle(
    function(video, text, 10.0, 0.0, pairs), expected, cancelling=True
  )


@EVERY_WAY
def test_duplicate_items_share_one_gradient(implementation):
  video, text, pairs = example(False, batch=EDGE_BATCH)
  half = EDGE_BATCH // 2
  twice = functools.partial(np.tile, reps=2)
  pairs = type(pairs)(*(twice(leaf[:half]) for leaf in pairs))
  video, text = (np.tile(x[:half], (2, 1)) for x in (video, text))
  result = edge_function(implementation)(video, text, SCALE, 0.0, pairs)
  expected = edge_oracle(video, text, pairs)
  assert_matches_oracle(result, expected, cancelling=True)
  for gradient in result[1][:2]:
    assert_close(gradient[:half], np.asarray(gradient[half:]))


@EVERY_WAY
def test_everything_but_one_item_is_padding(implementation):
  video, text, pairs = example(False, batch=EDGE_BATCH)
  pairs = pairs._replace(valid=np.arange(EDGE_BATCH) == 3)
  (loss, metrics), gradients = edge_function(implementation)(
    video, text, SCALE, 0.0, pairs
  )
  assert loss == 0
  assert metrics["num_valid"] == 1
  assert all(np.all(np.asarray(leaf) == 0) for leaf in gradients)


@EVERY_WAY
def test_bfloat16_embeddings_accumulate_in_float32(implementation):
  """The error against the float64 loss of the same rounded inputs is that of
  float32, and the gradients come back in bfloat16."""
  video, text, pairs = example(True, batch=EDGE_BATCH)
  video, text = (jnp.asarray(x, jnp.bfloat16) for x in (video, text))
  (loss, _), gradients = edge_function(implementation)(
    video, text, SCALE, 0.0, pairs
  )
  expected = edge_oracle(
    np.asarray(video, np.float32), np.asarray(text, np.float32), pairs
  )
  assert loss.dtype == jnp.float32
  assert_close(loss, expected.loss)
  assert gradients[0].dtype == gradients[1].dtype == jnp.bfloat16
  assert_close(gradients[0], expected.by_video, rtol=2**-8)
  assert_close(gradients[1], expected.by_text, rtol=2**-8)
  atol = 5e-7 * expected.mass
  assert_close(gradients[2], expected.by_scale, atol=atol)


def test_opposed_embeddings_at_scale_100_neither_overflow_nor_vanish():
  """Logits of -100 for the positives and +100 for the negatives."""
  video = np.zeros((EDGE_BATCH, WIDTH), np.float32)
  video[:, 0] = np.where(np.arange(EDGE_BATCH) % 2, -1.0, 1.0)
  text = -video
  _, _, pairs = example(False, batch=EDGE_BATCH)
  distinct = np.arange(EDGE_BATCH, dtype=np.int32)
  pairs = pairs._replace(
    text_id=distinct, video_id=distinct, class_id=-1 * distinct - 1
  )
  for implementation in ("dense", "ring"):
    result = edge_function(implementation)(video, text, SCALE, 0.0, pairs)
    expected = edge_oracle(video, text, pairs)
    assert expected.loss > 200
    assert_matches_oracle(result, expected, cancelling=True)


def test_without_a_mesh_auto_runs_on_one_device():
  video, text, pairs = example(True)
  rules = contrastive.PRESETS["labels"]
  loss, metrics = jax.jit(
    lambda *arrays: contrastive_sharded.contrastive_loss(*arrays, rules=rules)
  )(video, text, pairs, SCALE)
  expected = contrastive_oracle.oracle(
    video, text, pairs, scale=SCALE, bias=0.0, rules=rules, objective="softmax"
  )
  assert_close(loss, expected.loss)
  assert_close(
    0.5 * (metrics["video_to_text"] + metrics["text_to_video"]), expected.loss
  )


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"objective": "hinge"}, "softmax, sigmoid"),
    ({"implementation": "magic"}, "auto, dense, gathered, tiled, ring"),
  ],
)
def test_bad_options_are_named(options, message):
  video, text, pairs = example(True)
  with pytest.raises(ValueError, match=message):
    contrastive_sharded.contrastive_loss(
      video, text, pairs, SCALE, rules=contrastive.PRESETS["labels"], **options
    )


def test_batch_that_does_not_divide_over_devices_is_refused():
  video, text, pairs = example(True, batch=12)
  with (
    jax.set_mesh(make_mesh(8)),
    pytest.raises(ValueError, match="multiple of the 8 devices"),
  ):
    contrastive_sharded.contrastive_loss(
      video, text, pairs, SCALE, rules=contrastive.PRESETS["labels"]
    )


@pytest.mark.parametrize(
  ("batch", "shards", "expected"),
  [
    (256, 1, "dense"),
    (256, 8, "gathered"),
    (8192, 1, "tiled"),
    (8192, 8, "tiled"),
    (65536, 256, "ring"),
  ],
)
def test_auto_chooses_by_size(batch, shards, expected):
  chosen = contrastive_sharded.resolve_implementation(
    "auto", batch=batch, width=512, shards=shards
  )
  assert chosen == expected
