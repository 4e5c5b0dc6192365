"""Post-pre-training: both towers, neither frozen, on clips of long videos.

One trainer serves every row of the comparison. `clap` is the masked contrastive
loss over action clips, background clips and captions; `tac` and `tsp` are class
and region cross-entropy; `clip` is the unmasked loss on action clips; `random`
trains nothing.
"""

import dataclasses
import functools
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.data import (
  augment,
  class_splits,
  clips,
  evaluation_clips,
  examples,
  frame_cache,
  order,
  pipeline,
  records,
  vocabulary,
)
from clap_jax.losses import (
  contrastive,
  contrastive_cached,
  contrastive_sharded,
)
from clap_jax.metrics import card, retrieval
from clap_jax.models import (
  attention,
  dual_encoder,
  layers,
  text_transformer,
  variants,
  video_tower,
)
from clap_jax.trainers import abstract, provenance, results, running
from clap_jax.trainers import facts as facts_lib
from clap_jax.trainers import start as start_lib
from clap_jax.training import (
  checkpoint,
  deterministic,
  evaluation,
  processes,
)
from clap_jax.training import mesh as mesh_lib
from clap_jax.training import task as task_lib

ENCODER_FILE = "encoder.json"
TOKENIZER_FILE = "tokenizer.model"


@dataclasses.dataclass(frozen=True)
class ClipShape:
  """How a clip is cut out of a video, for every stage that uses the tower."""

  clip_sec: float = config_lib.ranged(above=0.0)
  num_frames: int = config_lib.ranged(minimum=1)
  image_size: int = config_lib.ranged(minimum=8)  # pixels, both sides
  # How frames come to that size; see container.FrameConverter.
  resize: str = config_lib.choice("squash", "crop", "tsp", default="squash")


@dataclasses.dataclass(frozen=True)
class ClipData:
  """Where clips and texts come from."""

  dataset: str  # as `clap build` names it
  data_dir: str
  tokenizer: str  # a model file of `clap tokenizer`
  train_split: str
  selection_split: str  # looked at during training
  eval_split: str  # looked at once, at the end
  batch_size: int = config_lib.ranged(minimum=1)  # clips, over all devices
  cache_mib: float = config_lib.ranged(minimum=0.0)  # decoded videos; 0: none
  num_threads: int = config_lib.ranged(minimum=0)  # decoding ahead


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Which clips are drawn; see data/clips.py."""

  text_source: str = config_lib.choice(*clips.TEXT_SOURCES)
  background_share: float = config_lib.ranged(minimum=0.0, maximum=0.99)
  action_only: bool
  same_video_background: bool
  clips_per_video: int = config_lib.ranged(minimum=1)
  stream: int = config_lib.ranged(minimum=0)  # another one, other clips
  hidden_classes: tuple[str, ...]  # names that training must not see
  # "", or a split of data/class_splits.py whose base classes alone are seen.
  class_split: str = ""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The towers; vocabulary and classes come from the data."""

  video_size: str = config_lib.choice(*variants.VIDEO_SIZES)
  text_size: str = config_lib.choice(*variants.TEXT_SIZES)
  patch: tuple[int, int, int] = config_lib.ranged(minimum=1)
  projection_width: int = config_lib.ranged(minimum=1)
  max_text_length: int = config_lib.ranged(minimum=2)  # tokens
  motion_gain: float = config_lib.ranged(minimum=0.0)  # 0: colours only
  remat: bool
  dtype: str = config_lib.choice("float32", "bfloat16")
  video_tower: str = config_lib.choice(
    *video_tower.NAMES, default=video_tower.TRANSFORMER
  )
  text_tower: str = config_lib.choice(
    *text_transformer.STYLES, default="transformer"
  )
  # Parts of the batch with normalisation statistics of their own; 1: all
  # devices share theirs; 0: the running averages.
  batch_norm_groups: int = config_lib.ranged(default=1, minimum=0)
  remat_policy: str = config_lib.choice(
    *attention.REMAT_POLICIES, default="nothing"
  )
  attention: str = config_lib.choice(*layers.ATTENTIONS, default="whole")
  query_chunk: int = config_lib.ranged(default=0, minimum=0)  # of "chunked"


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Weights of the losses; a weight of 0 leaves its loss out."""

  contrastive_weight: float = config_lib.ranged(minimum=0.0)
  class_weight: float = config_lib.ranged(minimum=0.0)
  region_weight: float = config_lib.ranged(minimum=0.0)
  preset: str = config_lib.choice(*contrastive.PRESETS)
  objective: str = config_lib.choice(*contrastive.OBJECTIVES)
  implementation: str = config_lib.choice(*contrastive_sharded.IMPLEMENTATIONS)
  # Parts of each device's share that the towers encode one after the other, at
  # the price of a second forward pass; the loss sees the whole batch.
  num_microbatches: int = config_lib.ranged(default=1, minimum=1)
  # Slices, a power of two, in which a deterministic run goes through the batch:
  # the same bits on 1, 2, 4 and so on up to as many devices; 0: the fast way.
  deterministic: int = config_lib.ranged(default=0, minimum=0)

  def __post_init__(self):
    slices = self.deterministic
    if slices & (slices - 1):
      raise ValueError(f"deterministic must be a power of two, got {slices}.")
    if slices and self.num_microbatches > 1:
      raise ValueError(
        "deterministic has slices of its own: set num_microbatches to 1."
      )
    if not self.contrastive_weight + self.class_weight + self.region_weight:
      raise ValueError(
        "contrastive_weight, class_weight and region_weight are all 0; nothing "
        "would be learned. Give one of them a positive weight."
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(running.RunConfig):
  """Everything `clap train` reads of a pretrain config."""

  encoder: str  # the row's name in results.json
  data: ClipData
  clip: ClipShape
  sampling: Sampling
  augment: augment.AugmentOptions
  model: ModelConfig
  loss: LossConfig
  start: start_lib.StartConfig

  def __post_init__(self):
    tower, gain = self.model.video_tower, self.model.motion_gain
    if tower != video_tower.TRANSFORMER and gain:
      raise ValueError(
        f"model.motion_gain is {gain}, but the tower {tower} sees colours "
        "only: set it to 0."
      )
    patched = video_tower.is_patched(tower)
    frames, height, width = self.model.patch if patched else (1, 1, 1)
    for name, side, step in (
      ("clip.num_frames", self.clip.num_frames, frames),
      ("clip.image_size", self.clip.image_size, height),
      ("clip.image_size", self.clip.image_size, width),
    ):
      if side % step:
        raise ValueError(
          f"{name} is {side}, not a multiple of {step} in model.patch "
          f"{self.model.patch}."
        )
    if self.data.batch_size % max(self.loss.deterministic, 1):
      raise ValueError(
        f"data.batch_size is {self.data.batch_size}, not a multiple of "
        f"loss.deterministic {self.loss.deterministic}."
      )
    if self.data.batch_size % self.loss.num_microbatches:
      raise ValueError(
        f"data.batch_size is {self.data.batch_size}, not a multiple of "
        f"loss.num_microbatches {self.loss.num_microbatches}."
      )
    in_parts = self.loss.num_microbatches > 1 or self.loss.deterministic
    if not patched and in_parts and self.model.batch_norm_groups:
      raise ValueError(
        f"The tower {tower} normalises over the batch, of which "
        "loss.num_microbatches and loss.deterministic see a part: set them to "
        "1 and 0, or model.batch_norm_groups to 0 for the running averages."
      )


@dataclasses.dataclass(frozen=True)
class PretrainTask:
  """Clips and texts to a loss; a Task of training/task.py."""

  model: dual_encoder.DualEncoder
  loss_config: LossConfig

  def init(self, rng):
    config = self.model.config
    side, frames = config.image_size, config.num_frames
    return self.model.init(
      rng,
      np.zeros((1, frames, side, side, 3), np.uint8),
      np.zeros((1, config.max_text_length), np.int32),
      np.ones((1, config.max_text_length), bool),
    )

  def loss(self, params, batch: types.ClipBatch, rng):
    del rng  # augmentation happens on the host
    tracked = {}
    if self.loss_config.num_microbatches > 1:
      output = self._in_microbatches(params, batch)
    else:
      output, tracked = self.model.apply(
        params,
        batch.frames,
        batch.tokens,
        batch.token_mask,
        train=True,
        mutable=task_lib.TRACKED_COLLECTIONS,
      )
    total, metrics = self._objective(output, batch.pairs)
    return total, task_lib.Tracked(metrics, tracked) if tracked else metrics

  def sliced(self) -> deterministic.Sliced | None:
    """The same loss in two parts, if the run is to be deterministic."""
    if not self.loss_config.deterministic:
      return None

    def objective(params, output, pairs):
      output = self._with_scalars(params, output)
      return self._objective(output, pairs, axis_names=None)

    return deterministic.Sliced(
      divide=lambda batch: (batch._replace(pairs=None), batch.pairs),
      encode=self._encode,
      objective=objective,
      num_slices=self.loss_config.deterministic,
    )

  def _objective(self, output, pairs, *, axis_names=mesh_lib.BATCH_AXES):
    """(loss, metrics) of the outputs of a whole batch."""
    config = self.loss_config
    total, metrics = 0.0, {}
    if config.contrastive_weight:
      value, metrics = contrastive_sharded.contrastive_loss(
        output.video,
        output.text,
        pairs,
        output.logit_scale,
        rules=contrastive.PRESETS[config.preset],
        objective=config.objective,
        logit_bias=output.logit_bias,
        implementation=config.implementation,
        axis_names=axis_names,
      )
      metrics = dict(metrics) | {
        "contrastive": value,
        "logit_scale": output.logit_scale,
      }
      total = total + config.contrastive_weight * value
    if config.class_weight:
      labelled = pairs.valid & pairs.is_action & (pairs.class_id >= 0)
      value, accuracy = _cross_entropy(
        output.class_logits, pairs.class_id, labelled
      )
      metrics |= {"class": value, "class_accuracy": accuracy}
      total = total + config.class_weight * value
    if config.region_weight:
      value, accuracy = _cross_entropy(
        output.region_logits, pairs.is_action.astype(jnp.int32), pairs.valid
      )
      metrics |= {"region": value, "region_accuracy": accuracy}
      total = total + config.region_weight * value
    return total, metrics

  def _encode(self, params, part: types.ClipBatch):
    """The model's output but for what is not item by item."""
    output = self.model.apply(params, part.frames, part.tokens, part.token_mask)
    return output._replace(logit_scale=None, logit_bias=None)

  def _with_scalars(self, params, output):
    scale, bias = self.model.apply(params, method="logit_scalars")
    return output._replace(logit_scale=scale, logit_bias=bias)

  def _in_microbatches(self, params, batch: types.ClipBatch):
    """The model's output, in the memory of one microbatch of the towers."""
    output = contrastive_cached.encode_in_slices(
      self._encode,
      params,
      batch._replace(pairs=None),
      num_microbatches=self.loss_config.num_microbatches,
    )
    return self._with_scalars(params, output)

  def predict(self, params, batch: types.ClipBatch):
    output = self.model.apply(
      params, batch.frames, batch.tokens, batch.token_mask
    )
    return {"video": output.video, "text": output.text}


def _cross_entropy(logits, labels, mask):
  """Mean cross-entropy and accuracy over the mask; 0 where it is empty."""
  weight = mask.astype(jnp.float32)
  count = jnp.maximum(weight.sum(), 1.0)
  labels = jnp.where(mask, labels, 0)
  log_probability = jax.nn.log_softmax(logits)
  picked = jnp.take_along_axis(log_probability, labels[:, None], axis=1)
  hit = (logits.argmax(axis=-1) == labels).astype(jnp.float32)
  return -(picked[:, 0] * weight).sum() / count, (hit * weight).sum() / count


@dataclasses.dataclass(frozen=True)
class ClipReader:
  """The dataset with what is needed to cut clips and tokens from it."""

  config: PretrainConfig
  dataset: records.Dataset
  tokenizer: vocabulary.Vocabulary

  def training_source(self) -> examples.ClipSource:
    config = self.config
    records_of = self.dataset.split(config.data.train_split)
    infos = records_of.metadata(on_corrupt="skip").examples
    sampling = config.sampling
    sampler = clips.ClipSampler(
      infos,
      clips.ClipSamplerOptions(
        clip_sec=config.clip.clip_sec,
        text_source=sampling.text_source,
        background_share=sampling.background_share,
        action_only=sampling.action_only,
        same_video_background=sampling.same_video_background,
        clips_per_video=sampling.clips_per_video,
        hidden_classes=self.dataset.class_ids(self.hidden_names),
      ),
      label_names=self.dataset.label_names,
    )
    return examples.ClipSource(
      sampler,
      self._loader(records_of, infos, random_cut=True),
      tokenizer=self.tokenizer,
      text_length=config.model.max_text_length,
      augment=config.augment,
    )

  def captioned_clips(self, split: str) -> examples.EvaluationClipSource:
    """One clip per caption of a split, for retrieval."""
    records_of = self.dataset.split(split)
    infos = records_of.metadata(on_corrupt="skip").examples
    return examples.EvaluationClipSource(
      evaluation_clips.caption_clips(
        infos,
        clip_sec=self.config.clip.clip_sec,
        hidden_classes=self.dataset.class_ids(self.hidden_names),
        hidden_names=self.hidden_names,
      ),
      self._loader(records_of, infos),
      tokenizer=self.tokenizer,
      text_length=self.config.model.max_text_length,
    )

  @functools.cached_property
  def hidden_names(self) -> tuple[str, ...]:
    """The classes that training must not see, by name."""
    sampling = self.config.sampling
    hidden = sampling.hidden_classes
    if sampling.class_split:
      hidden += class_splits.class_split(
        sampling.class_split, label_names=self.dataset.label_names
      ).hidden
    return tuple(sorted(set(hidden)))

  def _loader(
    self, records_of, infos, *, random_cut: bool = False
  ) -> examples.FrameLoader:
    cache = frame_cache.FrameCache(self.config.data.cache_mib)
    clip = self.config.clip
    options = examples.FrameOptions(
      num_frames=clip.num_frames,
      size=clip.image_size,
      mode=clip.resize,
      random_cut=random_cut,
    )
    return examples.FrameLoader(records_of, options, cache=cache, infos=infos)


def resolve(config) -> PretrainConfig:
  return config_lib.resolve(PretrainConfig, config)


def abstract_run(
  config: PretrainConfig, facts: abstract.DataFacts
) -> abstract.AbstractRun:
  """The task and the shapes of its batch; see trainers/abstract.py."""
  towers = _towers(
    config, vocab_size=facts.vocab_size, num_classes=facts.num_classes
  )
  size, length = config.data.batch_size, config.model.max_text_length
  side = config.clip.image_size
  batch = types.ClipBatch(
    frames=abstract.array(
      size, config.clip.num_frames, side, side, 3, dtype=jnp.uint8
    ),
    tokens=abstract.array(size, length, dtype=jnp.int32),
    token_mask=abstract.array(size, length, dtype=jnp.bool_),
    pairs=abstract.pairs(size),
  )
  task = PretrainTask(dual_encoder.DualEncoder(towers), config.loss)
  return abstract.AbstractRun(task, batch)


def train(config: PretrainConfig, workdir) -> list[dict]:
  """Trains, or goes on training, in `workdir`; returns its result rows."""
  workdir = pathlib.Path(workdir)
  reader = _open(config)
  for split in (config.data.selection_split, config.data.eval_split):
    reader.dataset.split(split)
  source = reader.training_source()
  score = _RetrievalScore(config, reader)
  state = running.fit(
    score.task,
    config,
    workdir=workdir,
    source=source,
    measure=score,
    title=f"pretrain {config.encoder}",
    data_seed=order.mix(config.loop.seed, config.sampling.stream),
    prepare=start_lib.starter(config.start, score.task.model.config),
  )
  _write_encoder(
    config,
    score.task.model.config,
    workdir,
    skipped_records=source.bad_records.reasons,
    seen=what_was_seen(config, reader),
  )
  rows = score.rows(state.params, config.data.eval_split)
  results.write(workdir, rows)
  return rows


def evaluate(config: PretrainConfig, workdir, *, split=None) -> list[dict]:
  """Result rows of a finished run, by default on its `eval_split`."""
  score = _RetrievalScore(config, _open(config))
  params, _ = checkpoint.restore_params(workdir)
  return score.rows(params, split or config.data.eval_split)


def _open(config: PretrainConfig) -> ClipReader:
  return ClipReader(
    config,
    records.open_dataset(config.data.data_dir, config.data.dataset),
    vocabulary.load(config.data.tokenizer),
  )


class _RetrievalScore:
  """Retrieval between the clips and the captions of a split."""

  def __init__(self, config: PretrainConfig, reader: ClipReader):
    self.task = PretrainTask(
      dual_encoder.DualEncoder(model_config(config, reader)), config.loss
    )
    self._config = config
    self._reader = reader
    self._batch_size = config.data.batch_size
    self._predict = evaluation.Predictor(
      self.task.predict,
      mesh=mesh_lib.make_mesh(config.mesh),
      batch_size=self._batch_size,
    )

  def __call__(self, params, split: str) -> dict[str, float]:
    video, text, text_id = [], [], []
    with pipeline.evaluation_batches(
      self._reader.captioned_clips(split), batch_size=self._batch_size
    ) as batches:
      for batch, output in evaluation.predict_batches(
        self._predict, params, batches
      ):
        valid = batch.pairs.valid
        video.append(output["video"][valid])
        text.append(output["text"][valid])
        text_id.append(batch.pairs.text_id[valid])
    ids, first = np.unique(np.concatenate(text_id), return_index=True)
    return retrieval.evaluate(
      np.concatenate(video) @ np.concatenate(text)[first].T,
      video_text_id=np.concatenate(text_id),
      text_id=ids,
    )

  def rows(self, params, split: str) -> list[dict]:
    config = self._config
    return results.rows_of(
      self(params, split),
      encoder=config.encoder,
      seed=config.loop.seed,
      dataset=config.data.dataset,
      split=split,
      task="retrieval",
      card=self._card(split),
    )

  def _card(self, split: str) -> dict:
    dataset = self._reader.dataset
    infos = dataset.split(split).metadata(on_corrupt="skip")
    ids = [info.id for info in infos.examples]
    subset = dataset.subset_note(split)
    return card.EvaluationCard(
      protocol="retrieval: one clip per caption, equal texts are one query",
      task="retrieval",
      split=split,
      split_hash=card.split_hash(ids),
      num_evaluated=len(ids),
      num_missing=len(infos.corrupt),
      notes=(subset,) if subset else (),
      seeds=(self._config.loop.seed,),
    ).to_dict()


def model_config(
  config: PretrainConfig, reader: ClipReader
) -> dual_encoder.DualEncoderConfig:
  """The towers' config, with what the data decides."""
  return _towers(
    config,
    vocab_size=reader.tokenizer.vocab_size,
    num_classes=len(reader.dataset.label_names),
  )


def _towers(config: PretrainConfig, *, vocab_size: int, num_classes: int):
  model = config.model
  needs_classes = config.loss.class_weight or config.loss.region_weight
  return dual_encoder.DualEncoderConfig(
    video_size=model.video_size,
    text_size=model.text_size,
    num_frames=config.clip.num_frames,
    image_size=config.clip.image_size,
    patch=model.patch,
    vocab_size=vocab_size,
    max_text_length=model.max_text_length,
    projection_width=model.projection_width,
    num_classes=num_classes if needs_classes else 0,
    motion_gain=model.motion_gain,
    remat=model.remat,
    dtype=model.dtype,
    video_tower=model.video_tower,
    text_tower=model.text_tower,
    batch_norm_groups=model.batch_norm_groups,
    remat_policy=model.remat_policy,
    attention=model.attention,
    query_chunk=model.query_chunk,
  )


def described(facts: dict) -> tuple[ClipShape, dual_encoder.DualEncoderConfig]:
  """The shape of a clip and the towers that an encoder.json describes."""
  return ClipShape(**facts["clip"]), towers_of(facts["model"])


def towers_of(model: dict) -> dual_encoder.DualEncoderConfig:
  """The towers that the section "model" of an encoder.json describes."""
  values = model | {"patch": tuple(model["patch"])}  # a list in JSON
  return dual_encoder.DualEncoderConfig(**values)


def what_was_seen(config: PretrainConfig, reader: ClipReader) -> dict:
  """What all stages up to this one have trained on; see trainers.provenance.

  A run of no steps has seen nothing, others' weights do not say.
  """
  before = None
  if config.start.directories:
    before = {}
  elif config.start.workdir:
    path = pathlib.Path(config.start.workdir) / ENCODER_FILE
    facts = facts_lib.read(path.parent, path.name) if path.is_file() else {}
    before = facts.get("training", {})
  trains = bool(config.loop.length.value)
  names = set(reader.dataset.label_names) - set(reader.hidden_names)
  return provenance.after_stage(
    before,
    dataset=config.data.dataset,
    classes=names if trains else (),
    hidden=reader.hidden_names,
    reads_captions=trains
    and config.loss.contrastive_weight > 0
    and "captions" in config.sampling.text_source,
  )


def _write_encoder(
  config, model_config, workdir, *, skipped_records, seen
) -> None:
  """What `load_encoder` needs beside the parameters, written last."""
  if processes.is_first():
    shutil.copyfile(config.data.tokenizer, workdir / TOKENIZER_FILE)
  facts = {
    "encoder": config.encoder,
    "seed": config.loop.seed,
    "clip": dataclasses.asdict(config.clip),
    "model": dataclasses.asdict(model_config),
    "training": {
      "dataset": config.data.dataset,
      "split": config.data.train_split,
      "loss": dataclasses.asdict(config.loss),
      "sampling": dataclasses.asdict(config.sampling),
      "start": dataclasses.asdict(config.start),
      "skipped_records": skipped_records,
      **seen,
    },
  }
  facts_lib.write(workdir / ENCODER_FILE, facts)
