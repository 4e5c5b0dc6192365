"""Video language grounding on frozen features: the moment a sentence means."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.data import feature_sources, pipeline
from clap_jax.losses import grounding as losses
from clap_jax.metrics import grounding as metrics
from clap_jax.models import fusion, grounder, heads, localizer, pyramid
from clap_jax.trainers import abstract, feature_data, results, running
from clap_jax.training import checkpoint, evaluation, processes
from clap_jax.training import mesh as mesh_lib

PREDICTIONS_FILE = "predictions.json"
MODEL_FILE = "grounder.json"


@dataclasses.dataclass(frozen=True)
class GroundingConfig:
  """Everything `clap train` reads of a grounding config."""

  trainer: str
  data: feature_data.FeatureData
  pyramid: pyramid.PyramidConfig
  fusion: fusion.FusionConfig
  head: heads.HeadConfig
  loss: losses.GroundingLossConfig
  decode: localizer.DecodeConfig
  optimizer: config_lib.OptimizerConfig
  loop: config_lib.LoopConfig
  checkpoint: config_lib.CheckpointConfig
  mesh: config_lib.MeshConfig
  protocol: str = config_lib.choice(*metrics.PROTOCOLS)

  def __post_init__(self):
    width = self.pyramid.width
    for name, count in (
      ("pyramid.num_heads", self.pyramid.num_heads),
      ("fusion.num_heads", self.fusion.num_heads),
    ):
      if min(count, width) < 1 or width % count:
        raise ValueError(
          f"{name} is {count}, which does not divide pyramid.width {width}."
        )


@dataclasses.dataclass(frozen=True)
class GroundingTask:
  """Features and a query's token vectors to moments; a Task."""

  model: grounder.Grounder
  loss_config: losses.GroundingLossConfig
  decode_config: localizer.DecodeConfig
  max_length: int  # snippets
  feature_width: int
  query_length: int  # tokens
  query_width: int

  def init(self, rng):
    return self.model.init(
      rng,
      jnp.zeros((1, self.max_length, self.feature_width)),
      jnp.ones((1, self.max_length), bool),
      jnp.zeros((1, self.query_length, self.query_width)),
      jnp.ones((1, self.query_length), bool),
    )

  def loss(self, params, batch: types.GroundingBatch, rng):
    """Each query on its own video, then on its neighbour's: is it absent?"""
    dropout_rng, swap_rng = jax.random.split(rng)
    encoded = self.model.apply(
      params,
      batch.features,
      batch.mask,
      deterministic=False,
      rngs={"dropout": dropout_rng},
      method="encode_video",
    )
    count = batch.valid.shape[0]
    own = jnp.arange(count)
    output = self.model.apply(
      params,
      encoded,
      jnp.concatenate([batch.query, batch.query]),
      jnp.concatenate([batch.query_mask, batch.query_mask]),
      num_steps=batch.features.shape[1],
      video_of_query=jnp.concatenate([own, jnp.roll(own, 1)]),
      deterministic=False,
      rngs={"dropout": swap_rng},
      method="score",
    )
    predictions = output.predictions
    own_predictions = predictions._replace(
      class_logits=predictions.class_logits[:count],
      offsets=predictions.offsets[:count],
      point_mask=predictions.point_mask[:count],
    )
    sums = losses.grounding_loss(
      own_predictions, batch, config=self.loss_config
    )
    if self.loss_config.absence_weight:
      sums |= losses.absence_loss(
        output.absence_logits,
        jnp.arange(2 * count) >= count,
        valid=jnp.concatenate([batch.valid, batch.valid]),
        config=self.loss_config,
      )
    scalars = {k: total / jnp.maximum(n, 1.0) for k, (total, n) in sums.items()}
    return sum(scalars.values()), scalars

  def predict(self, params, batch: types.GroundingBatch):
    return self.find(
      params, batch.features, batch.mask, batch.query, batch.query_mask
    )

  def find(self, params, features, mask, query, query_mask):
    """Moments of q queries on as many videos, or all on the only one."""
    encoded = self.model.apply(params, features, mask, method="encode_video")
    output = self.model.apply(
      params,
      encoded,
      query,
      query_mask,
      num_steps=features.shape[1],
      method="score",
    )
    return {
      "detections": localizer.decode(
        output.predictions, config=self.decode_config
      ),
      "absence": jax.nn.sigmoid(output.absence_logits),
    }


def resolve(config) -> GroundingConfig:
  return config_lib.resolve(GroundingConfig, config)


def abstract_run(
  config: GroundingConfig, facts: abstract.DataFacts
) -> abstract.AbstractRun:
  """The task and the shapes of its batch; see trainers/abstract.py."""
  size, length = config.data.batch_size, config.data.max_length
  tokens = facts.query_length
  batch = types.GroundingBatch(
    features=abstract.array(size, length, facts.feature_width),
    mask=abstract.array(size, length, dtype=jnp.bool_),
    query=abstract.array(size, tokens, facts.query_width),
    query_mask=abstract.array(size, tokens, dtype=jnp.bool_),
    segment=abstract.array(size, 2),
    valid=abstract.array(size, dtype=jnp.bool_),
    query_index=abstract.array(size, dtype=jnp.int32),
  )
  task = make_task(_facts_of(config, batch), loss_config=config.loss)
  return abstract.AbstractRun(task, batch)


def train(config: GroundingConfig, workdir) -> list[dict]:
  """Trains, or goes on training, in `workdir`; returns its result rows."""
  workdir = pathlib.Path(workdir)
  reader = feature_data.FeatureReader(config.data)
  source = reader.grounding_source(config.data.train_split)
  facts = model_facts(config, source)
  task = make_task(facts, loss_config=config.loss)
  score = _Score(config, reader, task)
  state = running.fit(
    task,
    config,
    workdir=workdir,
    source=source,
    measure=lambda params, split: score(params, split)[0],
    title="grounding",
  )
  params = state.params if state.ema is None else state.ema
  facts["use_ema"] = state.ema is not None
  results.write_json(workdir / MODEL_FILE, facts)
  rows, found, truth = score.rows(params, config.data.eval_split)
  if processes.is_first():
    _write_predictions(found, truth, workdir / PREDICTIONS_FILE)
  results.write(workdir, rows)
  return rows


def evaluate(config: GroundingConfig, workdir, *, split=None) -> list[dict]:
  """Result rows of a finished run, by default on its `eval_split`."""
  facts = results.read_facts(workdir, MODEL_FILE)
  params, _ = checkpoint.restore_params(workdir, use_ema=facts["use_ema"])
  reader = feature_data.FeatureReader(config.data)
  score = _Score(config, reader, make_task(facts))
  return score.rows(params, split or config.data.eval_split)[0]


class _Score:
  """R@n at IoU m of parameters on a split."""

  def __init__(self, config, reader, task):
    self._config = config
    self._reader = reader
    self._protocol = metrics.protocol_named(config.protocol)
    self._predictor = evaluation.Predictor(
      task.predict,
      mesh=mesh_lib.make_mesh(config.mesh),
      batch_size=config.data.batch_size,
    )

  def __call__(self, params, split: str):
    """Metrics, the moments that they score and the true ones."""
    found, truth = moments(self._reader, self._predictor, params, split)
    windows = {key: entry["windows"] for key, entry in found.items()}
    return metrics.evaluate(windows, truth, self._protocol), found, truth

  def rows(self, params, split: str):
    """Result rows, the moments that they score and the true ones."""
    config, protocol = self._config, self._protocol
    values, found, truth = self(params, split)
    card = self._reader.card(
      split,
      task="grounding",
      protocol=config.protocol,
      thresholds=protocol.iou_thresholds,
      iou_rule=f"IoU {'>' if protocol.strict else '>='} threshold",
      nms=f"Gaussian soft-NMS, sigma {config.decode.sigma}",
      top_k=f"{config.decode.num_kept} per query",
      seeds=(config.loop.seed,),
      num_predictions=sum(len(e["windows"]) for e in found.values()),
      num_ground_truths=len(truth),
    )
    rows = results.rows_of(
      values,
      encoder=self._reader.extraction["encoder"],
      seed=config.loop.seed,
      dataset=config.data.dataset,
      split=split,
      task="grounding",
      card=card,
    )
    return rows, found, truth


def model_facts(config: GroundingConfig, source) -> dict:
  """What rebuilds the model for inference; plain JSON."""
  return _facts_of(config, source.collate([source[0]], batch_size=1))


def _facts_of(config: GroundingConfig, batch: types.GroundingBatch) -> dict:
  """`model_facts` from any batch, or from the shapes of one."""
  return {
    "feature_width": batch.features.shape[-1],
    "query_length": batch.query.shape[-2],
    "query_width": batch.query.shape[-1],
    "max_length": config.data.max_length,
    "pyramid": dataclasses.asdict(config.pyramid),
    "fusion": dataclasses.asdict(config.fusion),
    "head": dataclasses.asdict(config.head),
    "decode": dataclasses.asdict(config.decode),
  }


def make_task(
  facts: dict, *, loss_config: losses.GroundingLossConfig | None = None
) -> GroundingTask:
  """The task that `model_facts` describes; for inference without a loss."""
  model = grounder.GrounderConfig(
    pyramid=pyramid.PyramidConfig(**facts["pyramid"]),
    fusion=fusion.FusionConfig(**facts["fusion"]),
    head=heads.HeadConfig(**facts["head"]),
  )
  return GroundingTask(
    grounder.Grounder(model),
    loss_config or losses.GroundingLossConfig(),
    localizer.DecodeConfig(**facts["decode"]),
    facts["max_length"],
    facts["feature_width"],
    facts["query_length"],
    facts["query_width"],
  )


def moments(
  reader: feature_data.FeatureReader, predictor, params, split: str
) -> tuple[dict[str, dict], dict[str, tuple[float, float]]]:
  """Moments found for every caption of a split, and the true ones.

  Returns:
    query id -> {"video", "text", "absence", "windows" (k, 3): start, end in
    seconds, score}, and query id -> (start_sec, end_sec), of captions of videos
    without features too.
  """
  source = reader.grounding_source(split)
  features = reader.features(split)
  duration_sec = {i.id: i.duration_sec for i in reader.examples(split)}
  found = {}
  with pipeline.evaluation_batches(
    source, batch_size=reader.config.batch_size
  ) as batches:
    for batch, output in evaluation.predict_batches(predictor, params, batches):
      kept = output["detections"]
      for row, index in enumerate(batch.query_index):
        if index < 0:
          continue
        query = source.queries[index]
        mask = kept.mask[row]
        grid = features[query.video_id].grid
        segments = grid.to_seconds(kept.segments[row][mask].astype(np.float64))
        segments = segments.clip(0.0, duration_sec[query.video_id])
        scores = kept.scores[row][mask].astype(np.float64)
        found[_query_id(query)] = {
          "video": query.video_id,
          "text": query.text,
          "absence": float(output["absence"][row]),
          "windows": np.concatenate([segments, scores[:, None]], axis=1),
        }
  queries = feature_sources.grounding_queries(reader.examples(split))
  truth = {_query_id(q): (q.start_sec, q.end_sec) for q in queries}
  return found, truth


def _query_id(query) -> str:
  span = f"{query.start_sec:.3f}-{query.end_sec:.3f}"
  return f"{query.video_id}/{span}/{query.text}"


def _write_predictions(found, truth, path) -> None:
  """One entry per query, best moments first."""
  document = [
    {
      "query_id": key,
      "video": entry["video"],
      "query": entry["text"],
      "segment": list(truth[key]),
      "absence": entry["absence"],
      "predictions": entry["windows"].tolist(),
    }
    for key, entry in found.items()
  ]
  path.write_text(json.dumps({"queries": document}) + "\n")
