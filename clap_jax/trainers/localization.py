"""Temporal action localization on frozen features."""

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import numpy as np

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.data import pipeline
from clap_jax.losses import localization as losses
from clap_jax.metrics import detection, tables, video_classifier
from clap_jax.models import heads, localizer, pyramid
from clap_jax.trainers import abstract, feature_data, results, running
from clap_jax.training import checkpoint, evaluation, processes
from clap_jax.training import mesh as mesh_lib

PREDICTIONS_FILE = "predictions.json"
MODEL_FILE = "localizer.json"


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
  """An outside classifier of whole videos, in place of the head's classes."""

  path: str = ""  # see metrics/video_classifier.py; "" is off
  top_classes: int = config_lib.ranged(default=2, minimum=1)
  combination: str = config_lib.choice(
    *video_classifier.COMBINATIONS, default="product"
  )


@dataclasses.dataclass(frozen=True)
class LocalizationConfig:
  """Everything `clap train` reads of a localization config."""

  trainer: str
  data: feature_data.FeatureData
  pyramid: pyramid.PyramidConfig
  head: heads.HeadConfig
  loss: losses.PointLossConfig
  decode: localizer.DecodeConfig
  optimizer: config_lib.OptimizerConfig
  loop: config_lib.LoopConfig
  checkpoint: config_lib.CheckpointConfig
  mesh: config_lib.MeshConfig
  protocol: str = config_lib.choice(*detection.PROTOCOLS)
  classifier: ClassifierConfig = ClassifierConfig()

  def __post_init__(self):
    count, width = self.pyramid.num_heads, self.pyramid.width
    if min(count, width) < 1 or width % count:
      raise ValueError(
        f"pyramid.num_heads is {count}, which does not divide pyramid.width "
        f"{width}."
      )


@dataclasses.dataclass(frozen=True)
class LocalizationTask:
  """Feature sequences to detections; a Task of training/task.py."""

  model: localizer.Localizer
  loss_config: losses.PointLossConfig
  decode_config: localizer.DecodeConfig
  max_length: int
  feature_width: int

  def init(self, rng):
    features = jnp.zeros((1, self.max_length, self.feature_width))
    mask = jnp.ones((1, self.max_length), bool)
    return self.model.init(rng, features, mask)

  def loss(self, params, batch: types.LocalizationBatch, rng):
    predictions = self.model.apply(
      params,
      batch.features,
      batch.mask,
      deterministic=False,
      rngs={"dropout": rng},
    )
    sums = losses.localization_loss(predictions, batch, config=self.loss_config)
    metrics = {k: total / jnp.maximum(n, 1.0) for k, (total, n) in sums.items()}
    return sum(metrics.values()), metrics

  def predict(self, params, batch: types.LocalizationBatch):
    return self.detect(params, batch.features, batch.mask)

  def detect(self, params, features, mask) -> types.Detections:
    """Detections of features (b, t, d) with a mask (b, t)."""
    predictions = self.model.apply(params, features, mask)
    return localizer.decode(predictions, config=self.decode_config)


def resolve(config) -> LocalizationConfig:
  return config_lib.resolve(LocalizationConfig, config)


def abstract_run(
  config: LocalizationConfig, facts: abstract.DataFacts
) -> abstract.AbstractRun:
  """The task and the shapes of its batch; see trainers/abstract.py."""
  size, length = config.data.batch_size, config.data.max_length
  names = [str(index) for index in range(facts.num_classes)]
  task = make_task(
    model_facts(config, names, facts.feature_width), loss_config=config.loss
  )
  batch = types.LocalizationBatch(
    features=abstract.array(size, length, facts.feature_width),
    mask=abstract.array(size, length, dtype=jnp.bool_),
    segments=abstract.array(size, facts.max_segments, 2),
    labels=abstract.array(size, facts.max_segments, dtype=jnp.int32),
    segment_mask=abstract.array(size, facts.max_segments, dtype=jnp.bool_),
    video_index=abstract.array(size, dtype=jnp.int32),
  )
  return abstract.AbstractRun(task, batch)


def train(config: LocalizationConfig, workdir) -> list[dict]:
  """Trains, or goes on training, in `workdir`; returns its result rows."""
  workdir = pathlib.Path(workdir)
  reader = feature_data.FeatureReader(config.data)
  source = reader.localization_source(config.data.train_split)
  facts = model_facts(config, reader.dataset.label_names, _width(source))
  task = make_task(facts, loss_config=config.loss)
  score = _Score(config, reader, task)
  state = running.fit(
    task,
    config,
    workdir=workdir,
    source=source,
    measure=lambda params, split: score(params, split)[0],
    title="localization",
  )
  params = state.params if state.ema is None else state.ema
  facts["use_ema"] = state.ema is not None
  results.write_json(workdir / MODEL_FILE, facts)
  rows, table = score.rows(params, config.data.eval_split)
  if processes.is_first():
    write_predictions(table, workdir / PREDICTIONS_FILE)
  results.write(workdir, rows)
  return rows


def evaluate(config: LocalizationConfig, workdir, *, split=None) -> list[dict]:
  """Result rows of a finished run, by default on its `eval_split`."""
  facts = results.read_facts(workdir, MODEL_FILE)
  params, _ = checkpoint.restore_params(workdir, use_ema=facts["use_ema"])
  reader = feature_data.FeatureReader(config.data)
  score = _Score(config, reader, make_task(facts))
  return score.rows(params, split or config.data.eval_split)[0]


class _Score:
  """mAP of parameters on a split."""

  def __init__(self, config, reader, task):
    self._config = config
    self._reader = reader
    self._protocol = detection.protocol_named(config.protocol)
    self._predictor = evaluation.Predictor(
      task.predict,
      mesh=mesh_lib.make_mesh(config.mesh),
      batch_size=config.data.batch_size,
    )

  def __call__(self, params, split: str):
    """Metrics and the detections that they score."""
    table = detections(self._reader, self._predictor, params, split)
    table = with_class_source(table, self._config.classifier)
    truth = ground_truth(self._reader, split)
    return detection.evaluate(table, truth, self._protocol), table

  def rows(self, params, split: str):
    """Result rows and the detections that they score."""
    config = self._config
    metrics, table = self(params, split)
    card = self._reader.card(
      split,
      task="detection",
      protocol=config.protocol,
      thresholds=self._protocol.thresholds,
      nms=f"Gaussian soft-NMS, sigma {config.decode.sigma}, class-wise",
      top_k=f"{config.decode.num_kept} per video",
      class_source=class_source(config.classifier),
      seeds=(config.loop.seed,),
      num_predictions=len(table),
      num_ground_truths=len(ground_truth(self._reader, split)),
    )
    rows = results.rows_of(
      metrics,
      encoder=self._reader.extraction["encoder"],
      seed=config.loop.seed,
      dataset=config.data.dataset,
      split=split,
      task="localization",
      card=card,
    )
    return rows, table


def with_class_source(
  table: tables.DetectionTable, classifier: ClassifierConfig
) -> tables.DetectionTable:
  """Detections under the classes of the source that is configured."""
  if not classifier.path:
    return table
  return video_classifier.classify(
    table,
    video_classifier.read_video_scores(classifier.path),
    top_classes=classifier.top_classes,
    combination=classifier.combination,
  )


def class_source(classifier: ClassifierConfig) -> str:
  """What an evaluation card says of it."""
  if not classifier.path:
    return "the localizer's own class head"
  return video_classifier.describe(**dataclasses.asdict(classifier))


def model_facts(config, label_names, feature_width: int) -> dict:
  """What rebuilds the model for inference; plain JSON."""
  return {
    "label_names": list(label_names),
    "feature_width": feature_width,
    "max_length": config.data.max_length,
    "pyramid": dataclasses.asdict(config.pyramid),
    "head": dataclasses.asdict(config.head),
    "decode": dataclasses.asdict(config.decode),
  }


def make_task(
  facts: dict, *, loss_config: losses.PointLossConfig | None = None
) -> LocalizationTask:
  """The task that `model_facts` describes; for inference without a loss."""
  model = localizer.LocalizerConfig(
    num_classes=len(facts["label_names"]),
    pyramid=pyramid.PyramidConfig(**facts["pyramid"]),
    head=heads.HeadConfig(**facts["head"]),
  )
  return LocalizationTask(
    localizer.Localizer(model),
    loss_config or losses.PointLossConfig(),
    localizer.DecodeConfig(**facts["decode"]),
    facts["max_length"],
    facts["feature_width"],
  )


def detections(
  reader: feature_data.FeatureReader, predictor, params, split: str
) -> tables.DetectionTable:
  """Detections of a split's videos in seconds, cut to the videos."""
  source = reader.localization_source(split)
  features = reader.features(split)
  names = reader.dataset.label_names
  columns: dict[str, list] = {
    name: [] for name in ("video", "start_sec", "end_sec", "label", "score")
  }
  with pipeline.evaluation_batches(
    source, batch_size=reader.config.batch_size
  ) as batches:
    for batch, found in evaluation.predict_batches(predictor, params, batches):
      for row, index in enumerate(batch.video_index):
        if index < 0:
          continue
        info = source.examples[index]
        keep = found.mask[row]
        grid = features[info.id].grid
        segments = grid.to_seconds(found.segments[row][keep].astype(np.float64))
        segments = segments.clip(0.0, info.duration_sec)
        columns["video"] += [info.id] * len(segments)
        columns["start_sec"] += segments[:, 0].tolist()
        columns["end_sec"] += segments[:, 1].tolist()
        columns["label"] += [names[i] for i in found.labels[row][keep]]
        columns["score"] += found.scores[row][keep].tolist()
  return tables.DetectionTable.from_columns(
    **columns, video_names=tuple(i.id for i in source.examples)
  )


def ground_truth(reader, split: str) -> tables.SegmentTable:
  """Every labelled segment of a split, of videos without features too."""
  truth = truth_of(reader.examples(split), reader.dataset.label_names)
  if not len(truth):
    raise ValueError(
      f"Split {split!r} has no labelled segment to score against; name another "
      "in data.selection_split and data.eval_split."
    )
  return truth


def truth_of(infos, names) -> tables.SegmentTable:
  """The labelled segments of videos, class numbers as names."""
  rows = [
    (info.id, *segment, names[label])
    for info in infos
    for segment, label in zip(
      info.segments.astype(np.float64), info.labels, strict=True
    )
  ]
  video, start_sec, end_sec, label = (
    zip(*rows, strict=True) if rows else ((),) * 4
  )
  return tables.SegmentTable.from_columns(
    video=video,
    start_sec=start_sec,
    end_sec=end_sec,
    label=label,
    video_names=tuple(info.id for info in infos),
  )


def _width(source) -> int:
  return source[0].features.shape[-1]


def write_predictions(table: tables.DetectionTable, path) -> None:
  """ActivityNet's form: {"results": {video: [{label, score, segment}]}}."""
  found: dict[str, list] = {name: [] for name in table.video_names}
  for video, label, segment, score in zip(
    table.video, table.label, table.segments, table.score, strict=True
  ):
    found[table.video_names[video]].append(
      {
        "label": table.label_names[label],
        "score": float(score),
        "segment": [float(x) for x in segment],
      }
    )
  document = {"version": "clap_jax", "results": found, "external_data": {}}
  path.write_text(json.dumps(document) + "\n")
