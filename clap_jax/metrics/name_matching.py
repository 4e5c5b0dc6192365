"""Matches names of predicted videos to names in the ground truth."""

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence

from clap_jax.metrics.tables import DetectionTable
from clap_jax.storage import video_names


def with_known_names(
  predictions: DetectionTable, known: Sequence[str]
) -> tuple[DetectionTable, list[str]]:
  """Renames videos if none is known: by the prefix "v_", or as file names.

  Returns:
    The predictions and a note for the evaluation card, if any.
  """
  names, known_names = predictions.video_names, set(known)
  if not names or known_names & set(names):
    return predictions, []
  for old, new in (("", "v_"), ("v_", "")):
    changed = tuple(new + name.removeprefix(old) for name in names)
    if known_names & set(changed) and len(set(changed)) == len(names):
      note = f"video names matched after {old!r} became {new!r}"
      return dataclasses.replace(predictions, video_names=changed), [note]
  changed = _matched_names(names, known_names)
  if changed is None:
    return predictions, []
  pairs = (
    pair for pair in zip(names, changed, strict=True) if len({*pair}) > 1
  )
  old, new = next(pairs)
  note = f"video names matched as file names: {old!r} is {new!r}"
  return dataclasses.replace(predictions, video_names=changed), [note]


def _matched_names(
  names: Sequence[str], known: Iterable[str]
) -> tuple[str, ...] | None:
  """Replaces names that match a known video as file names.

  Ignores suffixes, folders and Unicode forms; keeps a name that matches several
  videos. Returns None if no name matches, or two names match one video.
  """
  index = video_names.NameIndex(sorted(known), any_case=False)
  found: dict[str, str] = {}
  for name in names:
    with contextlib.suppress(video_names.AmbiguousNameError):
      match = index.find(name)
      if match is not None:
        found[name] = match
  if len({*found.values()}) < len(found):
    return None
  return tuple(found.get(name, name) for name in names) if found else None
