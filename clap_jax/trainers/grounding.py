"""Trains video language grounding on frozen features."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.data import grounding_source, query_reader
from clap_jax.evaluation import grounding as evaluation
from clap_jax.evaluation import moment_retrieval, results
from clap_jax.losses import grounding as losses
from clap_jax.losses import query_targets
from clap_jax.models import (
  fusion,
  heads,
  localizer,
  moment_detr,
  pyramid,
  two_d_tan,
)
from clap_jax.storage import locations
from clap_jax.storage import metadata as metadata_lib
from clap_jax.trainers import abstract, fit, grounding_heads, imported_heads
from clap_jax.training import processes

MODEL_FILE = "grounder.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroundingConfig(config_lib.RunConfig):
  """Config of `clap train` for language grounding."""

  kind: str = config_lib.choice(*grounding_heads.KINDS)
  data: query_reader.GroundingData
  pyramid: pyramid.PyramidConfig  # the trunk; the map has one level
  fusion: fusion.FusionConfig
  head: heads.HeadConfig  # of the pyramid
  map: two_d_tan.TwoDTanConfig  # of the map
  detr: moment_detr.MomentDetrConfig  # of detr
  loss: losses.GroundingLossConfig
  decode: localizer.DecodeConfig
  protocol: str = config_lib.choice(*evaluation.PROTOCOLS)
  start: imported_heads.HeadStart = dataclasses.field(
    default_factory=imported_heads.HeadStart
  )

  def __post_init__(self):
    self.pyramid.check_heads(
      {
        "pyramid.num_heads": self.pyramid.num_heads,
        "fusion.num_heads": self.fusion.num_heads,
      }
    )
    if self.data.max_length % self.map.steps_per_clip:
      raise ValueError(
        f"data.max_length {self.data.max_length} is not a multiple of "
        f"map.steps_per_clip {self.map.steps_per_clip}."
      )
    if self.loss.detr.max_windows > self.detr.num_moments:
      raise ValueError(
        f"loss.detr.max_windows {self.loss.detr.max_windows} is above "
        f"detr.num_moments {self.detr.num_moments}: each window needs a moment."
      )
    if self.start.imported and self.kind != "detr":
      raise ValueError(
        f"start.imported requires kind detr, the config has {self.kind!r}."
      )


@dataclasses.dataclass(frozen=True)
class GroundingTask:
  """Task from features and token vectors of queries to moments."""

  model: Any  # a grounder of grounding_heads.KINDS
  kind: grounding_heads.Kind
  loss_config: losses.GroundingLossConfig
  decode_config: localizer.DecodeConfig
  max_length: int  # snippets
  feature_width: int
  query_length: int  # tokens
  query_width: int

  @property
  def takes_any_length(self) -> bool:
    return self.kind.takes_any_length

  def init(self, rng):
    return self.model.init(
      rng,
      jnp.zeros((1, self.max_length, self.feature_width)),
      jnp.ones((1, self.max_length), bool),
      jnp.zeros((1, self.query_length, self.query_width)),
      jnp.ones((1, self.query_length), bool),
    )

  def loss(self, params, batch: types.GroundingBatch, rng):
    """Encodes each video once and scores all its queries together."""
    encode_rng, score_rng = jax.random.split(rng)
    encoded = self.model.apply(
      params,
      batch.features,
      batch.mask,
      deterministic=False,
      rngs={"dropout": encode_rng},
      method="encode_video",
    )
    num_videos, num_queries = batch.valid.shape
    output = self.model.apply(
      params,
      encoded,
      batch.query.reshape(-1, *batch.query.shape[2:]),
      batch.query_mask.reshape(-1, batch.query_mask.shape[2]),
      video_of_query=jnp.repeat(jnp.arange(num_videos), num_queries),
      deterministic=False,
      rngs={"dropout": score_rng},
      method="score",
    )
    sums = self.kind.loss(
      output,
      query_targets.query_targets(batch),
      self.loss_config,
      jax.random.fold_in(rng, 2),
    )
    scalars = {k: total / jnp.maximum(n, 1.0) for k, (total, n) in sums.items()}
    return sum(scalars.values(), jnp.zeros(())), scalars

  def encode(self, params, features, mask):
    """Encodes windows (w, t, d) of one video for `answer`."""
    return self.model.apply(params, features, mask, method="encode_video")

  def answer(self, params, windows, *, query, query_mask):
    """Predicts moments of q queries in the w encoded windows of a video.

    Args:
      params: parameters of the model.
      windows: (output of `encode`, int32 (w,) grid positions of window starts,
        bool (w,), False for padding).
      query: (q, l, e).
      query_mask: bool (q, l).

    Returns:
      detections of (q, k), absence_logits (q,), and saliency (w, q, t).
    """
    config = self.decode_config

    def in_window(window):  # one at a time: memory does not grow with w
      encoded, start, is_valid = window
      output = self.model.apply(
        params,
        jax.tree.map(lambda x: x[None], encoded),
        query,
        query_mask,
        method="score",
      )
      moments = output.moments
      scores = jnp.where(
        moments.mask & is_valid, jax.nn.sigmoid(moments.logits), -1.0
      )
      count = min(config.num_candidates, scores.shape[1])
      best, index = jax.lax.top_k(scores, count)
      segments = jnp.take_along_axis(moments.segments, index[..., None], axis=1)
      absence = jnp.where(is_valid, output.absence_logits, jnp.inf)
      saliency = self.kind.highlights(output.saliency_logits)
      return segments + start, best, absence, saliency

    segments, scores, absence, saliency = jax.lax.map(in_window, windows)

    def joined(x):  # (w, q, k, ...) -> (q, w * k, ...)
      x = jnp.swapaxes(x, 0, 1)
      return x.reshape(x.shape[0], -1, *x.shape[3:])

    scores = joined(scores)
    return {
      "detections": localizer.decode_segments(
        joined(segments), scores[..., None], scores >= 0, config=config
      ),
      "absence_logits": jnp.min(absence, axis=0),
      "saliency": saliency,
    }

  def predict(self, params, batch: types.GroundingBatch):
    """Runs `answer` on every query of a batch, each video as one window."""

    def one_video(features, mask, query, query_mask):
      encoded = self.encode(params, features[None], mask[None])
      windows = encoded, jnp.zeros(1, jnp.int32), jnp.ones(1, bool)
      return self.answer(params, windows, query=query, query_mask=query_mask)

    return jax.vmap(one_video)(
      batch.features, batch.mask, batch.query, batch.query_mask
    )


def abstract_run(
  config: GroundingConfig, facts: abstract.DataFacts
) -> abstract.AbstractRun:
  """Returns the task and its batch shapes; see trainers/abstract.py."""
  data = config.data
  batch = abstract.batch_of(
    types.GroundingBatch,
    b=data.batch_size,
    t=data.max_length,
    d=facts.feature_width,
    q=data.queries_per_video + data.absent_per_video,
    l=facts.query_length,
    e=facts.query_width,
    n=1,
  )
  described = model_metadata(
    config,
    feature_width=facts.feature_width,
    query_length=facts.query_length,
    query_width=facts.query_width,
  )
  task = make_task(described, loss_config=config.loss)
  return abstract.AbstractRun(task, batch)


def train(config: GroundingConfig, workdir) -> list[dict]:
  """Trains or resumes the run in `workdir`; returns its result rows."""
  workdir = locations.at(workdir)
  reader = query_reader.open_reader(config.data)
  for split in {config.data.selection_split, config.data.eval_split}:
    evaluation.check_scored(reader.grounding_split(split), config.protocol)
  reader.check(reader.num_queries, what="query")
  source = make_source(config, reader)
  shapes = source.collate([], batch_size=1)
  facts = model_metadata(
    config,
    feature_width=shapes.features.shape[-1],
    query_length=shapes.query.shape[-2],
    query_width=shapes.query.shape[-1],
  )
  task = make_task(facts, loss_config=config.loss)
  search = moment_retrieval.MomentSearch(task)
  evaluator = evaluation.Evaluator(config, reader, search)
  selection = config.data.selection_split
  params, average = fit.fit(
    task,
    config,
    workdir=workdir,
    source=source,
    measure=evaluator.measure,
    title="grounding",
    prepare=imported_heads.starter(config.start, facts, model_file=MODEL_FILE),
  )
  facts |= average | metadata_lib.encoder_metadata(reader.extraction)
  facts["absence"] = evaluator.calibrate(params, selection)
  fit.write_metadata(workdir / MODEL_FILE, facts)
  rows, found = evaluator.rows(
    params, config.data.eval_split, absence=facts["absence"]
  )
  if processes.is_first():
    evaluation.write_predictions(found, workdir, absence=facts["absence"])
  results.write(workdir, rows)
  return rows


def evaluate(config: GroundingConfig, workdir, *, split=None) -> list[dict]:
  """Evaluates a finished run, by default on its `eval_split`."""
  facts, task, params = fit.restored(
    workdir, MODEL_FILE, make_task, decode=config.decode
  )
  split = split or config.data.eval_split
  reader = query_reader.open_reader(config.data)
  reader.check(reader.num_queries, what="query", split=split)
  search = moment_retrieval.MomentSearch(task)
  evaluator = evaluation.Evaluator(config, reader, search)
  return evaluator.rows(params, split, absence=facts["absence"])[0]


def make_source(config: GroundingConfig, reader):
  """Makes the source of training batches of the config's data."""
  data = config.data
  return grounding_source.GroundingSource(
    reader.grounding_split(data.train_split),
    reader.features(data.train_split),
    vectors=reader.texts,
    options=reader.options,
    queries_per_video=data.queries_per_video,
    absent_per_video=data.absent_per_video,
  )


def model_metadata(
  config: GroundingConfig,
  *,
  feature_width: int,
  query_length: int,  # tokens
  query_width: int,
) -> dict:
  """Returns the metadata that rebuilds the model for inference; plain JSON."""
  return metadata_lib.of_config(config_lib.as_dict(config)) | {
    "feature_width": feature_width,
    "query_length": query_length,
    "query_width": query_width,
  }


def make_task(
  facts: dict, *, loss_config: losses.GroundingLossConfig | None = None
) -> GroundingTask:
  """Makes the task from `model_metadata`; for inference without a loss."""
  kind = grounding_heads.KINDS[facts["kind"]]
  return GroundingTask(
    kind.make(grounding_heads.parts_of(facts)),
    kind,
    loss_config or losses.GroundingLossConfig(),
    config_lib.resolve(localizer.DecodeConfig, facts["decode"], "decode"),
    facts["max_length"],
    facts["feature_width"],
    facts["query_length"],
    facts["query_width"],
  )
