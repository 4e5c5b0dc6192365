"""Trains temporal action localization end to end with the video tower.

The video tower encodes every clip of a video in micro-batches that are computed
again in the backward pass, so that the number of clips does not multiply the
memory; the gradient is that of all clips at once. `optimizer.groups` states
which parts of the tower stay frozen.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.data import duration_checks, training_history
from clap_jax.evaluation import end_to_end as evaluation
from clap_jax.models import dual_encoder, long_video, video_tower
from clap_jax.storage import locations, output
from clap_jax.storage import metadata as metadata_lib
from clap_jax.trainers import abstract, encoders, fit, localization, localizers
from clap_jax.training import checkpoint, pretrained, processes

MODEL_DIRECTORY = "model"  # in the workdir: what `clap predict --model` takes
_TOWER = "video_tower"


@dataclasses.dataclass(frozen=True)
class VideoData:
  """Options of the videos and of sampling their clip sequences."""

  dataset: str  # as `clap build` names it
  data_dir: str
  train_split: str
  selection_split: str  # evaluated during training
  eval_split: str  # evaluated once, at the end
  stride_sec: float = config_lib.ranged(above=0.0)  # between clips
  batch_size: int = config_lib.ranged(minimum=1)  # videos
  max_length: int = config_lib.ranged(minimum=8)  # clips of a training window
  crop_probability: float = config_lib.ranged(minimum=0.0, maximum=1.0)
  cache_mib: float = config_lib.ranged(minimum=0.0)  # decoded videos; 0: none
  num_threads: int = config_lib.ranged(minimum=0)  # decoding ahead

  @property
  def length(self) -> str:
    """Returns the length mode, as feature_reader.FeatureData does."""
    return "pad"


@dataclasses.dataclass(frozen=True)
class TowerConfig:
  """Options of the tower: its origin and its memory use."""

  workdir: str  # of a finished `clap train` of a pretrain config
  # Clips of each video encoded together, and again in the backward pass; the
  # memory grows with it. Divides data.max_length.
  clips_per_step: int = config_lib.ranged(minimum=1)
  # A finished localization run on this tower's frozen features, whose head
  # training starts from; "" for a fresh head.
  localizer_workdir: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndToEndConfig(localizers.LocalizationConfig):
  """Config of `clap train` for end-to-end localization."""

  data: VideoData
  tower: TowerConfig

  def __post_init__(self):
    super().__post_init__()
    if self.data.max_length % self.tower.clips_per_step:
      raise ValueError(
        f"tower.clips_per_step is {self.tower.clips_per_step}, which does not "
        f"divide data.max_length {self.data.max_length}."
      )
    if not self.tower.workdir:
      raise ValueError(
        "tower.workdir is empty; give the --workdir of a finished `clap train` "
        "of a pretrain config (encoder=random for an untrained tower)."
      )


@dataclasses.dataclass(frozen=True)
class EndToEndTask:
  """Task from clips of whole videos to detections; see training/task.py.

  Parameters: {"tower": the video tower's, "localizer": the localizer's}.
  """

  encoder: dual_encoder.DualEncoder
  localizer: localizers.FeatureTask
  clips_per_step: int

  def init(self, rng):
    rng_tower, rng_localizer = jax.random.split(rng)
    params = _init_encoder(self.encoder, rng_tower)
    return {
      "tower": {_TOWER: params[_TOWER]},
      "localizer": self.localizer.init(rng_localizer),
    }

  def encode(self, tower, clips: jax.Array) -> jax.Array:
    """Encodes clips uint8 (m, t, height, width, 3) to float32 (m, d)."""
    # The temperature belongs to the module's root; no feature depends on it.
    unused = {"logit_scale": jnp.zeros(()), "logit_bias": jnp.zeros(())}
    feature = self.encoder.apply(
      {"params": tower | unused}, clips, method="video_feature"
    )
    # Flax adds the state that `mutable` would return.
    return cast(jax.Array, feature)

  def features(self, params, clips: jax.Array) -> jax.Array:
    """Encodes clips (b, n, t, height, width, 3) to features (b, n, d)."""
    return long_video.encode_clips(
      params["tower"],
      clips,
      encode=self.encode,
      clips_per_step=self.clips_per_step,
    )

  def loss(self, params, batch: types.ClipSequenceBatch, rng):
    fields = batch._asdict()
    encoded = self.features(params, fields.pop("clips"))
    return self.localizer.loss(
      params["localizer"],
      types.LocalizationBatch(features=encoded, **fields),
      rng,
    )

  def predict(self, params, batch: types.ClipSequenceBatch):
    encoded = self.features(params, batch.clips)
    return self.localizer.detect(params["localizer"], encoded, batch.mask)


def abstract_run(
  config: EndToEndConfig, facts: abstract.DataFacts
) -> abstract.AbstractRun:
  """Returns the task and its batch shapes; see trainers/abstract.py.

  Raises:
    FileNotFoundError: `tower.workdir`, which defines the tower, holds no
      finished pre-training.
  """
  start, _ = metadata_lib.load(
    config.tower.workdir, encoders.ENCODER_FILE, encoders.described
  )
  task = make_task(config, start, [str(i) for i in range(facts.num_classes)])
  tower = task.encoder.config
  batch = abstract.batch_of(
    types.ClipSequenceBatch,
    b=config.data.batch_size,
    n=config.data.max_length,
    t=tower.num_frames,
    height=tower.image_size,
    width=tower.image_size,
    m=facts.max_segments,
  )
  return abstract.AbstractRun(task, batch)


def train(config: EndToEndConfig, workdir) -> list[dict]:
  """Trains or resumes the run in `workdir`; returns its result rows.

  Raises:
    FileNotFoundError: `tower.workdir` holds no finished pre-training, or
      `tower.localizer_workdir` no finished localization run.
    ValueError: the localizer to start from has another architecture.
  """
  workdir = locations.at(workdir)
  start, _ = metadata_lib.load(
    config.tower.workdir, encoders.ENCODER_FILE, encoders.described
  )
  videos = evaluation.Videos(config, start)
  duration_checks.check_counts(
    duration_checks.split_flags(config.data),
    count=lambda split: sum(
      len(info.labels) for info in videos.dataset.examples(split)
    ),
    what="labelled segment",
    choices=videos.dataset.splits,
  )
  tower = encoders.restore_params(config.tower.workdir)
  task = make_task(config, start, videos.dataset.label_names)
  begin = {"tower": {_TOWER: tower["params"][_TOWER]}}
  begin |= _trained_head(config, start, videos, task)
  evaluator = evaluation.Evaluator(config, start, videos, task)
  source = videos.source(config.data.train_split)
  params, _ = fit.fit(
    task,
    config,
    workdir=workdir,
    source=source,
    measure=lambda params, split: evaluator(params, split)[0],
    title="localization, end to end",
    prepare=lambda state: pretrained.start_from(
      state, begin, patterns=(f"^tower/{_TOWER}/", "^localizer/")
    ),
  )
  params = jax.device_get(params)
  _write_model(config, workdir, params, task=task, start=start, tower=tower)
  return evaluator.write(workdir, params, config.data.eval_split)


def evaluate(config: EndToEndConfig, workdir, *, split=None) -> list[dict]:
  """Evaluates a finished run, by default on its `eval_split`."""
  model = locations.at(workdir) / MODEL_DIRECTORY
  facts = metadata_lib.read(model / "encoder", encoders.ENCODER_FILE)
  videos = evaluation.Videos(config, facts)
  encoder = encoders.restore_params(model / "encoder")
  head, _ = checkpoint.restore_params(model / "localization")
  task = make_task(config, facts, videos.dataset.label_names)
  params = {"tower": {_TOWER: encoder["params"][_TOWER]}, "localizer": head}
  evaluator = evaluation.Evaluator(config, facts, videos, task)
  return evaluator.rows(params, split or config.data.eval_split)[0]


def make_task(config, facts: dict, label_names) -> EndToEndTask:
  """Makes the task for the tower of `facts`, an encoder.json."""
  encoder = dual_encoder.DualEncoder(encoders.towers_of(facts["model"]))
  if not video_tower.is_patched(encoder.config.video_tower):
    raise ValueError(
      f"tower.workdir holds a {encoder.config.video_tower}, which normalises "
      "over batches: only transformers are trained end to end. Extract "
      "features and train localization on them."
    )
  return EndToEndTask(
    encoder=encoder,
    localizer=localizers.make_task(
      localizers.model_metadata(config, label_names, _feature_width(encoder)),
      loss_config=config.loss,
    ),
    clips_per_step=config.tower.clips_per_step,
  )


def _trained_head(config, start, videos, task) -> dict:
  """Restores {"localizer": parameters} of `tower.localizer_workdir`, or {}.

  Raises:
    FileNotFoundError: it holds no finished localization run.
    ValueError: its head has another architecture or other classes.
  """
  workdir = config.tower.localizer_workdir
  if not workdir:
    return {}
  facts = metadata_lib.read(workdir, localization.MODEL_FILE)
  ours = localizers.model_metadata(
    config, videos.dataset.label_names, _feature_width(task.encoder)
  )
  wrong = [
    f"  {key}: {facts.get(key)!r} there, {ours[key]!r} here"
    for key in ("localizer", "label_names", "feature_width", "pyramid", "head")
    if facts.get(key) != json.loads(json.dumps(ours[key]))
  ]
  if facts["standardization"] is not None:
    wrong.append("  its features were standardized, the current ones are not")
  if wrong:
    raise ValueError(
      f"tower.localizer_workdir {workdir} holds another localizer:\n"
      + "\n".join(wrong)
    )
  params, _ = checkpoint.restore_params(workdir, use_ema=facts["use_ema"])
  return {"localizer": params}


def _init_encoder(encoder: dual_encoder.DualEncoder, rng) -> Mapping[str, Any]:
  """Initializes the parameters of both towers."""
  config = encoder.config
  side, length = config.image_size, config.max_text_length
  return encoder.init(
    rng,
    jnp.zeros((1, config.num_frames, side, side, 3), jnp.uint8),
    jnp.zeros((1, length), jnp.int32),
    jnp.ones((1, length), bool),
  )["params"]


def _feature_width(encoder: dual_encoder.DualEncoder) -> int:
  shapes = jax.eval_shape(
    lambda rng: _init_encoder(encoder, rng), jax.random.key(0)
  )
  return shapes["video_projection"]["kernel"].shape[0]


def _write_model(config, workdir, params, *, task, start, tower) -> None:
  """Writes the model for `clap predict` and `clap extract`."""
  directory = workdir / MODEL_DIRECTORY
  encoder, head = directory / "encoder", directory / "localization"
  whole = tower["params"] | {_TOWER: params["tower"][_TOWER]}
  checkpoint.write_params(encoder, {"params": whole})
  checkpoint.write_params(head, params["localizer"])
  if processes.is_first():
    output.copy(
      locations.at(config.tower.workdir) / encoders.TOKENIZER_FILE,
      encoder / encoders.TOKENIZER_FILE,
    )
  names = evaluation.Videos(config, start).dataset.label_names
  width = _feature_width(task.encoder)
  facts = localizers.model_metadata(config, names, width)
  fit.write_metadata(head / localization.MODEL_FILE, facts | {"use_ema": False})
  training = start["training"] | {
    **training_history.after_stage(
      start["training"],
      dataset=config.data.dataset,
      classes=names,
      hidden=(),
      reads_captions=False,
    ),
    "end_to_end": f"localization on {config.data.dataset}",
  }
  fit.write_metadata(
    encoder / encoders.ENCODER_FILE,
    start | {"training": training, "use_ema": False},
  )
  fit.write_metadata(
    directory / "model.json",
    {
      "encoder": "encoder",
      "stride_sec": config.data.stride_sec,
      "localization": "localization",
      "grounding": None,
    },
  )
