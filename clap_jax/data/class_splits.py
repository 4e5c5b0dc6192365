"""Defines class splits for training, validation and evaluation.

Splits are fixed and published as data, never drawn at random: results over
different classes are not comparable.
"""

import dataclasses
import pathlib
from collections.abc import Collection

from clap_jax.storage import locations, text_tables, untrusted

_PACKAGE = pathlib.Path(__file__).parent
# Each in class_splits/NAME.json. The division of ActivityNet 1.3 is that of the
# few-shot benchmark of Nag et al. (QAT, BMVC 2021); that of motion_sprites its
# builder publishes. motion_sprites_choosing is for model selection: its novel
# classes are the validation classes of motion_sprites. motion_sprites_six is
# for the variant tiny-classes_6, whose few videos have all six.
CLASS_SPLITS = (
  "activitynet_160_20_20",
  "motion_sprites",
  "motion_sprites_choosing",
  "motion_sprites_six",
)
# Ten random divisions of the classes of a split, SPLIT_0 to SPLIT_9, with seen
# and unseen classes in the ratio of the name. Each line of
# unseen_classes/SPLIT.txt has the unseen classes of one.
REDIVIDED = {
  "motion_sprites_75_25": "motion_sprites",
  "motion_sprites_50_50": "motion_sprites",
}


@dataclasses.dataclass(frozen=True)
class ClassSplit:
  """Class names of the three disjoint parts of a split."""

  name: str
  base: tuple[str, ...]  # with labels in training
  validation: tuple[str, ...]  # for choices of the method, never trained on
  novel: tuple[str, ...]  # met with the support, at the end

  def __post_init__(self):
    parts = (self.base, self.validation, self.novel)
    if not all(parts[::2]):
      raise ValueError(f"class split {self.name}: base and novel are needed")
    names = [name for part in parts for name in part]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
      raise ValueError(
        f"class split {self.name}: {repeated} appear twice; base, "
        "validation and novel classes must differ"
      )

  @property
  def hidden(self) -> tuple[str, ...]:
    """Returns the classes hidden from pre-training on the base classes."""
    return (*self.validation, *self.novel)


def class_split(
  name: str, *, label_names: Collection[str] | None = None
) -> ClassSplit:
  """Returns a published split by name, or reads one from a file.

  Args:
    name: one of `CLASS_SPLITS`; one of `REDIVIDED` with a number; a path that
      ends in .json, to a file {"base": [...], "validation": [...], "novel":
      [...]}; or one that ends in .list, .../train/NAME.list or
      .../test/NAME.list, one class per line, each read with its counterpart:
      the form of public zero-shot splits.
    label_names: class names of the dataset, which must include all classes of
      the split.

  Raises:
    ValueError: unknown name, malformed file, or classes the dataset lacks.
    FileNotFoundError: no such file.
  """
  if name in CLASS_SPLITS:
    split = _read(_PACKAGE / "class_splits" / f"{name}.json", name)
  elif name.rpartition("_")[0] in REDIVIDED:
    split = _redivided(name)
  elif name.endswith(".json"):
    split = _read(locations.at(name), name)
  elif name.endswith(".list"):
    split = _read_lists(locations.at(name))
  else:
    raise ValueError(
      f"unknown class split {name!r}; choose from {', '.join(CLASS_SPLITS)}, "
      f"{', '.join(f'{family}_0' for family in REDIVIDED)}, or name a .json "
      "file with the lists base, validation and novel, or a .list file of a "
      "zero-shot split"
    )
  if label_names is not None:
    known = set(label_names)
    missing = sorted({*split.base, *split.hidden} - known)
    if missing:
      raise ValueError(
        f"class split {name}: the dataset lacks {len(missing)} of its classes "
        f"({', '.join(missing[:10])}); it has {', '.join(sorted(known)[:30])}"
      )
  return split


def _read(path: locations.Location, name: str) -> ClassSplit:
  if not path.is_file():
    raise FileNotFoundError(f"{path} is not a file; expected a class split")
  lists = untrusted.read_json(path)
  parts = ("base", "validation", "novel")
  if (
    not isinstance(lists, dict)
    or set(lists) != set(parts)
    or not all(
      isinstance(part, list) and all(isinstance(n, str) for n in part)
      for part in lists.values()
    )
  ):
    raise ValueError(f"{path}: expected lists of names by the keys {parts}")
  return ClassSplit(name, *(tuple(lists[part]) for part in parts))


def _read_lists(path: locations.Location) -> ClassSplit:
  """Reads seen classes from train/NAME.list, unseen from test/NAME.list."""
  root = path.parent.parent
  parts = {part: root / part / path.name for part in ("train", "test")}
  if path not in parts.values():
    raise ValueError(f"{path}: expected .../train/NAME.list or .../test/...")
  for file in parts.values():
    if not file.is_file():
      raise FileNotFoundError(f"{file} is not a file; expected classes by line")
  seen, unseen = (
    tuple(line for _, line in text_tables.read_lines(file))
    for file in parts.values()
  )
  return ClassSplit(str(path), base=seen, validation=(), novel=unseen)


def _redivided(name: str) -> ClassSplit:
  family, _, number = name.rpartition("_")
  file = _PACKAGE / "unseen_classes" / f"{family}.txt"
  lines = file.read_text("utf-8").splitlines()
  if not number.isdecimal() or int(number) >= len(lines):
    raise ValueError(
      f"unknown class split {name!r}; {family} has the numbers 0 to "
      f"{len(lines) - 1}"
    )
  unseen = tuple(lines[int(number)].split(", "))
  split = class_split(REDIVIDED[family])
  seen = (n for n in (*split.base, *split.hidden) if n not in unseen)
  return ClassSplit(name, base=tuple(seen), validation=(), novel=unseen)
