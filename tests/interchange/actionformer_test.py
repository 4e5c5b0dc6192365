"""Public ActionFormer's predictions, candidates and losses, to the number."""

import jax
import numpy as np
import pytest

from clap_jax.interchange import actionformer_config, torch_file, wrappers
from clap_jax.losses import localization as losses
from clap_jax.models import actionformer_decoding
from tests.interchange import published_heads

FULL = ("thumos_small", "anet_short")


def full(name, shared_data) -> published_heads.Published:
  folder = shared_data / "published_heads"
  if not folder.is_dir():
    pytest.skip(f"no reference values: {folder} is missing")
  values = actionformer_config.read(folder / f"{name}.yaml")
  unwrapped = wrappers.unwrap(
    torch_file.read(folder / f"{name}.pth.tar"),
    is_known=published_heads.is_known,
    weights=wrappers.EMA,
  )
  with np.load(folder / f"{name}.npz") as archive:
    expected = dict(archive)
  num_levels = values["model"]["backbone_arch"][2] + 1
  return published_heads.Published(
    values, unwrapped.tensors, expected, num_levels
  )


@pytest.fixture(scope="module", params=["repository", *FULL])
def published(request):
  if request.param == "repository":
    return published_heads.small()
  return full(request.param, request.getfixturevalue("shared_data"))


def test_levels(published):
  model = published.model
  predictions, state = jax.jit(
    lambda params, *inputs: model.apply(params, *inputs, mutable=["levels"])
  )(published.params(), *published.inputs())
  level_of = np.asarray(predictions.points.level)
  for level in range(published.num_levels):
    is_own = level_of == level
    for name, found in (
      ("backbone", state["levels"][f"level_{level}"][0]),
      ("class_logits", predictions.class_logits[:, is_own]),
      ("offsets", predictions.offsets[:, is_own] / 2**level),
    ):
      expected = published.expected.get(f"{name}_{level}")
      if expected is not None:
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-4)
    if f"mask_{level}" in published.expected:
      np.testing.assert_array_equal(
        predictions.point_mask[0, is_own], published.expected[f"mask_{level}"]
      )


def in_order(segments, scores, labels):
  """Rows sorted in a way that rounding does not change."""
  order = np.lexsort((labels, *np.round(segments.T, 2)))
  return segments[order], scores[order], labels[order]


def test_candidates(published):
  found = actionformer_decoding.candidates(
    published.predictions(),
    num_levels=len(published.model.config.windows),
    config=actionformer_config.decode_config(published.values),
  )
  keep = np.asarray(found.mask[0])
  fields = (found.segments, found.scores, found.labels)
  segments, scores, labels = in_order(
    *(np.asarray(field[0])[keep] for field in fields)
  )
  expected = in_order(
    *(published.expected[name] for name in ("segments", "scores", "labels"))
  )
  np.testing.assert_allclose(segments, expected[0], rtol=0, atol=1e-4)
  np.testing.assert_allclose(scores, expected[1], rtol=0, atol=1e-4)
  np.testing.assert_array_equal(labels, expected[2])


def test_training_losses(published):
  config = actionformer_config.loss_config(published.values)
  loss, parts, normalizer = losses.normalized_loss(
    published.predictions(),
    published.batch(),
    normalizer=np.float32(config.normalizer_start),
    config=config,
  )
  for found, name in (
    (loss, "train_final_loss"),
    (parts["class"], "train_cls_loss"),
    (parts["offset"], "train_reg_loss"),
    (normalizer, "loss_normalizer_after"),
  ):
    np.testing.assert_allclose(
      found, published.expected[name], rtol=0, atol=1e-5
    )
