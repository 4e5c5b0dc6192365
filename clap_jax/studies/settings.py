"""Settings of a study: rows, seeds, datasets and configs."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from clap_jax import config as config_lib
from clap_jax.report import claims as claims_lib

Override = tuple[str, Any]  # config key, value


@dataclasses.dataclass(frozen=True)
class RowConfig:
  """One encoder of the comparison."""

  name: str  # in result files
  title: str  # on pages
  encoder: str  # argument `encoder` of the pre-training config
  overrides: tuple[Override, ...] = ()  # overrides of that config
  trained: bool = True  # False: random weights, without pre-training


@dataclasses.dataclass(frozen=True)
class PropertyConfig:
  """A parameter of the dataset that is varied while the others are fixed."""

  title: str
  parameter: str  # in the dataset's name, like "gaps" in demo-gaps_2.0
  values: tuple[float, ...]
  default: float  # value of a dataset whose name lacks the parameter
  x_label: str
  measure_background: bool = False  # plot over the measured background share
  rows: tuple[str, ...] = ()  # measured rows; (): all of the study


@dataclasses.dataclass(frozen=True)
class StudyConfig:
  """Config of `clap study`."""

  title: str
  dataset: str  # without varied parameters
  size: str  # first argument of the configs below
  pretrain: str  # config file of pre-training
  tasks: dict[str, str]  # task -> config file of its head
  seeds: tuple[int, ...] = config_lib.ranged(minimum=0)
  # Trainings of each head; an encoder's score is their mean.
  head_seeds: int = config_lib.ranged(default=3, minimum=1)
  split: str = "validation"  # evaluation split of all tasks
  rows: tuple[RowConfig, ...] = ()
  reference: str = ""  # row that the others are compared with
  # Stated before the measurement and corrected as one family; all other
  # comparisons are exploratory.
  claims: tuple[claims_lib.Claim, ...] = ()
  min_seeds: int = config_lib.ranged(default=8, minimum=2)  # to judge a claim
  start: str = ""  # encoder of the run that all rows start from; "": none
  start_overrides: tuple[Override, ...] = ()  # overrides of that run's config
  # Name in data/class_splits.py: pre-training uses its base classes, the task
  # "fewshot" its novel classes. "": pre-training uses all classes.
  class_split: str = ""
  stride_sec: float = config_lib.ranged(default=0.5, above=0.0)
  vocab_size: int = config_lib.ranged(default=512, minimum=1)
  # Overrides of a head's config, by task.
  overrides: dict[str, tuple[Override, ...]] = dataclasses.field(
    default_factory=dict
  )
  properties: dict[str, PropertyConfig] = dataclasses.field(
    default_factory=dict
  )
  notes: tuple[str, ...] = ()  # caveats on the report

  def __post_init__(self):
    if not self.rows or not self.seeds:
      raise ValueError("rows or seeds is empty; give at least one of each.")
    if len(set(self.seeds)) < len(self.seeds):
      raise ValueError(f"seeds has duplicates: {self.seeds}.")
    names = [row.name for row in self.rows]
    if len(set(names)) < len(names):
      raise ValueError(f"rows has duplicates: {', '.join(names)}.")
    check_known("reference", {self.reference} - {""}, names)
    check_known("overrides", self.overrides, self.tasks)
    if len(set(self.claims)) < len(self.claims):
      raise ValueError("claims has duplicates.")

  def rows_on(self, dataset: str) -> tuple[RowConfig, ...]:
    """Returns the rows that are measured on a dataset."""
    if not self.properties:
      return self.rows
    names: set[str] = set()
    for item in self.properties.values():
      if dataset in {variant(self, item, value) for value in item.values}:
        names.update(item.rows or (row.name for row in self.rows))
    return tuple(row for row in self.rows if row.name in names)

  @property
  def datasets(self) -> tuple[str, ...]:
    """Returns the dataset and its variants that any row is measured on."""
    names = {} if self.properties else {self.dataset: None}
    for item in self.properties.values():
      names |= dict.fromkeys(variant(self, item, v) for v in item.values)
    return tuple(name for name in names if self.rows_on(name))


def variant(config: StudyConfig, item: PropertyConfig, value: float) -> str:
  """Returns the name of the dataset with one parameter changed."""
  if value == item.default:
    return config.dataset
  return f"{config.dataset}-{item.parameter}_{value:g}"


def check_known(key: str, names: Iterable[str], known: Iterable[str]) -> None:
  """Raises a ValueError with the choices if one of the names is unknown."""
  unknown = sorted(set(names) - set(known))
  if unknown:
    raise ValueError(f"{key}: got {unknown}; choose from {', '.join(known)}.")


def check_names(config: StudyConfig) -> None:
  """Checks the rows and tasks in the claims and properties of a study.

  Raises:
    ValueError: the study lacks a named row or task.
  """
  rows = [row.name for row in config.rows]
  for key, item in config.properties.items():
    check_known(f"properties.{key}.rows", item.rows, rows)
  for claim in config.claims:
    check_known(f"row of {claim}", (claim.better, claim.than), rows)
    check_known(f"task of {claim}", [claim.task], [*config.tasks, "retrieval"])


def with_tasks(config: StudyConfig, names: tuple[str, ...]) -> StudyConfig:
  """Limits a study to some tasks; pre-training always measures retrieval.

  The claims stay one family, even if some cannot be judged.

  Raises:
    ValueError: a task is unknown.
  """
  check_known("tasks", names, config.tasks)
  return dataclasses.replace(
    config,
    tasks={name: config.tasks[name] for name in names},
    overrides={k: v for k, v in config.overrides.items() if k in names},
  )


def with_rows(config: StudyConfig, names: tuple[str, ...]) -> StudyConfig:
  """Limits a study to some rows.

  Raises:
    ValueError: a row is unknown.
  """
  check_known("rows", names, [row.name for row in config.rows])
  rows = tuple(row for row in config.rows if row.name in names)
  reference = config.reference if config.reference in names else ""
  return dataclasses.replace(config, rows=rows, reference=reference)
