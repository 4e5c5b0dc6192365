"""Stores ground truth and predictions as flat NumPy columns.

A column of names is stored as integer codes and a tuple of names, so that NumPy
sorts, joins and groups hundreds of thousands of rows. Rows keep the order of
their file, which decides ties.
"""

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Self

import numpy as np


def encode_names(
  names: Iterable[str], *, known: Sequence[str] = ()
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Returns integer codes of `names` and the names in order of appearance.

  `known` names take the first codes even if no row uses them.
  """
  code_of: dict[str, int] = {name: code for code, name in enumerate(known)}
  codes = [code_of.setdefault(name, len(code_of)) for name in names]
  return np.asarray(codes, np.int64), tuple(code_of)


def translate_codes(
  codes: np.ndarray, *, names: Sequence[str], to: Sequence[str]
) -> np.ndarray:
  """Converts codes into `names` to codes into `to`; -1 if `to` lacks it."""
  code_of = {name: code for code, name in enumerate(to)}
  table = np.array([code_of.get(name, -1) for name in names], np.int64)
  return table[codes] if len(codes) else np.zeros(0, np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentTable:
  """Labelled segments, one row each, in file order.

  video_names may list videos without rows: they belong to the split and the
  evaluation card counts them.
  """

  video_names: tuple[str, ...]
  label_names: tuple[str, ...]
  video: np.ndarray  # int64 (n,), codes into video_names
  label: np.ndarray  # int64 (n,), codes into label_names
  start_sec: np.ndarray  # float64 (n,)
  end_sec: np.ndarray  # float64 (n,)

  def __len__(self) -> int:
    return len(self.video)

  @property
  def length_sec(self) -> np.ndarray:
    return self.end_sec - self.start_sec

  @property
  def segments(self) -> np.ndarray:
    """Returns (n, 2) start and end in seconds."""
    return np.stack([self.start_sec, self.end_sec], axis=-1)

  def take(self, rows: np.ndarray) -> Self:
    """Returns a table of these rows (indices or a mask)."""
    columns = {
      field.name: getattr(self, field.name)[rows]
      for field in dataclasses.fields(self)
      if not field.name.endswith("_names")
    }
    return dataclasses.replace(self, **columns)

  def without_videos(self, names: Collection[str]) -> Self:
    """Returns a table without these videos and their names."""
    kept = tuple(name for name in self.video_names if name not in names)
    video = translate_codes(self.video, names=self.video_names, to=kept)
    return dataclasses.replace(self, video=video, video_names=kept).take(
      video >= 0
    )

  @classmethod
  def from_rows(
    cls,
    rows: Sequence[tuple[str, float, float, str]],
    *,
    video_names: Sequence[str] = (),
  ) -> Self:
    """Builds a table from rows (video, start_sec, end_sec, label)."""
    video, start_sec, end_sec, label = (
      zip(*rows, strict=True) if rows else ((),) * 4
    )
    return cls.from_columns(
      video=video,
      start_sec=start_sec,
      end_sec=end_sec,
      label=label,
      video_names=video_names,
    )

  @classmethod
  def from_columns(
    cls,
    *,
    video: Iterable[str],
    start_sec: Sequence[float] | np.ndarray,
    end_sec: Sequence[float] | np.ndarray,
    label: Iterable[str],
    video_names: Sequence[str] = (),
    label_names: Sequence[str] = (),
    **scores: Sequence[float] | np.ndarray,
  ) -> Self:
    """Builds a table from columns of names and numbers of equal length.

    Raises:
      ValueError: the columns differ in length.
    """
    video_code, all_videos = encode_names(video, known=video_names)
    label_code, all_labels = encode_names(label, known=label_names)
    numbers = {"start_sec": start_sec, "end_sec": end_sec, **scores}
    numbers = {
      name: np.asarray(column, np.float64).reshape(-1)
      for name, column in numbers.items()
    }
    sizes = {name: len(column) for name, column in numbers.items()}
    sizes.update(video=len(video_code), label=len(label_code))
    if len(set(sizes.values())) > 1:
      raise ValueError(
        f"got columns of lengths {sizes}; expected one entry per segment in "
        "every column"
      )
    return cls(
      video_names=all_videos,
      label_names=all_labels,
      video=video_code,
      label=label_code,
      **numbers,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionTable(SegmentTable):
  """Scored segments; a higher score is a more confident prediction."""

  score: np.ndarray  # float64 (n,)


def drop_degenerate(
  table: SegmentTable, *, duplicate_tolerance_sec: float
) -> SegmentTable:
  """Drops empty segments and repeated annotations.

  A segment is repeated if both its ends are within the tolerance (inclusive) of
  an earlier kept one of the same video and label.
  """
  keep = table.length_sec > 0
  table = table.take(keep)
  key = table.video * max(len(table.label_names), 1) + table.label
  order = np.argsort(key, kind="stable")
  kept = np.ones(len(table), bool)
  bounds = np.flatnonzero(np.diff(key[order], prepend=-1, append=-1))
  for first, last in itertools.pairwise(bounds):
    rows = order[first:last]  # one video and label, in file order
    segments = table.segments[rows]
    for position in range(1, len(rows)):
      earlier = segments[:position][kept[rows[:position]]]
      distance = np.abs(earlier - segments[position]).max(axis=1)
      kept[rows[position]] = not (distance <= duplicate_tolerance_sec).any()
  return table.take(kept)


def keep_best_per_video(table: DetectionTable, *, top_k: int) -> DetectionTable:
  """Returns the `top_k` best rows of every video; ties by file order."""
  order = np.lexsort((-table.score, table.video))
  video = table.video[order]
  first_of_video = np.flatnonzero(np.diff(video, prepend=-1))
  sizes = np.diff(np.append(first_of_video, len(video)))
  rank = np.arange(len(video)) - np.repeat(first_of_video, sizes)
  return table.take(np.sort(order[rank < top_k]))
