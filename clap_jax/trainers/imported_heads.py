"""Loads heads imported from public checkpoints.

Such a directory has the facts and the config of a run, and weights in place of
checkpoints.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from clap_jax.storage import locations
from clap_jax.storage import metadata as metadata_lib
from clap_jax.training import checkpoint, paths, pretrained, weights
from clap_jax.training import state as state_lib

Prepare = Callable[[state_lib.TrainState], state_lib.TrainState]

# Key of the facts: whether the import had class names.
NAMES_STATED = "label_names_stated"
_CLASS_OUTPUTS = (
  "params/class_head/out/dense/kernel",
  "params/class_head/out/dense/bias",
)
# Fields of the model that training may change.
_FREE = (
  "dropout_rate",
  "input_dropout_rate",
  "drop_path_rate",
  "prior_probability",
  "empty_classes",
)
# Key of the facts -> where a config has it.
_PLACES = {
  "max_length": "data.max_length",
  "model": "model",  # of ActionFormer
  "detr": "detr",
}
# Keys of the facts: kind of a localizer and of a grounder.
_KINDS = ("localizer", "kind")
# Keys of the facts: input width -> config keys of its source.
_WIDTHS = {
  "feature_width": ("features", "data.features_dir or data.files"),
  "query_width": ("token vectors", "data.queries.texts or data.texts"),
}


@dataclasses.dataclass(frozen=True)
class HeadStart:
  """Options of the imported head that training starts from."""

  imported: str = ""  # directory of `clap import`; "": random parameters


def is_imported(directory: locations.PathLike) -> bool:
  """Returns True if a directory holds an imported head."""
  directory = locations.at(directory)
  has_checkpoints = (directory / checkpoint.CHECKPOINT_DIRECTORY).is_dir()
  return (directory / weights.MANIFEST_FILE).is_file() and not has_checkpoints


def restore_params(directory: locations.PathLike) -> dict[str, Any]:
  """Restores the nested parameters of an imported head."""
  arrays, _ = weights.read(directory)
  return paths.nest(arrays)


def numbered_names(
  names: Mapping[int, str], num_classes: int
) -> tuple[str, ...]:
  """Returns all class names of a head; numbers stand in for missing ones."""
  return tuple(names.get(i, f"class {i}") for i in range(num_classes))


class NamedClasses(Protocol):
  """Classes of a dataset."""

  @property
  def label_names(self) -> Sequence[str]: ...

  @property
  def label_ids(self) -> Mapping[int, str]:
    """Returns the class by number, where annotations state it."""
    ...


def class_names(
  facts: Mapping[str, Any], dataset: NamedClasses, *, place: str
) -> tuple[str, ...]:
  """Returns the classes of a head by their names in a dataset.

  An import without names uses the class numbers stated in the annotations or,
  without such numbers, the order of the dataset's classes. The choice is
  printed on standard error.

  Args:
    place: location of the head, for errors.

  Raises:
    ValueError: the number of classes differs from the dataset's.
  """
  own = tuple(facts["label_names"])
  if facts.get(NAMES_STATED, True) or len(own) == 1:
    return own
  how, label_ids = "in this order", dataset.label_ids
  if label_ids:
    names, how = numbered_names(label_ids, len(own)), "by their label_id"
    fits = max(label_ids) < len(own)
  else:
    names = tuple(dataset.label_names)
    fits = len(names) == len(own)
  if not fits:
    raise ValueError(
      f"{place} has {len(own)} classes without names, the data "
      f"{len(dataset.label_names)}"
      + (f" with the numbers up to {max(label_ids)}" if label_ids else "")
      + "; import it again with --labels, the names of its classes."
    )
  print(
    f"{place} names no classes: they are taken to be, {how}, "
    f"{', '.join(names)}; `clap import --labels FILE` states them.",
    file=sys.stderr,
  )
  return names


def starter(
  start: HeadStart,
  facts: Mapping[str, Any],
  *,
  model_file: str,
  dataset: NamedClasses | None = None,
) -> Prepare | None:
  """Returns a function that starts a state from an imported head, or None.

  Args:
    facts: facts of the run's model.
    model_file: file name of the facts of such a head.
    dataset: training dataset; None for a head without classes.

  Raises:
    FileNotFoundError: the directory holds no imported head.
    ValueError: the head is of another model or has other classes.
  """
  if not start.imported:
    return None
  arrays, _ = weights.read(start.imported)
  # The averages of a new training start from its own config.
  arrays = {n: a for n, a in arrays.items() if n.startswith("params/")}
  found = metadata_lib.read(start.imported, model_file)
  _check_same_model(found, facts, place=start.imported)
  if dataset is not None:
    here = facts["label_names"]
    names = class_names(found, dataset, place=start.imported)
    order = _order(names, here, place=start.imported)
    for name in _CLASS_OUTPUTS:
      arrays[name] = np.ascontiguousarray(arrays[name][..., order])
  return functools.partial(
    pretrained.load_parameters, source=arrays, name=start.imported
  )


def _order(
  names: Sequence[str], here: Sequence[str], *, place: str
) -> list[int]:
  """Returns the index in `names` of each class; drops other names."""
  if len(names) == len(here) == 1:
    return [0]
  added = sorted(set(here) - set(names))
  dropped = sorted(set(names) - set(here))
  if added:
    raise ValueError(
      f"{place} lacks classes of the data: only here {', '.join(added[:5])!r}, "
      f"only there {', '.join(dropped[:5])!r}; correct the names that it was "
      "imported with (--labels), or data.ignored_labels."
    )
  if dropped:
    print(
      f"{place}: {len(dropped)} classes that the data lacks are left out: "
      f"{', '.join(dropped[:5])}{', ...' if dropped[5:] else ''}",
      file=sys.stderr,
    )
  return [list(names).index(name) for name in here]


def _check_same_model(found, facts, *, place: str) -> None:
  """Raises a ValueError listing the flags that an imported head needs."""
  there, here = (
    next(one[key] for key in _KINDS if key in one) for one in (found, facts)
  )
  if there != here:
    raise ValueError(
      f"{place} holds a head of the kind {there!r}, the config names {here!r}; "
      "give a config of that kind."
    )
  for key, (what, source) in _WIDTHS.items():
    if found.get(key) != facts.get(key):
      raise ValueError(
        f"{place} takes {what} of width {found[key]}, those of the data have "
        f"{facts[key]}; correct {source}."
      )
  wrong = [
    flag
    for key in _PLACES
    if key in facts
    for flag, here in zip(flags(found, key), flags(facts, key), strict=True)
    if flag != here and not any(f".{name}=" in flag for name in _FREE)
  ]
  if wrong:
    raise ValueError(
      f"The head in {place} is of another size; it needs\n  "
      + "\n  ".join(wrong)
    )


def flags(facts: Mapping[str, Any], *keys: str) -> list[str]:
  """Returns the flags that set the sizes of a head.

  Args:
    *keys: keys of the facts; none for all that are config keys.
  """
  made = []
  for key in keys or [key for key in _PLACES if key in facts]:
    value = facts[key]
    fields = value.items() if isinstance(value, Mapping) else [("", value)]
    for name, setting in fields:
      place = f"{_PLACES[key]}.{name}".rstrip(".")
      text = repr(_tuples(setting))
      text = f"'{text}'" if "(" in text else text
      made.append(f"--config.{place}={text}")
  return made


def _tuples(value: Any) -> Any:
  if isinstance(value, list | tuple):
    return tuple(_tuples(item) for item in value)
  return value
