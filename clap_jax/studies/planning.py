"""Plans a study: the artifacts to make, grouped into jobs and steps."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from clap_jax import config as config_lib
from clap_jax.studies import fingerprints, settings
from clap_jax.studies.artifacts import (
  DATA,
  FEATURES,
  PRETRAIN,
  START,
  Artifact,
  Job,
)
from clap_jax.trainers import registry
from tfds_builders.motion_sprites import sizes

# Reads "FILE.py:argument" to a ConfigDict; see commands/configs.py.
ReadConfig = Callable[[str], Any]
# The jobs of a step are independent; they may read from earlier steps.
Steps = Sequence[Sequence[Job]]

_DATA_MODULES = (
  "clap_jax.data.tokenizer",
  "tfds_builders.build",
  "tfds_builders.finishing",
  "tfds_builders.motion_sprites.motion_sprites_dataset_builder",
  "tfds_builders.motion_sprites.render",
  "tfds_builders.shards",
)
_FEATURE_MODULES = ("clap_jax.inference.extract",)
_HEAD_SEED_STEP = 1000  # difference of the seeds of one encoder's heads


def plan(
  config: settings.StudyConfig,
  *,
  read: ReadConfig,
  name_of: Callable[..., str] | None = None,
) -> Steps:
  """Plans all artifacts of a study, seed by seed.

  Args:
    read: reads the config files that the study names.
    name_of: function from kind, row and seed of an artifact to its folder;
      None: folders are named by the keys of the artifacts.

  Raises:
    ValueError: one of the configs is invalid.
  """
  planner = _Planner(config, read, name_of)
  data = {name: planner.data(name) for name in config.datasets}
  steps = [_one_each(data.values())]
  for seed in config.seeds:
    starts = {}
    if config.start and any(row.trained for row in config.rows):
      starts = {n: planner.start(data[n], seed) for n in config.datasets}
      steps.append(_one_each(starts.values()))
    steps.append(
      [
        planner.row(data[dataset], starts.get(dataset), row, seed)
        for dataset in config.datasets
        for row in config.rows_on(dataset)
      ]
    )
  return steps


def _one_each(artifacts: Iterable[Artifact]) -> list[Job]:
  return [Job(artifact.label, (artifact,)) for artifact in artifacts]


def artifacts_of(steps: Steps) -> list[Artifact]:
  """Lists every artifact once, in the order of making."""
  found = {
    artifact.name: artifact
    for step in steps
    for job in step
    for artifact in job.artifacts
  }
  return list(found.values())


class _Planner:
  """Makes the artifacts of a study's config."""

  def __init__(
    self,
    config: settings.StudyConfig,
    read: ReadConfig,
    name_of: Callable[..., str] | None,
  ):
    self._config = config
    self._read = read
    self._name_of = name_of
    # Rows share the configs of their heads.
    self._known: dict[tuple[str, str], dict] = {}

  def data(self, dataset: str) -> Artifact:
    size = sizes.get_config(dataset.partition("/")[2])
    config = {
      "dataset": dataset,
      "content": config_lib.as_dict(size),
      "vocab_size": self._config.vocab_size,
    }
    return self._artifact(
      DATA, config, {}, modules=_DATA_MODULES, dataset=dataset
    )

  def start(self, data: Artifact, seed: int) -> Artifact:
    name = self._config.start
    row = settings.RowConfig(name, "", name, self._config.start_overrides)
    config = self._pretrain_config(row, seed, data.dataset)
    return self._trained(START, config, {"data": data}, seed=seed)

  def row(
    self,
    data: Artifact,
    start: Artifact | None,
    row: settings.RowConfig,
    seed: int,
  ) -> Job:
    inputs = {"data": data}
    config = self._pretrain_config(row, seed, data.dataset)
    config["data"]["eval_split"] = self._config.split
    if start is not None and row.trained:
      inputs["start"] = start
      config["sampling"]["stream"] = 1  # not the clips of the start
    pretrain = self._trained(PRETRAIN, config, inputs, row=row.name, seed=seed)
    features = self._artifact(
      FEATURES,
      {"stride_sec": self._config.stride_sec},
      {"data": data, "pretrain": pretrain},
      modules=_FEATURE_MODULES,
      row=row.name,
      seed=seed,
    )
    heads = [
      self._trained(
        task,
        self._head_config(task, file, seed, head_seed, data.dataset),
        {"data": data, "features": features},
        row=row.name,
        seed=seed,
        head_seed=head_seed,
      )
      for task, file in self._config.tasks.items()
      for head_seed in range(self._config.head_seeds)
    ]
    label = f"{row.name}, seed {seed}"
    if len(self._config.datasets) > 1:
      label += f", {data.dataset.partition('/')[2]}"
    return Job(label, (pretrain, features, *heads))

  def _pretrain_config(self, row, seed, dataset) -> dict:
    argument = f"{self._config.size},encoder={row.encoder},seed={seed}"
    overrides = {
      "encoder": row.name,
      "data.dataset": dataset,
      "data.data_dir": "",
      "data.tokenizer": "",
      "sampling.class_split": self._config.class_split,
    }
    return self._resolved(
      f"{self._config.pretrain}:{argument}", overrides | dict(row.overrides)
    )

  def _head_config(self, task, file, seed, head_seed, dataset) -> dict:
    overrides = {
      "loop.seed": seed + _HEAD_SEED_STEP * head_seed,
      "data.eval_split": self._config.split,
      "data.dataset": dataset,
      "data.data_dir": "",
      "data.features_dir": "",
    }
    return self._resolved(
      f"{file}:{self._config.size},seed={seed}",
      overrides | dict(self._config.overrides.get(task, ())),
    )

  def _resolved(self, name: str, overrides: dict) -> dict:
    """Returns a checked config as JSON values."""
    request = (name, repr(overrides))
    if request not in self._known:
      self._known[request] = self._read_with(name, overrides)
    return copy.deepcopy(self._known[request])

  def _read_with(self, name: str, overrides: dict) -> dict:
    config = self._read(name)
    with config.unlocked():
      for key, value in overrides.items():
        _set(config, key, value, name)
    return config_lib.as_dict(registry.resolve(config))

  def _trained(self, kind, config, inputs, **names) -> Artifact:
    module = registry.TRAINERS[config["trainer"]].__name__
    return self._artifact(kind, config, inputs, modules=(module,), **names)

  def _artifact(
    self,
    kind,
    config,
    inputs,
    *,
    modules,
    row="",
    seed=0,
    dataset="",
    head_seed=None,
  ) -> Artifact:
    if self._name_of is not None:
      key, name = "", self._name_of(kind, row=row, seed=seed)
    else:
      key = fingerprints.artifact_key(
        kind=kind,
        config=config,
        inputs={role: read.key for role, read in inputs.items()},
        modules=modules,
      )
      name = f"artifacts/{kind}-{key}"
    where = (dataset or inputs["data"].dataset).partition("/")[2]
    seeds = "" if kind == DATA else f"seed {seed}"
    seeds += f" head {head_seed}" if head_seed else ""
    parts = (kind, row, seeds, where)
    return Artifact(
      kind=kind,
      name=name,
      label=" ".join(filter(None, parts)),
      row=row,
      seed=seed,
      dataset=dataset or inputs["data"].dataset,
      config=config,
      inputs={role: read.name for role, read in inputs.items()},
      key=key,
      head_seed=head_seed,
    )


def _set(config, key: str, value: Any, name: str) -> None:
  """Sets "a.b" of a ConfigDict, or raises a ValueError if it is unknown."""
  *path, last = key.split(".")
  section = config
  for part in path:
    section = section.get(part) or {}
  if last not in section:
    raise ValueError(f"{name} has no key {key!r}, which the study overrides.")
  section[last] = value
