"""Post-pre-trains both towers on clips of untrimmed videos.

One trainer serves every row of the comparison. `clap` is the masked contrastive
loss over action clips, background clips and captions; `tac` and `tsp` are class
and region cross-entropy; `clip` is the unmasked loss on action clips; `random`
trains nothing.
"""

import dataclasses

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.data import (
  augment,
  clip_reader,
  clips,
  duration_checks,
  shuffle,
  training_history,
)
from clap_jax.evaluation import results, retrieval
from clap_jax.models import dual_encoder, video_tower
from clap_jax.storage import locations, output
from clap_jax.storage import metadata as metadata_lib
from clap_jax.trainers import abstract, encoders, fit, pretrain_task
from clap_jax.training import processes


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(config_lib.RunConfig):
  """Config of `clap train` for pre-training."""

  encoder: str  # the row's name in results.json
  data: clip_reader.ClipData
  clip: clip_reader.ClipShape
  sampling: clips.Sampling
  augment: augment.AugmentOptions
  model: encoders.ModelConfig
  loss: pretrain_task.LossConfig
  start: encoders.StartConfig

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


def abstract_run(
  config: PretrainConfig, facts: abstract.DataFacts
) -> abstract.AbstractRun:
  """Returns the task and its batch shapes; see trainers/abstract.py."""
  towers = _towers(
    config, vocab_size=facts.vocab_size, num_classes=facts.num_classes
  )
  batch = abstract.batch_of(
    types.ClipBatch,
    b=config.data.batch_size,
    t=config.clip.num_frames,
    height=config.clip.image_size,
    width=config.clip.image_size,
    l=config.model.max_text_length,
  )
  task = pretrain_task.PretrainTask(
    dual_encoder.DualEncoder(towers), config.loss
  )
  return abstract.AbstractRun(task, batch)


def train(config: PretrainConfig, workdir) -> list[dict]:
  """Trains or resumes the run in `workdir`; returns its result rows."""
  workdir = locations.at(workdir)
  reader = open_reader(config)
  duration_checks.check_counts(
    duration_checks.split_flags(config.data),
    count=lambda split: len(reader.dataset.examples(split)),
    what="readable video",
    choices=reader.dataset.splits,
  )
  _check_texts(config, reader)
  source = reader.training_source()
  task = _make_task(config, reader)
  evaluator = retrieval.Evaluator(config, reader, task)
  params, average = fit.fit(
    task,
    config,
    workdir=workdir,
    source=source,
    measure=evaluator
    if reader.num_captions(config.data.selection_split)
    else None,
    title=f"pretrain {config.encoder}",
    data_seed=shuffle.mix(config.loop.seed, config.sampling.stream),
    num_processes=config.data.decoding_processes,
    prepare=encoders.starter(config.start, task.model.config),
  )
  _write_encoder(
    config,
    task.model.config,
    workdir,
    skipped_records=source.bad_records.reasons,
    seen=training_history_of(config, reader),
    average=average,
  )
  rows = evaluator.rows(params, config.data.eval_split)
  results.write(workdir, rows)
  return rows


def evaluate(config: PretrainConfig, workdir, *, split=None) -> list[dict]:
  """Evaluates a finished run, by default on its `eval_split`."""
  reader = open_reader(config)
  evaluator = retrieval.Evaluator(config, reader, _make_task(config, reader))
  params = encoders.restore_params(workdir)
  return evaluator.rows(params, split or config.data.eval_split)


def open_reader(config: PretrainConfig) -> clip_reader.ClipReader:
  return clip_reader.ClipReader(
    config.data,
    config.clip,
    config.sampling,
    config.augment,
    config.model.max_text_length,
  )


def _check_texts(
  config: PretrainConfig, reader: clip_reader.ClipReader
) -> None:
  """Raises a ValueError if a loss has no training signal in the data."""
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


def _make_task(
  config: PretrainConfig, reader: clip_reader.ClipReader
) -> pretrain_task.PretrainTask:
  towers = dual_encoder.DualEncoder(model_config(config, reader))
  return pretrain_task.PretrainTask(towers, config.loss)


def model_config(
  config: PretrainConfig, reader: clip_reader.ClipReader
) -> dual_encoder.DualEncoderConfig:
  """Returns the towers' config, completed with facts of the data."""
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
  config: PretrainConfig, reader: clip_reader.ClipReader
) -> dict:
  """Returns the training history including this stage.

  A run of no steps has seen nothing; the history of imported weights is
  unknown.
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
  """Writes the metadata for `load_encoder`, after all other files."""
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
  fit.write_metadata(workdir / encoders.ENCODER_FILE, facts)
