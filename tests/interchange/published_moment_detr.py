"""Reference values of public Moment-DETR, and the parameters made of them.

`tests/fixtures/moment_detr_small.npz` has the inputs, outputs and losses of the
public program, and the weights of the projections, the encoder and the
highlight scores; "logits_0" and "spans_0" are the outputs of the first decoder
layer here, which the losses "loss/..._0" of the public program are of. The full
weights lie beside the repository, see `shared_data`.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from clap_jax.interchange import moment_detr as names
from clap_jax.interchange import moment_detr_options as options_lib
from clap_jax.interchange import rules
from clap_jax.models import moment_detr
from clap_jax.trainers import grounding, registry
from clap_jax.training import paths
from tests.interchange import published_heads

OPTIONS = published_heads.FIXTURES / "moment_detr_small.json"
ARRAYS = published_heads.FIXTURES / "moment_detr_small.npz"
# What the reference losses are of: centers and widths, and pairs of steps.
WINDOWS = np.array([[[0.3, 0.2], [0.7, 0.1]], [[0.5, 0.4], [0, 0]]], np.float32)
WINDOW_MASK = np.array([[True, True], [True, False]])
POSITIVES = np.array([[10, 12], [14, 15]])
VIDEO_WIDTH = 22
NEGATIVES = np.array([[1, 2], [3, 28]])


@dataclasses.dataclass(frozen=True)
class Published:
  """One public model: weights by public names, reference values by name."""

  config: grounding.GroundingConfig
  tensors: dict[str, np.ndarray]
  expected: dict[str, np.ndarray]
  has_decoder: bool

  @property
  def model(self) -> moment_detr.MomentDetr:
    return moment_detr.MomentDetr(self.config.detr)

  def inputs(self) -> tuple[np.ndarray, ...]:
    """Returns features, mask, token vectors and their mask."""
    values = (
      self.expected[name]
      for name in ("video", "video_mask", "text", "text_mask")
    )
    video, video_mask, text, text_mask = values
    return video, video_mask > 0, text, text_mask > 0

  def params(self) -> dict[str, Any]:
    """The parameters that the weights become; zeros without weights."""
    shapes = paths.flatten(
      jax.eval_shape(self.model.init, jax.random.key(0), *self.inputs())
    )
    known = {
      name: leaf
      for name, leaf in shapes.items()
      if self.has_decoder
      or name.split("/")[1].startswith(
        ("encoder", "video_projection", "text_projection", "saliency")
      )
    }
    conversion = rules.convert(
      self.tensors,
      rules=names.rules_of(self.config.detr),
      expected=known,
      context=rules.Context(self.tensors),
    )
    zeros = {
      name: np.zeros(leaf.shape, np.float32) for name, leaf in shapes.items()
    }
    return paths.nest(zeros | conversion.weights)


def config_of(path) -> grounding.GroundingConfig:
  options = options_lib.read(path)
  return registry.resolve(options_lib.run_config(options, VIDEO_WIDTH))


def small() -> Published:
  """The copy of the repository, without the decoder's weights."""
  with np.load(ARRAYS) as archive:
    arrays = dict(archive)
  shapes = arrays.pop("weight_shapes")
  weights, tensors, start = arrays.pop("weights"), {}, 0
  for name, shape in zip(arrays.pop("weight_names"), shapes, strict=True):
    shape = [size for size in shape if size]  # noqa: PLW2901
    stop = start + int(np.prod(shape))
    tensors[str(name)] = weights[start:stop].reshape(shape)
    start = stop
  return Published(config_of(OPTIONS), tensors, arrays, has_decoder=False)


def public_tensors(published: Published) -> dict[str, np.ndarray]:
  """All weights under the public names; those of the decoder are drawn."""
  rng = np.random.default_rng(0)
  width, mlp, moments = 32, 64, 10

  def drawn(*shape):
    return rng.normal(0, 0.2, shape).astype(np.float32)

  found = dict(published.tensors)
  for layer in range(2):
    name = f"transformer.decoder.layers.{layer}"
    for part in ("self_attn", "multihead_attn"):
      found |= {
        f"{name}.{part}.in_proj_weight": drawn(3 * width, width),
        f"{name}.{part}.in_proj_bias": drawn(3 * width),
        f"{name}.{part}.out_proj.weight": drawn(width, width),
        f"{name}.{part}.out_proj.bias": drawn(width),
      }
    found |= {
      f"{name}.linear1.weight": drawn(mlp, width),
      f"{name}.linear1.bias": drawn(mlp),
      f"{name}.linear2.weight": drawn(width, mlp),
      f"{name}.linear2.bias": drawn(width),
    }
    for norm in (1, 2, 3):
      found[f"{name}.norm{norm}.weight"] = 1 + drawn(width)
      found[f"{name}.norm{norm}.bias"] = drawn(width)
  for place, (outputs, inputs) in {
    "span_embed.layers.0": (width, width),
    "span_embed.layers.1": (width, width),
    "span_embed.layers.2": (2, width),
    "class_embed": (2, width),
  }.items():
    found[f"{place}.weight"] = drawn(outputs, inputs)
    found[f"{place}.bias"] = drawn(outputs)
  return found | {
    "transformer.decoder.norm.weight": 1 + drawn(width),
    "transformer.decoder.norm.bias": drawn(width),
    "query_embed.weight": drawn(moments, width),
    "txt_position_embed.position_embeddings.weight": drawn(32, width),
    "txt_position_embed.LayerNorm.weight": 1 + drawn(width),
    "txt_position_embed.LayerNorm.bias": drawn(width),
  }
