"""Settings of a study: rows, seeds, datasets, and the configs they run."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from clap_jax import config as config_lib
from clap_jax.report import claims as claims_lib

Override = tuple[str, Any]  # config key, value


@dataclasses.dataclass(frozen=True)
class RowConfig:
  """One encoder of the comparison."""

  name: str  # in results
  title: str  # for people
  encoder: str  # the argument `encoder` of the pre-training config
  overrides: tuple[Override, ...] = ()  # of that config
  trained: bool = True  # False: the untrained tower, which starts from nothing


@dataclasses.dataclass(frozen=True)
class PropertyConfig:
  """A parameter of the dataset that is varied while the others stay."""

  title: str
  parameter: str  # of a dataset's name, like "gaps" in demo-gaps_2.0
  values: tuple[float, ...]
  default: float  # the value of the dataset without that parameter
  x_label: str
  measure_background: bool = False  # plot over the share that it makes
  rows: tuple[str, ...] = ()  # that it is measured with; (): all of the study


@dataclasses.dataclass(frozen=True)
class StudyConfig:
  """Everything `clap study` reads of its config."""

  title: str
  dataset: str  # without varied parameters
  size: str  # the first argument of the configs below
  pretrain: str  # config files
  tasks: dict[str, str]  # task -> config file of its head
  seeds: tuple[int, ...] = config_lib.ranged(minimum=0)
  # Every encoder is scored by so many trainings of each head, and their mean.
  head_seeds: int = config_lib.ranged(default=3, minimum=1)
  split: str = "validation"  # that every task and retrieval are scored on
  rows: tuple[RowConfig, ...] = ()
  reference: str = ""  # the row that the others are compared with
  # Named before anything is measured and corrected as one family; every other
  # comparison is exploratory.
  claims: tuple[claims_lib.Claim, ...] = ()
  min_seeds: int = config_lib.ranged(default=8, minimum=2)  # to judge a claim
  start: str = ""  # encoder of the run that all rows start from; "": nothing
  start_overrides: tuple[Override, ...] = ()  # of that run's config
  # Of data/class_splits.py: pre-training sees its base classes alone, and the
  # task "fewshot" is judged on its novel ones. "": it sees all.
  class_split: str = ""
  stride_sec: float = config_lib.ranged(default=0.5, above=0.0)
  vocab_size: int = config_lib.ranged(default=512, minimum=1)
  # Of a head's config, by task.
  overrides: dict[str, tuple[Override, ...]] = dataclasses.field(
    default_factory=dict
  )
  properties: dict[str, PropertyConfig] = dataclasses.field(
    default_factory=dict
  )
  notes: tuple[str, ...] = ()  # of the report

  def __post_init__(self):
    if not self.rows or not self.seeds:
      raise ValueError("rows and seeds must hold at least one entry each.")
    if len(set(self.seeds)) < len(self.seeds):
      raise ValueError(f"seeds holds one twice: {self.seeds}.")
    names = [row.name for row in self.rows]
    if len(set(names)) < len(names):
      raise ValueError(f"rows holds one twice: {', '.join(names)}.")
    check_known("reference", {self.reference} - {""}, names)
    check_known("overrides", self.overrides, self.tasks)
    if len(set(self.claims)) < len(self.claims):
      raise ValueError("claims holds one twice.")

  def rows_on(self, dataset: str) -> tuple[RowConfig, ...]:
    """The rows that are measured on a dataset."""
    if not self.properties:
      return self.rows
    names: set[str] = set()
    for item in self.properties.values():
      if dataset in {variant(self, item, value) for value in item.values}:
        names.update(item.rows or (row.name for row in self.rows))
    return tuple(row for row in self.rows if row.name in names)

  @property
  def datasets(self) -> tuple[str, ...]:
    """The dataset itself and its variants, each once, where any row is."""
    names = {} if self.properties else {self.dataset: None}
    for item in self.properties.values():
      names |= dict.fromkeys(variant(self, item, v) for v in item.values)
    return tuple(name for name in names if self.rows_on(name))


def variant(config: StudyConfig, item: PropertyConfig, value: float) -> str:
  """The name of the dataset with one parameter changed."""
  if value == item.default:
    return config.dataset
  return f"{config.dataset}-{item.parameter}_{value:g}"


def check_known(key: str, names: Iterable[str], known: Iterable[str]) -> None:
  """Raises a ValueError if one of the names is unknown, with the choices."""
  unknown = sorted(set(names) - set(known))
  if unknown:
    raise ValueError(f"{key}: got {unknown}; choose from {', '.join(known)}.")


def check_names(config: StudyConfig) -> None:
  """Checks what the claims and properties of a whole study name.

  Raises:
    ValueError: one is about a row or a task that the study lacks.
  """
  rows = [row.name for row in config.rows]
  for key, item in config.properties.items():
    check_known(f"properties.{key}.rows", item.rows, rows)
  for claim in config.claims:
    check_known(f"row of {claim}", (claim.better, claim.than), rows)
    check_known(f"task of {claim}", [claim.task], [*config.tasks, "retrieval"])


def with_tasks(config: StudyConfig, names: tuple[str, ...]) -> StudyConfig:
  """The study of some of its tasks; retrieval comes with pre-training.

  The claims stay one family, whichever of them can be judged.

  Raises:
    ValueError: if one is unknown, with the choices.
  """
  check_known("tasks", names, config.tasks)
  return dataclasses.replace(
    config,
    tasks={name: config.tasks[name] for name in names},
    overrides={k: v for k, v in config.overrides.items() if k in names},
  )


def with_rows(config: StudyConfig, names: tuple[str, ...]) -> StudyConfig:
  """The study of some of its rows.

  Raises:
    ValueError: if one is unknown, with the choices.
  """
  check_known("rows", names, [row.name for row in config.rows])
  rows = tuple(row for row in config.rows if row.name in names)
  reference = config.reference if config.reference in names else ""
  return dataclasses.replace(config, rows=rows, reference=reference)
