"""Reference values of public ActionFormer, and the parameters made of them.

`tests/fixtures/actionformer_anet_short.npz` has the weights of the stem, of the
first coarser block and of the heads, outputs of the two levels that depend on
these alone, and predictions of all levels with candidates and losses. The full
values lie beside the repository, see `shared_data`.
"""

import dataclasses
import pathlib
import re
from typing import Any

import jax
import numpy as np

from clap_jax import types
from clap_jax.interchange import actionformer as names
from clap_jax.interchange import actionformer_config, rules
from clap_jax.models import actionformer
from clap_jax.models import actionformer_config as model_config
from clap_jax.ops import points as point_ops
from clap_jax.training import paths

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
_WEIGHTS = "weights/"


@dataclasses.dataclass(frozen=True)
class Published:
  """One public model with its reference values.

  Attributes:
    values: its configuration, completed.
    tensors: its weights by their public names.
    expected: reference values by name.
    num_levels: levels whose outputs the weights decide.
  """

  values: dict[str, Any]
  tensors: dict[str, np.ndarray]
  expected: dict[str, np.ndarray]
  num_levels: int

  @property
  def model(self) -> actionformer.ActionFormer:
    return actionformer.ActionFormer(
      actionformer_config.model_config(self.values),
      actionformer_config.num_classes(self.values),
      actionformer_config.max_length(self.values),
    )

  def params(self) -> dict[str, Any]:
    """The parameters here that the weights become."""
    model = self.model
    shapes = jax.eval_shape(
      model.init,
      jax.random.key(0),
      np.zeros((1, model.max_length, self.width), np.float32),
      np.ones((1, model.max_length), bool),
    )
    conversion = rules.convert(
      self.tensors,
      rules=names.RULES,
      expected=paths.flatten({"params": shapes["params"]}),
      context=rules.Context(self.tensors),
    )
    return paths.nest(conversion.weights)

  @property
  def width(self) -> int:
    return actionformer_config.input_width(self.values)

  def inputs(self) -> tuple[np.ndarray, np.ndarray]:
    """Features (1, t, d), padded as in inference, and their mask."""
    features = self.expected["features"]
    length = model_config.padded_length(
      len(features), self.model.config, max_length=self.model.max_length
    )
    padded = np.zeros((1, length, features.shape[1]), np.float32)
    padded[0, : len(features)] = features
    return padded, (np.arange(length) < len(features))[None]

  def predictions(self) -> point_ops.PointPredictions:
    """The reference predictions of all levels."""
    ranges = self.model.config.ranges
    _, mask = self.inputs()
    levels = range(len(ranges))

    def joined(name, factor=lambda level: 1):
      parts = [self.expected[f"{name}_{i}"] * factor(i) for i in levels]
      return np.concatenate(parts)[None].astype(np.float32)

    return point_ops.PointPredictions(
      class_logits=joined("class_logits"),
      offsets=joined("offsets", lambda level: 2**level),
      points=point_ops.points_in_ranges(mask.shape[1], ranges),
      point_mask=np.concatenate([mask[0, :: 2**i] for i in levels])[None],
    )

  def batch(self) -> types.LocalizationBatch:
    """The segments that the reference losses are of."""
    features, mask = self.inputs()
    return types.LocalizationBatch(
      features=features,
      mask=mask,
      segments=self.expected["gt_segments"][None],
      labels=self.expected["gt_labels"][None].astype(np.int32),
      segment_mask=np.ones((1, len(self.expected["gt_labels"])), bool),
      video_index=np.zeros(1, np.int32),
    )


def small() -> Published:
  """The copy of the repository, with other weights in the coarser blocks."""
  with np.load(FIXTURES / "actionformer_anet_short.npz") as archive:
    arrays = dict(archive)
  tensors = {
    name.removeprefix(_WEIGHTS): array
    for name, array in arrays.items()
    if name.startswith(_WEIGHTS)
  }
  for name in [n for n in tensors if n.startswith("backbone.branch.0.")]:
    for level in range(1, 5):
      tensors[name.replace("branch.0.", f"branch.{level}.")] = tensors[name]
  return Published(
    actionformer_config.read(FIXTURES / "actionformer_anet_short.yaml"),
    tensors,
    {n: a for n, a in arrays.items() if not n.startswith(_WEIGHTS)},
    num_levels=2,
  )


def is_known(key: str) -> bool:
  """Whether the source has a rule for a key."""
  return any(re.fullmatch(rule.pattern, key) for rule in names.RULES)
