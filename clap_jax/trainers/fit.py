"""Trains from a trainer's config and restores its finished runs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from clap_jax.data import pipeline
from clap_jax.models import partitioning
from clap_jax.storage import locations
from clap_jax.storage import metadata as metadata_lib
from clap_jax.trainers import imported_heads, inputs
from clap_jax.training import checkpoint, pretrained, processes
from clap_jax.training import fit as fit_lib
from clap_jax.training import mesh as mesh_lib
from clap_jax.training import task as task_lib

T = TypeVar("T", bound=task_lib.Task)


def fit(
  task: task_lib.Task,
  config: Any,
  *,
  workdir,
  source: pipeline.TrainingSource,
  measure: Callable[[Any, str], Mapping[str, float]] | None,
  title: str,
  data_seed: int | None = None,
  num_processes: int = 0,
  prepare: Callable | None = None,
) -> tuple[Any, dict]:
  """Trains `task` on `source` with a trainer's config.

  Args:
    config: a trainer's resolved config, with data, optimizer, loop,
      checkpoint and mesh sections.
    workdir: directory of this run alone.
    measure: function (params, split) -> metrics; called on the selection split
      only; None if there is nothing to measure.
    title: title of the progress bar.
    data_seed: seed of the order of items; None for the loop's seed.
    num_processes: see pipeline.training_batches.
    prepare: see training.fit.Run.

  Returns:
    The parameters to apply, the moving average if there is one, and the entries
      of the model's metadata that tell `restored` which they are.
  """
  workdir = locations.at(workdir)
  processes.broadcast_from_first(
    f"use {workdir}", lambda: inputs.take(workdir, config)
  )
  data, selection = config.data, config.data.selection_split
  seed = config.loop.seed if data_seed is None else data_seed

  def evaluate(params, _):
    assert measure is not None
    return {
      f"{fit_lib.EVALUATION_PREFIX}{selection}/{name}": value
      for name, value in measure(params, selection).items()
    }

  def batches_from(step):
    # `fit` has made the mesh of the run the ambient one.
    rows = mesh_lib.batch_rows(jax.sharding.get_mesh(), data.batch_size)
    return pipeline.training_batches(
      source,
      batch_size=data.batch_size,
      seed=seed,
      start_step=step,
      num_threads=data.num_threads,
      num_processes=num_processes,
      rows=rows,
    )

  state = fit_lib.fit(
    fit_lib.Run(
      task=task,
      workdir=workdir,
      config=config,
      batches_from=batches_from,
      evaluate=None if None in (selection, measure) else evaluate,
      prepare=prepare,
      steps_per_epoch=max(1, len(source) // data.batch_size),
      sharding_rules=partitioning.PARAMETER_AXES,
      title=title,
    )
  )
  has_average = state.ema is not None
  return state.ema if has_average else state.params, {"use_ema": has_average}


def write_metadata(path: locations.Location, facts: Mapping[str, Any]) -> None:
  """Writes the metadata of a model, on the first process only."""
  if processes.is_first():
    metadata_lib.write(path, facts)


def restored(
  workdir,
  model_file: str,
  make_task: Callable[[dict], T],
  *,
  decode: Any = None,
) -> tuple[dict, T, Any]:
  """Restores a finished run: its facts, their task and its parameters.

  The directory of an imported head counts as a finished run.

  Args:
    decode: the section `decode` to evaluate with, which may differ from the
      run's; None for the run's.

  Raises:
    FileNotFoundError: the run is not finished, or the directory holds none.
    FormatError: the facts are of another revision.
    ValueError: the facts describe other parameters than the checkpoint holds.
  """
  other = {} if decode is None else {"decode": dataclasses.asdict(decode)}
  facts, task = metadata_lib.load(
    workdir, model_file, lambda facts: make_task(facts | other)
  )
  if imported_heads.is_imported(workdir):
    params = imported_heads.restore_params(workdir)
  else:
    params, _ = checkpoint.restore_params(workdir, use_ema=facts["use_ema"])
  pretrained.check_fits(
    params,
    task.init,
    name=str(locations.at(workdir) / model_file),
    whole=True,
  )
  return facts, task, params
