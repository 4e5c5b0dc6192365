"""Runs, evaluates and compiles the trainer that a config names."""

import dataclasses
from typing import Any

from clap_jax import config as config_lib
from clap_jax.evaluation import results
from clap_jax.models import partitioning
from clap_jax.storage import locations, output, untrusted
from clap_jax.trainers import (
  abstract,
  end_to_end,
  fewshot,
  grounding,
  imported_heads,
  inputs,
  localization,
  localizers,
  open_vocabulary,
  pretrain,
)
from clap_jax.training import compile_ahead as compile_ahead_lib
from clap_jax.training import mesh as mesh_lib
from clap_jax.training import preemption, processes, profiler
from clap_jax.training import topology as topology_lib
from clap_jax.training import workdir as workdir_lib

TRAINERS = {
  "pretrain": pretrain,
  "localization": localization,
  "localization_end_to_end": end_to_end,
  "localization_open_vocabulary": open_vocabulary,
  "fewshot": fewshot,
  "grounding": grounding,
}
# The config of each trainer except localization, where the head decides.
_CONFIGS = {
  "pretrain": pretrain.PretrainConfig,
  "localization_end_to_end": end_to_end.EndToEndConfig,
  "localization_open_vocabulary": open_vocabulary.OpenVocabularyConfig,
  "fewshot": fewshot.FewshotConfig,
  "grounding": grounding.GroundingConfig,
}


def train(
  config,
  workdir,
  *,
  connection: processes.Connection | None = None,
  profiler_port: int | None = None,
) -> list[dict]:
  """Runs the trainer that a ConfigDict names; returns its result rows.

  A finished run is left unchanged and its rows are returned, unless the config
  of the evaluation differs: then it is evaluated again.

  Args:
    config: see configs/.
    workdir: directory of this run alone.
    connection: connection to the other processes of the run, joined once the
      config is validated; None for one process.
    profiler_port: port to capture profiles from during the run, see
      profiler.port_of_process; None to disable.

  Raises:
    ValueError: the config is invalid, detected before a device is used, or the
      run in `workdir` has another config or other data.
  """
  resolved = resolve(config)
  if profiler_port is not None:
    profiler_port = profiler.port_of_process(profiler_port)
  processes.join(connection)
  if profiler_port is not None:
    profiler.serve(profiler_port)
  workdir = locations.at(workdir)
  found = processes.broadcast_from_first(
    f"read {workdir}", lambda: _inspect(workdir, resolved)
  )
  if found["is_finished"] and not found["evaluation"]:
    processes.print_on_first(
      f"{workdir} holds this run, finished; delete it to start over."
    )
    return results.read(workdir)
  if found["evaluation"]:
    processes.print_on_first(
      f"{workdir} has another evaluation config than before:"
      + "".join(f"\n  {line}" for line in found["evaluation"])
    )
  with preemption.leave_on_sigterm():
    return TRAINERS[resolved.trainer].train(resolved, workdir)


def resolve(config) -> Any:
  """Converts a trainer's ConfigDict to its frozen dataclass.

  Raises:
    ValueError: the ConfigDict is invalid.
  """
  return config_lib.resolve(config_class(config), config)


def config_class(config) -> type:
  """Returns the dataclass for a trainer's ConfigDict.

  Raises:
    ValueError: the trainer is unknown.
  """
  name = config.get("trainer")
  if name not in TRAINERS:
    raise ValueError(
      f"trainer: got {name!r}; choose from {', '.join(TRAINERS)}."
    )
  return _CONFIGS.get(name) or localizers.config_class(config)


def compile_ahead(config, *, topology: str, facts: str = "") -> dict:
  """Compiles the train step of a ConfigDict for an absent TPU slice.

  Args:
    config: as for `train`.
    topology: a name like "v5e:16x16".
    facts: facts of the data, like "vocab_size=512"; see DataFacts.

  Returns:
    See training.compile_ahead.compile_step; includes the assumed facts.

  Raises:
    ValueError: config, topology or facts are invalid.
    FileNotFoundError: the TPU compiler is not installed.
  """
  resolved = resolve(config)
  assumed = abstract.parse_facts(facts)
  run = TRAINERS[resolved.trainer].abstract_run(resolved, assumed)
  document = compile_ahead_lib.compile_step(
    run.task,
    run.batch,
    topology=topology_lib.describe(topology),
    config=resolved,
    sharding_rules=partitioning.PARAMETER_AXES,
  )
  return document | {"assumed": dataclasses.asdict(assumed)}


def compile_for_smallest(config, *, facts: str = "") -> dict:
  """Runs `compile_ahead` on growing v5e slices until the step fits.

  Slices that mesh and batch cannot be split over are skipped.

  Args:
    config: as for `train`.
    facts: see `compile_ahead`.

  Raises:
    ValueError: the step fits no slice, or as `compile_ahead`.
  """
  mesh = resolve(config).mesh
  tried = []
  for sides in topology_lib.SLICES["v5e"]:
    name = f"v5e:{sides}"
    num_devices = topology_lib.parse_name(name).num_devices
    try:
      shape = mesh_lib.mesh_sizes(mesh, num_devices)
    except ValueError:
      continue
    if config.data.batch_size % (shape[0] * shape[1]):
      continue
    document = compile_ahead(config, topology=name, facts=facts)
    if document["fits"]:
      return document
    missing = document["missing_bytes_per_chip"] / 2**20
    tried.append(f"{name} lacks {missing:,.0f} MiB per chip")
    processes.print_on_first(tried[-1])
  why = "; ".join(tried) or "mesh and batch match none"
  raise ValueError(
    f"The step fits no v5e slice ({why}): set mesh.fsdp, "
    "loss.num_microbatches or a smaller data.batch_size."
  )


def is_finished(workdir: locations.PathLike) -> bool:
  """Returns True if `workdir` holds a finished `clap train` run."""
  return (locations.at(workdir) / results.RESULTS_FILE).is_file()


def _inspect(workdir: locations.Location, resolved: Any) -> dict[str, Any]:
  """Returns whether the run is finished, and how its evaluation differs.

  Raises:
    ValueError: the directory belongs to a run of another config or other data,
      or its results cannot be written.
  """
  differences = inputs.compare(workdir, resolved)
  inputs.check(workdir, differences.training)
  if workdir.is_dir():
    output.check_writable(workdir / results.RESULTS_FILE)
  return {
    "is_finished": is_finished(workdir),
    "evaluation": list(differences.evaluation),
  }


def check_same(workdir: locations.Location, resolved: Any) -> None:
  """Raises a ValueError if a finished run has another config or data."""
  found = inputs.compare(workdir, resolved)
  inputs.check(workdir, (*found.training, *found.evaluation))


def config_of(workdir) -> dict:
  """Returns the config of a run as plain JSON.

  Raises:
    FileNotFoundError: `workdir` holds no run.
  """
  path = locations.at(workdir) / "config.json"
  if not path.is_file():
    raise FileNotFoundError(
      f"{workdir} holds no run (no config.json); give the --workdir of a "
      "`clap train`."
    )
  return untrusted.read_json(path)


def evaluation_keys(workdir) -> tuple[str, ...]:
  """Returns the config keys that may differ in an evaluation.

  The config of an imported head has the data paths of its authors.
  """
  keys = workdir_lib.EVALUATION_KEYS
  return (*keys, "data") if imported_heads.is_imported(workdir) else keys


def evaluate(
  workdir, *, split: str | None = None, config: Any = None
) -> list[dict]:
  """Evaluates a finished run.

  Args:
    split: split to evaluate on; None for that of the config.
    config: the run's config except for workdir.EVALUATION_KEYS; None for the
      run's own.

  Raises:
    FileNotFoundError: `workdir` holds no run.
  """
  resolved = resolve(config_of(workdir) if config is None else config)
  trainer = TRAINERS[resolved.trainer]
  return trainer.evaluate(resolved, workdir, split=split)
