"""Defines the heads of the localization trainer behind one interface.

A head is a task (see training/task.py) with `detect`, made from config sections
in training and from its facts, plain JSON, in inference.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.data import feature_reader, feature_windows
from clap_jax.evaluation import localization as evaluation
from clap_jax.losses import localization as losses
from clap_jax.losses import proposals as proposal_losses
from clap_jax.metrics import protocols
from clap_jax.models import (
  actionformer,
  actionformer_config,
  actionformer_decoding,
  gtad,
  gtad_decoding,
  heads,
  localizer,
  pyramid,
)
from clap_jax.storage import metadata as metadata_lib
from clap_jax.trainers import imported_heads
from clap_jax.training import task as task_lib

ANY_ACTION = "action"  # the class of a head that does not tell them apart


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnyLocalizationConfig(config_lib.RunConfig):
  """Config sections common to all heads; subclasses add the rest."""

  data: feature_reader.FeatureData
  protocol: str = config_lib.choice(*protocols.PROTOCOLS)
  classifier: evaluation.ClassifierConfig = dataclasses.field(
    default_factory=evaluation.ClassifierConfig
  )

  def class_names(self, dataset_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the classes of the head, given those of the dataset."""
    return tuple(dataset_names)

  def starter(self, facts: dict, **options):
    """Returns a function applied to the initial state, or None.

    Args:
      facts: facts of the run's model.
      **options: see imported_heads.starter.
    """
    del facts, options


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalizationConfig(AnyLocalizationConfig):
  """Config of the anchor-free pyramid."""

  pyramid: pyramid.PyramidConfig
  head: heads.HeadConfig
  loss: losses.PointLossConfig
  decode: localizer.DecodeConfig
  localizer: str = config_lib.choice("points", default="points")

  def __post_init__(self):
    self.pyramid.check_heads({"pyramid.num_heads": self.pyramid.num_heads})


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubgraphConfig(AnyLocalizationConfig):
  """Config of the sub-graph localizer, similar to G-TAD."""

  graph: gtad.GtadConfig
  loss: proposal_losses.ProposalLossConfig
  decode: gtad_decoding.GtadDecodeConfig
  localizer: str = config_lib.choice("subgraph")

  def __post_init__(self):
    if any(self.decode.decay_iou) and self.data.length != "resize":
      raise ValueError(
        "decode.decay_iou is of lengths within a whole video and needs "
        f"data.length 'resize', got {self.data.length!r}."
      )

  def class_names(self, dataset_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the classes of the head, given those of the dataset."""
    if not self.graph.has_classes:
      return (ANY_ACTION,)
    return super().class_names(dataset_names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionFormerConfig(AnyLocalizationConfig):
  """Config of ActionFormer, compatible with its public checkpoints."""

  model: actionformer_config.ActionFormerConfig
  loss: losses.NormalizedLossConfig
  decode: actionformer_decoding.ActionFormerDecodeConfig
  localizer: str = config_lib.choice("actionformer")
  # One class for all segments; an external classifier labels detections.
  class_agnostic: bool = False
  start: imported_heads.HeadStart = dataclasses.field(
    default_factory=imported_heads.HeadStart
  )

  def __post_init__(self):
    actionformer_config.check_length(self.model, self.data.max_length)

  def class_names(self, dataset_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the classes of the head, given those of the dataset."""
    if self.class_agnostic:
      return (ANY_ACTION,)
    return super().class_names(dataset_names)

  def starter(self, facts: dict, **options):
    """Starts from an imported head; see `AnyLocalizationConfig`."""
    return imported_heads.starter(self.start, facts, **options)


AnyHeadConfig = LocalizationConfig | SubgraphConfig | ActionFormerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureTask(abc.ABC):
  """Base task of heads, from feature sequences to detections.

  Attributes:
    takes_any_length: whether one pass takes a sequence of any length; otherwise
      one longer than `max_length` is cut to windows.
    model: maps features (b, t, d) and a mask (b, t) to predictions.
    max_length: number of steps of a training sequence.
    feature_width: number of channels of a feature.
    channels: (means, deviations) to standardize features with, or None.
  """

  takes_any_length: ClassVar[bool] = True
  # Steps of a video that inference takes whole, if more than others do; see
  # inference/sequences.py.
  whole_steps: ClassVar[int] = 0
  model: localizer.Localizer | actionformer.ActionFormer | gtad.GtadLocalizer
  max_length: int
  feature_width: int
  channels: tuple[tuple[float, ...], tuple[float, ...]] | None = None

  def init(self, rng):
    features = jnp.zeros((1, self.max_length, self.feature_width))
    mask = jnp.ones((1, self.max_length), bool)
    return self.model.init(rng, features, mask)

  @abc.abstractmethod
  def loss(
    self, params, batch: types.LocalizationBatch, rng
  ) -> tuple[jax.Array, Mapping[str, jax.Array] | task_lib.Tracked]:
    """See training/task.py."""

  @abc.abstractmethod
  def detect(self, params, features, mask) -> types.Detections:
    """Detects segments in features (b, t, d) with a mask (b, t)."""

  def predict(self, params, batch: types.LocalizationBatch) -> types.Detections:
    return self.detect(params, batch.features, batch.mask)

  def padded_length(self, num_steps: int) -> int:
    """Returns the padded length of a sequence in inference."""
    return feature_windows.doubled_length(num_steps, max_length=self.max_length)

  def standardized(self, features: jax.Array) -> jax.Array:
    """Standardizes features (b, t, d) for the model."""
    if self.channels is None:
      return features
    mean, deviation = (jnp.asarray(values) for values in self.channels)
    return (features - mean) / deviation

  def _apply(self, params, features, mask, **options) -> Any:
    """Returns the predictions of the head's model."""
    return self.model.apply(
      params, self.standardized(features), mask, **options
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointTask(FeatureTask):
  """Task of the anchor-free pyramid."""

  model: localizer.Localizer
  loss_config: losses.PointLossConfig
  decode_config: localizer.DecodeConfig

  @classmethod
  def from_facts(cls, facts: dict, *, loss_config, **shared) -> Self:
    trunk, head, decode = config_lib.resolve_sections(
      LocalizationConfig, facts, "pyramid", "head", "decode"
    )
    model = localizer.LocalizerConfig(
      num_classes=len(facts["label_names"]), pyramid=trunk, head=head
    )
    return cls(
      model=localizer.Localizer(model),
      loss_config=loss_config or losses.PointLossConfig(),
      decode_config=decode,
      **shared,
    )

  def loss(self, params, batch: types.LocalizationBatch, rng):
    predictions = self._apply(
      params,
      batch.features,
      batch.mask,
      deterministic=False,
      rngs={"dropout": rng},
    )
    sums = losses.localization_loss(predictions, batch, config=self.loss_config)
    metrics = {k: total / jnp.maximum(n, 1.0) for k, (total, n) in sums.items()}
    return sum(metrics.values(), jnp.zeros(())), metrics

  def detect(self, params, features, mask) -> types.Detections:
    predictions = self._apply(params, features, mask)
    return localizer.decode(predictions, config=self.decode_config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionFormerTask(FeatureTask):
  """Task of ActionFormer; its loss tracks the mean of positive points."""

  # Public inference takes any video whole. Longer ones, of hours, are cut.
  whole_steps: ClassVar[int] = 1 << 16
  model: actionformer.ActionFormer
  loss_config: losses.NormalizedLossConfig
  decode_config: actionformer_decoding.ActionFormerDecodeConfig

  @classmethod
  def from_facts(cls, facts: dict, *, loss_config, **shared) -> Self:
    config, decode = config_lib.resolve_sections(
      ActionFormerConfig, facts, "model", "decode"
    )
    actionformer_config.check_length(config, facts["max_length"])
    return cls(
      model=actionformer.ActionFormer(
        config, len(facts["label_names"]), facts["max_length"]
      ),
      loss_config=loss_config or losses.NormalizedLossConfig(),
      decode_config=decode,
      **shared,
    )

  def init(self, rng):
    start = jnp.float32(self.loss_config.normalizer_start)
    return {
      "params": super().init(rng)["params"],
      "loss_stats": {"num_positives": start},
    }

  def loss(self, params, batch: types.LocalizationBatch, rng):
    predictions = self._apply(
      params,
      batch.features,
      batch.mask,
      deterministic=False,
      rngs={"dropout": rng},
    )
    if self.model.num_classes == 1:  # it covers every labelled segment
      batch = batch._replace(labels=jnp.zeros_like(batch.labels))
    loss, metrics, normalizer = losses.normalized_loss(
      predictions,
      batch,
      normalizer=params["loss_stats"]["num_positives"],
      config=self.loss_config,
    )
    tracked = {"loss_stats": {"num_positives": normalizer}}
    return loss, task_lib.Tracked(metrics, tracked)

  def padded_length(self, num_steps: int) -> int:
    """Returns the padded length of a sequence in the public code."""
    return actionformer_config.padded_length(
      num_steps, self.model.config, max_length=self.max_length
    )

  def detect(self, params, features, mask) -> types.Detections:
    return actionformer_decoding.decode(
      self._apply(params, features, mask),
      num_levels=len(self.model.config.windows),
      config=self.decode_config,
    )

  def _apply(self, params, features, mask, **options):
    model_params = {"params": params["params"]}
    return super()._apply(model_params, features, mask, **options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubgraphTask(FeatureTask):
  """Task of the sub-graph localizer."""

  # Its proposals and its graph grow with the square of the length.
  takes_any_length: ClassVar[bool] = False
  model: gtad.GtadLocalizer
  loss_config: proposal_losses.ProposalLossConfig
  decode_config: gtad_decoding.GtadDecodeConfig

  @classmethod
  def from_facts(cls, facts: dict, *, loss_config, **shared) -> Self:
    graph, decode = config_lib.resolve_sections(
      SubgraphConfig, facts, "graph", "decode"
    )
    return cls(
      model=gtad.GtadLocalizer(graph, len(facts["label_names"])),
      loss_config=loss_config or proposal_losses.ProposalLossConfig(),
      decode_config=decode,
      **shared,
    )

  def loss(self, params, batch: types.LocalizationBatch, rng):
    dropout_rng, draw_rng = jax.random.split(rng)
    predictions = self._apply(
      params,
      batch.features,
      batch.mask,
      deterministic=False,
      rngs={"dropout": dropout_rng},
    )
    metrics = proposal_losses.proposal_loss(
      predictions, batch, config=self.loss_config, rng=draw_rng
    )
    return sum(metrics.values(), jnp.zeros(())), metrics

  def detect(self, params, features, mask) -> types.Detections:
    predictions = self._apply(params, features, mask)
    return gtad_decoding.decode(predictions, config=self.decode_config)


# Name -> (config, task).
LOCALIZERS = {
  "points": (LocalizationConfig, PointTask),
  "actionformer": (ActionFormerConfig, ActionFormerTask),
  "subgraph": (SubgraphConfig, SubgraphTask),
}


def config_class(config) -> type[AnyLocalizationConfig]:
  """Returns the config dataclass of the head that a config names.

  Raises:
    config.ConfigError: the head is unknown.
  """
  name = {key: config[key] for key in config}.get("localizer", "points")
  if name not in LOCALIZERS:
    raise config_lib.ConfigError(
      [f"localizer: got {name!r}; choose from {', '.join(LOCALIZERS)}."]
    )
  return LOCALIZERS[name][0]


def model_metadata(
  config: AnyLocalizationConfig,
  label_names,
  feature_width: int,
  *,
  standardization: dict | None = None,
) -> dict:
  """Returns the metadata that rebuilds the model for inference; plain JSON."""
  return metadata_lib.of_config(config_lib.as_dict(config)) | {
    "label_names": list(label_names),
    "feature_width": feature_width,
    "standardization": standardization,
  }


def make_task(facts: dict, *, loss_config: Any = None) -> FeatureTask:
  """Makes the task from `model_metadata`; for inference without a loss."""
  channels = facts["standardization"]
  if channels is not None:
    channels = (tuple(channels["mean"]), tuple(channels["deviation"]))
  return LOCALIZERS[facts["localizer"]][1].from_facts(
    facts,
    loss_config=loss_config,
    max_length=facts["max_length"],
    feature_width=facts["feature_width"],
    channels=channels,
  )
