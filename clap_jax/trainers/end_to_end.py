"""Temporal action localization straight from records, tower in the loop.

The video tower encodes every clip of a video in micro-batches that are computed
again in the backward pass, so that the number of clips does not multiply the
memory; the gradient is that of all clips at once. What of the tower stays
frozen is said by `optimizer.groups`.
"""

import collections
import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.data import (
  clip_sequences,
  container,
  feature_windows,
  features,
  frame_cache,
  records,
  tfrecord,
)
from clap_jax.metrics import detection
from clap_jax.models import dual_encoder, long_video, video_tower
from clap_jax.trainers import (
  abstract,
  feature_data,
  localization,
  localizers,
  pretrain,
  results,
  running,
)
from clap_jax.trainers import facts as facts_lib
from clap_jax.training import checkpoint, evaluation, pretrained, processes
from clap_jax.training import mesh as mesh_lib

MODEL_DIRECTORY = "model"  # in the workdir: what `clap predict --model` takes
_CLIPS_PER_BATCH = 32  # when nothing is learned
_TOWER = "video_tower"
_LENGTH_MULTIPLE = 16


@dataclasses.dataclass(frozen=True)
class VideoData:
  """Which videos, and how they become sequences of clips."""

  dataset: str  # as `clap build` names it
  data_dir: str
  train_split: str
  selection_split: str  # looked at during training
  eval_split: str  # looked at once, at the end
  stride_sec: float = config_lib.ranged(above=0.0)  # between clips
  batch_size: int = config_lib.ranged(minimum=1)  # videos
  max_length: int = config_lib.ranged(minimum=8)  # clips of a training window
  crop_probability: float = config_lib.ranged(minimum=0.0, maximum=1.0)
  cache_mib: float = config_lib.ranged(minimum=0.0)  # decoded videos; 0: none
  num_threads: int = config_lib.ranged(minimum=0)  # decoding ahead


@dataclasses.dataclass(frozen=True)
class TowerConfig:
  """Where the tower comes from and how it is run."""

  workdir: str  # of a finished `clap train` of a pretrain config
  # Clips of each video encoded together, and again in the backward pass; the
  # memory grows with it. Divides data.max_length.
  clips_per_step: int = config_lib.ranged(minimum=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndToEndConfig(localization.LocalizationConfig):
  """Everything `clap train` reads of an end-to-end config."""

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
  """Clips of whole videos to detections; a Task of training/task.py.

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
    """Clips uint8 (m, t, height, width, 3) to features float32 (m, d)."""
    # The temperature belongs to the module's root; no feature depends on it.
    unused = {"logit_scale": jnp.zeros(()), "logit_bias": jnp.zeros(())}
    return self.encoder.apply(
      {"params": tower | unused}, clips, method="video_feature"
    )

  def features(self, params, clips: jax.Array) -> jax.Array:
    """Clips (b, n, t, height, width, 3) to features (b, n, d)."""
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


@dataclasses.dataclass(frozen=True)
class EncodedVideos(feature_data.FeatureReader):
  """Features of the tower as it is now, in the place of files."""

  encoded: Mapping[str, Mapping[str, features.VideoFeatures]]  # split -> id
  facts: Mapping[str, Any]  # as `clap extract` notes them

  @property
  def extraction(self):
    return dict(self.facts)

  def features(self, split: str):
    return self.encoded[split]


def resolve(config) -> EndToEndConfig:
  return config_lib.resolve(EndToEndConfig, config)


def abstract_run(
  config: EndToEndConfig, facts: abstract.DataFacts
) -> abstract.AbstractRun:
  """The task and the shapes of its batch; see trainers/abstract.py.

  Raises:
    FileNotFoundError: `tower.workdir`, which says what the tower is, holds no
      finished pre-training.
  """
  start, _ = facts_lib.load(
    config.tower.workdir, pretrain.ENCODER_FILE, pretrain.described
  )
  task = make_task(config, start, [str(i) for i in range(facts.num_classes)])
  tower, data = task.encoder.config, config.data
  size, length = data.batch_size, data.max_length
  side = tower.image_size
  batch = types.ClipSequenceBatch(
    clips=abstract.array(
      size, length, tower.num_frames, side, side, 3, dtype=jnp.uint8
    ),
    mask=abstract.array(size, length, dtype=jnp.bool_),
    segments=abstract.array(size, facts.max_segments, 2),
    labels=abstract.array(size, facts.max_segments, dtype=jnp.int32),
    segment_mask=abstract.array(size, facts.max_segments, dtype=jnp.bool_),
    video_index=abstract.array(size, dtype=jnp.int32),
  )
  return abstract.AbstractRun(task, batch)


def train(config: EndToEndConfig, workdir) -> list[dict]:
  """Trains, or goes on training, in `workdir`; returns its result rows.

  Raises:
    FileNotFoundError: `tower.workdir` holds no finished pre-training.
  """
  workdir = pathlib.Path(workdir)
  start, _ = facts_lib.load(
    config.tower.workdir, pretrain.ENCODER_FILE, pretrain.described
  )
  videos = _Videos(config, start)
  tower, _ = checkpoint.restore_params(config.tower.workdir)
  task = make_task(config, start, videos.dataset.label_names)
  score = _Score(config, start, videos, task)
  source = videos.source(config.data.train_split)
  state = running.fit(
    task,
    config,
    workdir=workdir,
    source=source,
    measure=lambda params, split: score(params, split)[0],
    title="localization, end to end",
    prepare=lambda state: pretrained.start_from(
      state,
      {"tower": {_TOWER: tower["params"][_TOWER]}},
      patterns=(f"^tower/{_TOWER}/",),
    ),
  )
  params = jax.device_get(state.params if state.ema is None else state.ema)
  rows, table = score.rows(params, config.data.eval_split)
  _write_model(config, workdir, params, task=task, start=start, tower=tower)
  if processes.is_first():
    localization.write_predictions(
      table, workdir / localization.PREDICTIONS_FILE
    )
  results.write(workdir, rows)
  return rows


def evaluate(config: EndToEndConfig, workdir, *, split=None) -> list[dict]:
  """Result rows of a finished run, by default on its `eval_split`."""
  model = pathlib.Path(workdir) / MODEL_DIRECTORY
  facts = facts_lib.read(model / "encoder", pretrain.ENCODER_FILE)
  videos = _Videos(config, facts)
  encoder, _ = checkpoint.restore_params(model / "encoder")
  head, _ = checkpoint.restore_params(model / "localization")
  task = make_task(config, facts, videos.dataset.label_names)
  params = {"tower": {_TOWER: encoder["params"][_TOWER]}, "localizer": head}
  score = _Score(config, facts, videos, task)
  return score.rows(params, split or config.data.eval_split)[0]


def make_task(config, facts: dict, label_names) -> EndToEndTask:
  """The task for the tower that `facts`, an encoder.json, describes."""
  encoder = dual_encoder.DualEncoder(pretrain.towers_of(facts["model"]))
  if not video_tower.is_patched(encoder.config.video_tower):
    raise ValueError(
      f"tower.workdir holds a {encoder.config.video_tower}, which normalises "
      "over batches: only transformers are trained end to end. Extract "
      "features and train localization on them."
    )
  return EndToEndTask(
    encoder=encoder,
    localizer=localization.make_task(
      localization.model_facts(config, label_names, _feature_width(encoder)),
      loss_config=config.loss,
    ),
    clips_per_step=config.tower.clips_per_step,
  )


def _init_encoder(encoder: dual_encoder.DualEncoder, rng) -> dict:
  """Fresh parameters of both towers."""
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


@dataclasses.dataclass(frozen=True)
class _Videos:
  """The records of the config, split by split."""

  config: EndToEndConfig
  facts: dict  # encoder.json: the shape of a clip

  @functools.cached_property
  def dataset(self) -> records.Dataset:
    return records.open_dataset(
      self.config.data.data_dir, self.config.data.dataset
    )

  @functools.cached_property
  def _cache(self) -> dict[str, frame_cache.FrameCache]:
    data = self.config.data
    # What the other two splits leave is for training, which reads most.
    shares = collections.Counter()
    for split in (data.train_split, data.selection_split, data.eval_split):
      shares[split] += 1
    return {
      split: frame_cache.FrameCache(data.cache_mib * share / 3)
      for split, share in shares.items()
    }

  def source(self, split: str) -> clip_sequences.ClipSequenceSource:
    data, clip = self.config.data, pretrain.ClipShape(**self.facts["clip"])
    split_records = self.dataset.split(split)
    cache = self._cache.get(split) or frame_cache.FrameCache(0.0)
    return clip_sequences.ClipSequenceSource(
      split_records,
      split_records.metadata(on_corrupt="skip").examples,
      clips=clip_sequences.ClipOptions(
        clip_sec=clip.clip_sec,
        stride_sec=data.stride_sec,
        num_frames=clip.num_frames,
        size=clip.image_size,
      ),
      windows=feature_windows.SequenceOptions(
        max_length=data.max_length, crop_probability=data.crop_probability
      ),
      cache=cache,
    )


class _Score:
  """mAP of parameters on a split; every clip of every video is encoded."""

  def __init__(self, config, facts, videos: _Videos, task: EndToEndTask):
    self._config = config
    self._facts = facts
    self._videos = videos
    self._sources: dict[str, clip_sequences.ClipSequenceSource] = {}
    self._protocol = detection.protocol_named(config.protocol)
    self._mesh = mesh_lib.make_mesh(config.mesh)
    self._encode = evaluation.Predictor(
      task.encode, mesh=self._mesh, batch_size=_CLIPS_PER_BATCH
    )
    self._detect = evaluation.Predictor(
      task.localizer.predict,
      mesh=self._mesh,
      batch_size=config.data.batch_size,
    )

  def __call__(self, params, split: str):
    """Metrics, the detections that they score, and the features."""
    reader = self._read(params["tower"], split)
    table = localization.detections(
      reader,
      self._detect,
      params["localizer"],
      split,
      decode=self._config.decode,
    )
    table = localization.with_class_source(table, self._config.classifier)
    truth = localization.ground_truth(reader, split)
    return detection.evaluate(table, truth, self._protocol), table, reader

  def _read(self, tower, split: str) -> EncodedVideos:
    if split not in self._sources:
      self._sources[split] = self._videos.source(split)
    source, data = self._sources[split], self._config.data
    encoded = dict(_encode_all(source, self._encode, tower))
    longest = max(len(video.features) for video in encoded.values())
    return EncodedVideos(
      config=feature_data.FeatureData(
        dataset=data.dataset,
        data_dir=data.data_dir,
        features_dir="",
        train_split=data.train_split,
        selection_split=data.selection_split,
        eval_split=data.eval_split,
        batch_size=data.batch_size,
        max_length=max(
          data.max_length, -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
        ),
        crop_probability=0.0,
        num_threads=data.num_threads,
      ),
      encoded={split: encoded},
      facts={
        "encoder": self._facts["encoder"],
        "seed": self._facts["seed"],
        "stride_sec": data.stride_sec,
        "parameters": "trained with the localizer",
      },
    )

  def rows(self, params, split: str):
    """Result rows and the detections that they score."""
    config = self._config
    metrics, table, reader = self(params, split)
    frozen = [pattern for pattern, rate in config.optimizer.groups if not rate]
    card = reader.card(
      split,
      task="detection",
      protocol=config.protocol,
      thresholds=self._protocol.thresholds,
      nms=f"Gaussian soft-NMS, sigma {config.decode.sigma}, class-wise",
      top_k=f"{config.decode.num_kept} per video",
      class_source=localization.class_source(config.classifier),
      seeds=(config.loop.seed,),
      num_predictions=len(table),
      num_ground_truths=len(localization.ground_truth(reader, split)),
      notes=(
        "end to end: the video tower is trained with the localizer, "
        + (f"frozen {', '.join(frozen)}" if frozen else "nothing frozen"),
      ),
    )
    rows = results.rows_of(
      metrics,
      encoder=self._facts["encoder"],
      seed=config.loop.seed,
      dataset=config.data.dataset,
      split=split,
      task="localization",
      card=card,
    )
    return rows, table


def _encode_all(
  source: clip_sequences.ClipSequenceSource,
  encode: evaluation.Predictor,
  tower,
) -> Iterator[tuple[str, features.VideoFeatures]]:
  """(id, features) of every video that decodes, a few clips at a time."""
  tower = encode.place(tower)
  rows: dict[str, list[np.ndarray]] = {}
  waiting: list[tuple[str, np.ndarray]] = []

  def flush():
    output = encode(tower, np.stack([clip for _, clip in waiting]))
    for (name, _), row in zip(waiting, output, strict=True):
      rows.setdefault(name, []).append(row)
    waiting.clear()

  for info in source.examples:
    try:
      for clip in source.stream(info):
        waiting.append((info.id, clip))
        if len(waiting) == _CLIPS_PER_BATCH:
          flush()
    except (container.VideoError, tfrecord.CorruptRecordError) as error:
      source.leave_out(info, error)
  if waiting:
    flush()
  for name, parts in rows.items():
    if name not in source.bad_videos.reasons:
      yield name, features.VideoFeatures(np.stack(parts), source.grid)


def _write_model(config, workdir, params, *, task, start, tower) -> None:
  """What `clap predict --model WORKDIR/model` and `clap extract` take."""
  directory = workdir / MODEL_DIRECTORY
  encoder, head = directory / "encoder", directory / "localization"
  whole = tower["params"] | {_TOWER: params["tower"][_TOWER]}
  checkpoint.write_params(encoder, {"params": whole})
  checkpoint.write_params(head, params["localizer"])
  if processes.is_first():
    shutil.copyfile(
      pathlib.Path(config.tower.workdir) / pretrain.TOKENIZER_FILE,
      encoder / pretrain.TOKENIZER_FILE,
    )
  names = _Videos(config, start).dataset.label_names
  width = _feature_width(task.encoder)
  facts = localization.model_facts(config, names, width)
  facts_lib.write(head / localization.MODEL_FILE, facts | {"use_ema": False})
  training = start["training"] | {
    "seen_classes": sorted(names),
    "end_to_end": f"localization on {config.data.dataset}",
  }
  facts_lib.write(
    encoder / pretrain.ENCODER_FILE, start | {"training": training}
  )
  facts_lib.write(
    directory / "model.json",
    {
      "encoder": "encoder",
      "stride_sec": config.data.stride_sec,
      "localization": "localization",
      "grounding": None,
    },
  )
