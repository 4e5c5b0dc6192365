"""Reads annotation files in place of a built dataset."""

import numpy as np

from clap_jax.annotations import given_file, own_files
from clap_jax.data import query_annotations, records
from clap_jax.storage import locations, video_names


class AnnotatedVideos:
  """Videos of an annotation file; see `records.Dataset`.

  The file is ActivityNet-style JSON or a table, see annotations/.
  Segments keep the file's precision, so that a score computed in training
  equals that of `clap score` on the predictions it wrote.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is malformed, or lacks what training needs.
  """

  def __init__(
    self,
    path: locations.PathLike,
    *,
    ignored_labels: tuple[str, ...] = (),
    duration_files: tuple[str, ...] = (),
  ):
    """Reads the file.

    Args:
      ignored_labels: labels whose segments are dropped.
      duration_files: tables with the columns id and length, in seconds, for
        videos whose duration the file lacks.
    """
    self.path = locations.at(path)
    if not self.path.is_file():
      raise FileNotFoundError(
        f"{path} is missing; give ActivityNet-style JSON or a table with the "
        "columns video, start, end, label, subset as data.annotations."
      )
    self._examples: dict[str, tuple[records.ExampleInfo, ...]] = {}
    self.name = self.path.stem
    self._file = given_file.read(self.path, name_of=self._name_of)
    for file in duration_files:
      lengths = query_annotations.read_durations(locations.at(file))
      for name, entry in self._file.entries.items():
        if entry.expected_duration_sec is None:
          entry.expected_duration_sec = lengths.get(name)
    entries = self._file.entries.values()
    labels = {span.text for entry in entries for span in entry.segments}
    self.label_names = tuple(sorted(labels - {*ignored_labels}))
    self._check()

  def _name_of(self, name: str) -> str:
    """Returns the video id of a name, which in tables may be a file name."""
    if self.path.suffix.lower() in own_files.TABLE_SUFFIXES:
      return video_names.stem(video_names.base(name))
    return name

  def _check(self) -> None:
    entries = self._file.entries.values()
    lacking = [e.name for e in entries if e.expected_duration_sec is None]
    if lacking:
      raise ValueError(
        f"{self.path}: {len(lacking)} videos have no duration (e.g. "
        f'{lacking[:3]}); give it as "duration" in JSON or as a column '
        "video_duration, or name a CSV with the columns id and length in "
        "data.durations."
      )
    if not self.label_names and not any(entry.captions for entry in entries):
      raise ValueError(
        f"{self.path}: there are 0 classes and no captions; training needs at "
        "least one."
      )

  @property
  def label_ids(self) -> dict[int, str]:
    """Returns class names by number, if annotations have a "label_id".

    Raises:
      ValueError: two classes have one number, or one class has two.
    """
    try:
      return self._file.numbered_labels()
    except ValueError as error:
      raise ValueError(f"{self.path}: {error}") from None

  @property
  def splits(self) -> tuple[str, ...]:
    return tuple(self._file.marked_subsets())

  def covered_sec(self) -> dict[str, float]:
    """Returns the seconds that evenly spread features cover, if stated."""
    return {
      name: entry.covered_sec
      for name, entry in self._file.entries.items()
      if entry.covered_sec is not None
    }

  def examples(self, split: str) -> tuple[records.ExampleInfo, ...]:
    """Returns the videos of a subset; "validation" also matches "val".

    Raises:
      ValueError: no video belongs to that subset.
    """
    if split in self._examples:
      return self._examples[split]
    wanted = [
      entry
      for entry in self._file.entries.values()
      if entry.subset and given_file.same_subset(entry.subset, split)
    ]
    if not wanted:
      raise ValueError(
        f"{self.path} has no videos of the subset {split!r}; it has "
        f"{', '.join(self.splits) or 'no subsets'}."
      )
    self._examples[split] = tuple(
      self._example(index, entry) for index, entry in enumerate(wanted)
    )
    return self._examples[split]

  def _example(self, index, entry) -> records.ExampleInfo:
    id_of = {label: i for i, label in enumerate(self.label_names)}
    spans = [span for span in entry.segments if span.text in id_of]
    fps = entry.fps or 0.0
    return records.ExampleInfo(
      index=index,
      id=entry.name,
      fps=fps,
      duration_sec=entry.expected_duration_sec,
      num_frames=round(fps * entry.expected_duration_sec),
      height=0,
      width=0,
      segments=np.array(
        [(span.start_sec, span.end_sec) for span in spans], np.float64
      ).reshape(-1, 2),
      labels=np.array([id_of[span.text] for span in spans], np.int32),
      captions=tuple(
        (span.start_sec, span.end_sec, span.text) for span in entry.captions
      ),
      background=np.zeros((0, 2)),
    )
