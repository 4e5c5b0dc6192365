"""Reads {video: {"subset", "duration", "actions": [[class, start, end]]}}.

The form in which Charades and MultiTHUMOS are passed around for multi-label
localization.
"""

import pathlib

from clap_jax.annotations import annotation_file, source_files


def class_names(
  path: pathlib.Path | None, numbered: list[str], *, first_number: int
) -> list[str]:
  """Names from lines `c012 Some name` or `12 Some name`, in their order.

  Without a file, `numbered`.

  Raises:
    ValueError: if the numbers are not those of `numbered`.
  """
  if path is None:
    return numbered
  names = {}
  for where, line in source_files.load_lines(path):
    number, _, name = line.partition(" ")
    if not number.lstrip("c").isdigit() or not name.strip():
      raise ValueError(f"{path}, {where}: not a line of NUMBER NAME: {line!r}")
    names[int(number.lstrip("c"))] = name.strip()
  expected = range(first_number, first_number + len(numbered))
  if sorted(names) != list(expected) or len(set(names.values())) < len(names):
    raise ValueError(
      f"{path} names {len(set(names.values()))} classes; expected the numbers "
      f"{expected[0]} to {expected[-1]}, each with a name of its own"
    )
  return [names[number] for number in expected]


def read(
  path: pathlib.Path, names: list[str], *, first_number: int
) -> annotation_file.AnnotationFile:
  """Reads the file; class numbers count from `first_number`.

  Raises:
    ValueError: if it is not in shape.
  """
  document = source_files.load_json(path)
  if not isinstance(document, dict):
    raise ValueError(f"{path} is not an object of videos")
  file = annotation_file.AnnotationFile(class_names=list(names))
  for name, value in document.items():
    subset = value.get("subset") if isinstance(value, dict) else None
    split = annotation_file.SPLITS.get(str(subset).strip().lower())
    if split is None:
      file.reject(name[:100], name, f"unknown subset {subset!r}")
      continue
    entry = file.entry(name, split, name[:100])
    entry.expected_duration_sec = annotation_file.positive(
      value.get("duration")
    )
    for index, action in enumerate(value.get("actions", [])):
      number, start, end = (
        action if isinstance(action, list) and len(action) == 3 else [None] * 3
      )
      file.add(
        entry,
        "segments",
        span=(start, end, _label(number, names, first_number)),
        where=f"{name[:100]}.actions[{index}]",
      )
  return file


def _label(number, names, first_number):
  """The class's name; None, to be rejected, for an unknown number."""
  known = isinstance(number, int) and (
    first_number <= number < first_number + len(names)
  )
  return names[number - first_number] if known else None
