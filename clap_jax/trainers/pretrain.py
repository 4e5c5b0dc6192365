"""Post-pre-trains both towers on clips of untrimmed videos.

One trainer serves every row of the comparison. `clap` is the masked contrastive
loss over action clips, background clips and captions; `tac` and `tsp` are class
and region cross-entropy; `clip` is the unmasked loss on action clips; `random`
trains nothing.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.data import augment, pipeline, shuffle
from clap_jax.metrics import card, retrieval
from clap_jax.models import dual_encoder, video_tower
from clap_jax.storage import locations, output
from clap_jax.trainers import (
  abstract,
  clip_data,
  data_checks,
  encoders,
  pretrain_task,
  results,
  running,
  training_history,
)
from clap_jax.trainers import initial_parameters as start_lib
from clap_jax.trainers import metadata as metadata_lib
from clap_jax.training import evaluation, processes
from clap_jax.training import mesh as mesh_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(running.RunConfig):
  """Everything `clap train` reads of a pretrain config."""

  encoder: str  # the row's name in results.json
  data: clip_data.ClipData
  clip: encoders.ClipShape
  sampling: clip_data.Sampling
  augment: augment.AugmentOptions
  model: encoders.ModelConfig
  loss: pretrain_task.LossConfig
  start: start_lib.StartConfig

  def __post_init__(self):
    tower, gain = self.model.video_tower, self.model.motion_gain
    if tower != video_tower.TRANSFORMER and gain:
      raise ValueError(
        f"model.motion_gain is {gain}, but the tower {tower} sees colours "
        "only: set it to 0."
      )
    patched = video_tower.is_patched(tower)
    if not patched and self.model.remat_policy != "nothing":
      raise ValueError(
        f"model.remat_policy is {self.model.remat_policy!r}, but the tower "
        f"{tower} recomputes whole blocks: set it to nothing."
      )
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


def config_class(config) -> type[PretrainConfig]:
  """The dataclass of this trainer's configs."""
  del config
  return PretrainConfig


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
  task = pretrain_task.PretrainTask(
    dual_encoder.DualEncoder(towers), config.loss
  )
  return abstract.AbstractRun(task, batch)


def train(config: PretrainConfig, workdir) -> list[dict]:
  """Trains, or goes on training, in `workdir`; returns its result rows."""
  workdir = locations.at(workdir)
  reader = open_reader(config)
  data_checks.check_counts(
    data_checks.split_flags(config.data),
    count=lambda split: len(data_checks.recorded(reader.dataset, split)),
    what="readable video",
    choices=reader.dataset.splits,
  )
  _check_texts(config, reader)
  source = reader.training_source()
  score = _RetrievalScore(config, reader)
  state = running.fit(
    score.task,
    config,
    workdir=workdir,
    source=source,
    measure=score if reader.num_captions(config.data.selection_split) else None,
    title=f"pretrain {config.encoder}",
    data_seed=shuffle.mix(config.loop.seed, config.sampling.stream),
    prepare=start_lib.starter(config.start, score.task.model.config),
  )
  params, average = running.trained(state)
  _write_encoder(
    config,
    score.task.model.config,
    workdir,
    skipped_records=source.bad_records.reasons,
    seen=training_history_of(config, reader),
    average=average,
  )
  rows = score.rows(params, config.data.eval_split)
  results.write(workdir, rows)
  return rows


def evaluate(config: PretrainConfig, workdir, *, split=None) -> list[dict]:
  """Result rows of a finished run, by default on its `eval_split`."""
  score = _RetrievalScore(config, open_reader(config))
  params = encoders.restore_params(workdir)
  return score.rows(params, split or config.data.eval_split)


def open_reader(config: PretrainConfig) -> clip_data.ClipReader:
  return clip_data.ClipReader(
    config.data,
    config.clip,
    config.sampling,
    config.augment,
    config.model.max_text_length,
  )


def _check_texts(config: PretrainConfig, reader: clip_data.ClipReader) -> None:
  """Raises a ValueError if a loss has nothing to learn from in the data."""
  loss, data = config.loss, config.data
  if loss.class_weight and not reader.dataset.label_names:
    raise ValueError(
      f"loss.class_weight is {loss.class_weight}, but {data.dataset} has no "
      "labels: set it to 0, or build the dataset with labels."
    )
  reads_captions_alone = config.sampling.text_source == "captions"
  if (
    loss.contrastive_weight
    and config.loop.length.value
    and reads_captions_alone
    and not reader.num_captions(data.train_split)
  ):
    raise ValueError(
      f"sampling.text_source is captions, but {data.train_split} of "
      f"{data.dataset} has none: set it to labels, or train encoder=tac."
    )


class _RetrievalScore:
  """Retrieval between the clips and the captions of a split."""

  def __init__(self, config: PretrainConfig, reader: clip_data.ClipReader):
    self.task = pretrain_task.PretrainTask(
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
    source = self._reader.captioned_clips(split)
    params = self._predict.place(params)
    video, text = [], []
    with pipeline.evaluation_batches(
      source, batch_size=self._batch_size, rows=self._predict.rows
    ) as batches:
      for batch in batches:
        output = self._predict.of_rows(params, batch)
        video.append(output["video"])
        text.append(output["text"])
    # The padding of the last batch comes after all clips.
    text_id = source.text_ids
    video = np.concatenate(video)[: len(source)]
    text = np.concatenate(text)[: len(source)]
    ids, first = np.unique(text_id, return_index=True)
    return retrieval.evaluate(
      video @ text[first].T, video_text_id=text_id, text_id=ids
    )

  def rows(self, params, split: str) -> list[dict]:
    """Retrieval; a row that states what is left out, without captions."""
    config = self._config
    if self._reader.num_captions(split):
      task, metrics, notes = "retrieval", self(params, split), ()
    else:
      task, metrics = "pretraining", {"num_captions": 0.0}
      notes = (f"retrieval is left out: {split} has no captions",)
      processes.say(notes[0])
    return results.rows_of(
      metrics,
      encoder=config.encoder,
      seed=config.loop.seed,
      dataset=config.data.dataset,
      split=split,
      task=task,
      card=self._card(split, task=task, notes=notes),
    )

  def _card(self, split: str, *, task: str, notes: tuple[str, ...]) -> dict:
    dataset = self._reader.dataset
    infos = dataset.split(split).metadata(on_corrupt="skip")
    ids = [info.id for info in infos.examples]
    subset = dataset.subset_note(split)
    return card.EvaluationCard(
      protocol="retrieval: one clip per caption, equal texts are one query",
      task=task,
      split=split,
      split_hash=card.split_hash(ids),
      num_evaluated=len(ids),
      num_missing=len(infos.corrupt),
      notes=((subset,) if subset else ()) + notes,
      seeds=(self._config.loop.seed,),
    ).to_dict()


def model_config(
  config: PretrainConfig, reader: clip_data.ClipReader
) -> dual_encoder.DualEncoderConfig:
  """The towers' config, with what the data decides."""
  return _towers(
    config,
    vocab_size=reader.tokenizer.vocab_size,
    num_classes=len(reader.dataset.label_names),
  )


def _towers(config: PretrainConfig, *, vocab_size: int, num_classes: int):
  needs_classes = config.loss.class_weight or config.loss.region_weight
  return encoders.towers(
    config.model,
    config.clip,
    vocab_size=vocab_size,
    num_classes=num_classes if needs_classes else 0,
  )


def training_history_of(
  config: PretrainConfig, reader: clip_data.ClipReader
) -> dict:
  """Returns the training history up to this stage; see training_history.

  A run of no steps has seen nothing, others' weights do not say.
  """
  before = None
  if config.start.directories:
    before = {}
  elif config.start.workdir:
    path = locations.at(config.start.workdir) / encoders.ENCODER_FILE
    facts = metadata_lib.read(path.parent, path.name) if path.is_file() else {}
    before = facts.get("training", {})
  trains = bool(config.loop.length.value)
  names = set(reader.dataset.label_names) - set(reader.hidden_names)
  return training_history.after_stage(
    before,
    dataset=config.data.dataset,
    classes=names if trains else (),
    hidden=reader.hidden_names,
    reads_captions=trains
    and config.loss.contrastive_weight > 0
    and "captions" in config.sampling.text_source,
  )


def _write_encoder(
  config, model_config, workdir, *, skipped_records, seen, average
) -> None:
  """Writes the metadata that `load_encoder` needs, last of all."""
  if processes.is_first():
    output.copy(config.data.tokenizer, workdir / encoders.TOKENIZER_FILE)
  facts = {
    "encoder": config.encoder,
    "seed": config.loop.seed,
    "clip": dataclasses.asdict(config.clip),
    "model": dataclasses.asdict(model_config),
    **average,
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
  metadata_lib.write(workdir / encoders.ENCODER_FILE, facts)
