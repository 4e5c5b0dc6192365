"""Assigns clips to splits: as stated, by attribute, or by hash.

Clips of one group never go to two splits.
"""

import collections
from collections.abc import Iterable

from clap_jax.annotations import annotation_file, source_files
from tfds_builders import collection
from tfds_builders.trimmed.clips import Clip, ClipList
from tfds_builders.trimmed.settings import TrimmedSettings, parse_list

VALIDATION_PERCENT = 20  # of the groups, if nothing states the splits
_OTHERS = "*"


def assign(
  listed: ClipList, settings: TrimmedSettings, *, selection_percent: int
) -> None:
  """Assigns a split to every clip.

  Args:
    settings: an attribute and its values take precedence over files.
    selection_percent: percentage of the groups of train to move to `selection`.

  Raises:
    ValueError: an attribute or value is unknown, or a split is empty.
  """
  clips = list(listed.clips.values())
  if settings.split_by:
    for clip in clips:
      clip.group = value_of(clip, settings.split_by, flag="--split_by")
  if settings.splits:
    split_of = _read_splits(settings.splits)
    _apply(clips, split_of, settings.split_by)
  elif settings.split_by or not any(clip.subset for clip in clips):
    moved = _share(clips, VALIDATION_PERCENT, salt="validation")
    for clip in clips:
      clip.subset = "validation" if id(clip) in moved else "train"
  else:
    for clip in clips:
      clip.subset = clip.subset or "train"
  if selection_percent:
    _carve(clips, selection_percent)


def value_of(clip: Clip, attribute: str, *, flag: str) -> str:
  """Returns the attribute that a flag names.

  Raises:
    ValueError: the clip lacks it.
  """
  values = clip.values()
  if attribute not in values:
    raise ValueError(
      f"{flag}: {clip.where}: {clip.name} has no {attribute!r}; its attributes "
      f"are {', '.join(sorted(values)) or 'none'}"
    )
  return values[attribute]


def _read_splits(given: str) -> dict[str, str]:
  """Reads splits by value from "train=a,b;validation=c" or a JSON file."""
  if given.lower().endswith(".json"):
    document = source_files.load_json(given)
    lists = document.items() if isinstance(document, dict) else ()
    named = [(key, v if isinstance(v, list) else [v]) for key, v in lists]
  else:
    parts = [part.partition("=") for part in given.split(";") if part.strip()]
    named = [(key, parse_list(values)) for key, _, values in parts]
  found: dict[str, str] = {}
  for key, values in named:
    split = annotation_file.split_of(key.strip())
    if not values:
      raise ValueError(f"--splits: {key.strip()!r} has no values")
    for value in map(str, values):
      if found.setdefault(value, split) != split:
        raise ValueError(
          f"--splits: {value!r} is in {found[value]} and in {split}; a value "
          "belongs to one split"
        )
  if not found:
    raise ValueError(
      f"--splits: got {given!r}; expected train=A,B;validation=C, where * "
      'means all others, or a JSON file {"train": ["A", "B"], ...}'
    )
  return found


def _apply(clips, split_of, attribute) -> None:
  values = {clip.group for clip in clips}
  unknown = sorted(set(split_of) - values - {_OTHERS})
  if unknown:
    raise ValueError(
      f"--splits: no clip has the {attribute} {unknown[0]!r}; they have "
      f"{', '.join(sorted(values)[:20])}"
    )
  left = sorted(values - set(split_of))
  if left and _OTHERS not in split_of:
    raise ValueError(
      f"--splits: {attribute} {', '.join(left[:5])} is in no split; add it, "
      "or * for all others"
    )
  for clip in clips:
    clip.subset = split_of.get(clip.group) or split_of[_OTHERS]


def _share(clips: Iterable[Clip], percent: int, *, salt: str) -> set[int]:
  """Selects the clips of a share of the groups by hashes; returns their ids.

  If every group has one class, the share is spread over the classes.

  Raises:
    ValueError: there is only one group.
  """
  labels: dict[str, set[str]] = {}
  for clip in clips:
    labels.setdefault(clip.group or clip.name, set()).add(clip.label)
  of_one_class = all(len(found) == 1 for found in labels.values())
  strata = collections.defaultdict(list)
  for group, found in labels.items():
    rank = collection.record_order(group, salt)
    strata[min(found) if of_one_class else ""].append((rank, group))
  # Sorts groups by their relative position in their class.
  ordered = sorted(
    ((place + 0.5) / len(ranked), *member)
    for ranked in strata.values()
    for place, member in enumerate(sorted(ranked))
  )
  count = max(1, round(len(ordered) * percent / 100))
  chosen = {group for _, _, group in ordered[:count]}
  if not chosen or len(chosen) == len(labels):
    raise ValueError(
      f"{percent} % of {len(labels)} groups cannot be a split {salt!r}: name "
      "the splits in the annotations or by --split_by and --splits"
    )
  return {id(c) for c in clips if (c.group or c.name) in chosen}


def _carve(clips, percent) -> None:
  if not 0 < percent < 100:
    raise ValueError(f"selection_percent is {percent}; expected 1 to 99")
  if any(clip.subset == "selection" for clip in clips):
    raise ValueError("there is a selection split; leave selection_percent out")
  train = [clip for clip in clips if clip.subset == "train"]
  moved = _share(train, percent, salt="selection")
  for clip in train:
    if id(clip) in moved:
      clip.subset = "selection"
