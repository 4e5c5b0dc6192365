"""What every trainer hands to the engine in the same way."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from clap_jax.data import pipeline
from clap_jax.models import partitioning
from clap_jax.training import fit as fit_lib
from clap_jax.training import task as task_lib


def fit(
  task: task_lib.Task,
  config: Any,
  *,
  workdir,
  source: pipeline.TrainingSource,
  measure: Callable[[Any, str], Mapping[str, float]],
  title: str,
  data_seed: int | None = None,
  prepare: Callable | None = None,
) -> fit_lib.TrainState:
  """Trains `task` on `source` as the sections of a trainer's config say.

  Args:
    task: what is learned.
    config: a trainer's resolved config, with data, optimizer, loop,
      checkpoint and mesh sections.
    workdir: of this run alone.
    source: where training items come from.
    measure: (params, split) -> metrics; called on the selection split only.
    title: of the progress bar.
    data_seed: of the order of the items; None for the loop's seed.
    prepare: see training.fit.
  """
  data, selection = config.data, config.data.selection_split
  seed = config.loop.seed if data_seed is None else data_seed

  def evaluate(params, _):
    return {
      f"eval/{selection}/{name}": value
      for name, value in measure(params, selection).items()
    }

  return fit_lib.fit(
    task,
    workdir=workdir,
    config=config,
    optimizer=config.optimizer,
    loop=config.loop,
    checkpoint=config.checkpoint,
    mesh=config.mesh,
    batches_from=lambda step: pipeline.training_batches(
      source,
      batch_size=data.batch_size,
      seed=seed,
      start_step=step,
      num_threads=data.num_threads,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    ),
    evaluate=evaluate if selection is not None else None,
    prepare=prepare,
    steps_per_epoch=max(1, len(source) // data.batch_size),
    sharding_rules=partitioning.PARAMETER_AXES,
    title=title,
  )
