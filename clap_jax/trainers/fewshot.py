"""Trains few-shot temporal localization on frozen features.

Training draws episodes over the base classes; the validation classes serve
model selection; the novel classes are used only in the final evaluation, with
an encoder that has never seen them.
"""

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.data import class_splits, episode_batches, feature_reader
from clap_jax.data import episodes as episodes_lib
from clap_jax.evaluation import fewshot as fewshot_evaluation
from clap_jax.evaluation import results
from clap_jax.losses import localization as losses
from clap_jax.metrics import protocols
from clap_jax.models import fewshot_matcher, heads, localizer, pyramid
from clap_jax.ops import points
from clap_jax.storage import locations
from clap_jax.storage import metadata as metadata_lib
from clap_jax.trainers import abstract, fit

MODEL_FILE = "fewshot.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewshotConfig(config_lib.RunConfig):
  """Config of `clap train` for few-shot localization."""

  data: feature_reader.FeatureData
  class_split: str  # a name of data/class_splits.py, or a .json file
  allow_seen_classes: bool  # evaluate encoders that saw novel classes
  episodes: fewshot_evaluation.TrainingShape
  evaluation: fewshot_evaluation.EvaluationConfig
  pyramid: pyramid.PyramidConfig
  head: heads.HeadConfig
  matcher: fewshot_matcher.MatcherConfig
  loss: losses.PointLossConfig
  decode: localizer.DecodeConfig
  protocol: str = config_lib.choice(*protocols.PROTOCOLS)

  def __post_init__(self):
    self.pyramid.check_heads(
      {
        "pyramid.num_heads": self.pyramid.num_heads,
        "matcher.num_heads": self.matcher.num_heads or 1,
      }
    )
    self.data.check_plain("few-shot localization")
    if self.data.crop_probability:
      raise ValueError(
        "data.crop_probability must be 0: the videos of an episode are whole, "
        f"got {self.data.crop_probability}."
      )


@dataclasses.dataclass(frozen=True)
class FewshotTask:
  """Task from episodes to detections; see training/task.py."""

  model: fewshot_matcher.Matcher
  loss_config: losses.PointLossConfig
  decode_config: localizer.DecodeConfig
  max_length: int
  feature_width: int

  def init(self, rng):
    shapes = abstract.batch_of(
      types.EpisodeBatch,
      **dict.fromkeys("bnk", 1),
      c=2,
      t=self.max_length,
      d=self.feature_width,
      s=0,
    )
    batch = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)
    return self.model.init(rng, batch)

  def loss(self, params, batch: types.EpisodeBatch, rng):
    predictions = self._apply(
      params, batch, deterministic=False, rngs={"dropout": rng}
    )
    truth = types.LocalizationBatch(
      features=batch.query,
      mask=batch.query_mask,
      segments=batch.segments,
      labels=batch.labels,
      segment_mask=batch.segment_mask,
      video_index=batch.episode_index,
    )
    sums = losses.localization_loss(predictions, truth, config=self.loss_config)
    metrics = {k: total / jnp.maximum(n, 1.0) for k, (total, n) in sums.items()}
    return sum(metrics.values(), jnp.zeros(())), metrics

  def predict(self, params, batch: types.EpisodeBatch) -> types.Detections:
    """Detects segments in the queries; labels are indices of ways."""
    predictions = self._apply(params, batch)
    return localizer.decode(predictions, config=self.decode_config)

  def encode(self, params, videos):
    """Encodes videos (features, mask) for `predict_encoded`."""
    return self.model.apply(params, *videos, method="encode")

  def predict_encoded(
    self, params, batch: types.EpisodeBatch
  ) -> types.Detections:
    """Runs `predict` on videos encoded by `encode`."""
    predictions = self._apply(params, batch, method="match")
    return localizer.decode(predictions, config=self.decode_config)

  def _apply(self, params, batch, **options) -> points.PointPredictions:
    # Flax adds the state that `mutable` would return.
    output = self.model.apply(params, batch, **options)
    return cast(points.PointPredictions, output)


def train(config: FewshotConfig, workdir) -> list[dict]:
  """Trains or resumes the run in `workdir`; returns its result rows.

  Raises:
    ValueError: the encoder has seen novel classes, or its history is unknown,
      and `allow_seen_classes` is off.
  """
  workdir = locations.at(workdir)
  reader = feature_reader.FeatureReader(config.data)
  split = class_splits.class_split(
    config.class_split, label_names=reader.dataset.label_names
  )
  evaluator = fewshot_evaluation.Evaluator(config, reader, split)
  reader.check(reader.num_segments, what="labelled segment")
  evaluator.check()
  videos = evaluator.videos(config.data.train_split, hidden=split.hidden)
  sampler = episodes_lib.EpisodeSampler(
    videos.counts(),
    split.base,
    episodes_lib.EpisodeOptions(**dataclasses.asdict(config.episodes)),
  )
  facts = model_metadata(config, videos.feature_width)
  facts |= metadata_lib.encoder_metadata(reader.extraction)
  task = make_task(facts, loss_config=config.loss)
  params, average = fit.fit(
    task,
    config,
    workdir=workdir,
    source=episode_batches.TrainingEpisodes(videos, sampler),
    measure=lambda params, name: evaluator.selection(task, params, name),
    title="fewshot",
  )
  fit.write_metadata(workdir / MODEL_FILE, facts | average)
  rows = evaluator.rows(task, params, config.data.eval_split, workdir=workdir)
  results.write(workdir, rows)
  return rows


def evaluate(config: FewshotConfig, workdir, *, split=None) -> list[dict]:
  """Evaluates a finished run, by default on its `eval_split`."""
  _, task, params = fit.restored(
    workdir, MODEL_FILE, make_task, decode=config.decode
  )
  reader = feature_reader.FeatureReader(config.data)
  classes = class_splits.class_split(
    config.class_split, label_names=reader.dataset.label_names
  )
  evaluator = fewshot_evaluation.Evaluator(config, reader, classes)
  return evaluator.rows(task, params, split or config.data.eval_split)


def abstract_run(
  config: FewshotConfig, facts: abstract.DataFacts
) -> abstract.AbstractRun:
  """Returns the task and its batch shapes; see trainers/abstract.py."""
  task = make_task(
    model_metadata(config, facts.feature_width), loss_config=config.loss
  )
  batch = abstract.batch_of(
    types.EpisodeBatch,
    b=config.data.batch_size,
    n=config.episodes.ways,
    k=config.episodes.shots,
    c=config.episodes.ways + 1,
    t=config.data.max_length,
    d=facts.feature_width,
    s=facts.max_segments,
  )
  return abstract.AbstractRun(task, batch)


def model_metadata(config: FewshotConfig, feature_width: int) -> dict:
  """Returns the metadata that rebuilds the model for inference; plain JSON."""
  facts = metadata_lib.of_config(config_lib.as_dict(config))
  return facts | {"feature_width": feature_width}


def make_task(
  facts: dict, *, loss_config: losses.PointLossConfig | None = None
) -> FewshotTask:
  """Makes the task from `model_metadata`; for inference without a loss."""
  *parts, decode = config_lib.resolve_sections(
    FewshotConfig, facts, "pyramid", "head", "matcher", "decode"
  )
  return FewshotTask(
    fewshot_matcher.Matcher(*parts),
    loss_config or losses.PointLossConfig(),
    decode,
    facts["max_length"],
    facts["feature_width"],
  )
