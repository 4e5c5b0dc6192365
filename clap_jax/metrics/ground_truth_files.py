"""Reads detection ground truth; annotations.given_file lists the formats."""

import dataclasses

from clap_jax.annotations import given_file, own_files
from clap_jax.annotations.problems import MalformedFileError
from clap_jax.metrics.tables import SegmentTable
from clap_jax.storage import locations


@dataclasses.dataclass(frozen=True, eq=False)
class GroundTruth:
  """Segments of a split, the split's name, and names of class numbers."""

  table: SegmentTable
  split: str
  label_names: dict[str, str]  # class number -> name


def read_ground_truth(
  path: locations.Location,
  *,
  subset: str | None,
  label_field: str = "label",
  needs_label: bool = True,
) -> GroundTruth:
  """Reads the annotations of one subset (None: all videos).

  Names of subsets ignore case, and "val" is "validation"; a file without
  subsets is read whole. Proposals need no label.

  Raises:
    MalformedFileError: the file has problems, or lacks the subset.
    OSError: the file cannot be opened.
  """
  file = given_file.read(path, label_field=label_field, needs_label=needs_label)
  marked = file.marked_subsets()
  wanted = [
    name for name in marked if subset and given_file.same_subset(name, subset)
  ]
  if subset and marked and not wanted:
    raise MalformedFileError(
      path, [f"got the subsets {marked}; expected {subset!r}"]
    )
  entries = [
    entry
    for entry in file.entries.values()
    if not wanted or entry.subset in wanted
  ]
  table = SegmentTable.from_rows(
    [
      (entry.name, span.start_sec, span.end_sec, span.text)
      for entry in entries
      for span in entry.segments
    ],
    video_names=[entry.name for entry in entries],
  )
  is_table = path.suffix.lower() in own_files.TABLE_SUFFIXES
  whole = path.stem if is_table else "all"
  return GroundTruth(
    table,
    wanted[0] if wanted else whole,
    {str(number): max(names) for number, names in file.label_ids.items()},
  )
