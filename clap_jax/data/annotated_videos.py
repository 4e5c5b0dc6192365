"""Reads annotation files in place of a built dataset."""

import dataclasses
import os

import numpy as np

from clap_jax.data import own_annotations, query_annotations, records
from clap_jax.metrics import ground_truth_files, tables
from clap_jax.metrics.prediction_entries import NO_LABEL
from clap_jax.storage import locations


class AnnotatedVideos:
  """The videos of an annotation file; see `records.Dataset`.

  The file is ActivityNet-style JSON or a table, see data/own_annotations.
  Segments keep the file's precision, so that a score computed in training
  equals that of `clap score` on the predictions it wrote.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is malformed, or lacks what training needs.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    ignored_labels: tuple[str, ...] = (),
    duration_files: tuple[str, ...] = (),
  ):
    """Reads the file.

    Args:
      path: the file.
      ignored_labels: segments of these are as if not there.
      duration_files: tables with the columns id and length, in seconds, of
        videos whose duration the file does not have.
    """
    self.path = locations.at(path)
    if not self.path.is_file():
      raise FileNotFoundError(
        f"{path} is missing; give ActivityNet-style JSON or a table with the "
        "columns video, start, end, label, subset as data.annotations."
      )
    self._examples: dict[str, tuple[records.ExampleInfo, ...]] = {}
    self.name = self.path.stem
    is_table = own_annotations.is_table(self.path)
    self.truth, captions = (_read_table if is_table else _read_json)(self.path)
    self._captions: dict[str, list[tuple[float, float, str]]] = {}
    for span in captions:
      if span.caption is not None:
        self._captions.setdefault(span.video, []).append(
          (span.start_sec, span.end_sec, span.caption)
        )
    for file in duration_files:
      self._add_durations(query_annotations.read_durations(locations.at(file)))
    table = self.truth.table
    self.label_names = tuple(
      sorted(
        {table.label_names[code] for code in np.unique(table.label)}
        - {*ignored_labels, *([NO_LABEL] if captions else ())}
      )
    )
    self._check()

  def _add_durations(self, lengths: dict[str, float]) -> None:
    for name, facts in self.truth.videos.items():
      if facts.duration_sec is None and name in lengths:
        self.truth.videos[name] = dataclasses.replace(
          facts, duration_sec=lengths[name]
        )

  def _check(self) -> None:
    videos = self.truth.videos
    names = self.truth.table.video_names
    lacking = [name for name in names if name not in videos]
    lacking += [name for name, v in videos.items() if v.duration_sec is None]
    if lacking:
      raise ValueError(
        f"{self.path}: {len(lacking)} videos have no duration (e.g. "
        f'{lacking[:3]}); give it as "duration" in JSON or as a column '
        "video_duration, or name a CSV with the columns id and length in "
        "data.durations."
      )
    if not self.label_names and not self._captions:
      raise ValueError(
        f"{self.path}: there are 0 classes and no captions; training needs at "
        "least one."
      )

  @property
  def label_ids(self) -> dict[int, str]:
    """Class number -> name, where the annotations have a "label_id".

    Raises:
      ValueError: two classes have one number, or one class has two.
    """
    return own_annotations.read_label_ids(self.path)

  @property
  def splits(self) -> tuple[str, ...]:
    subsets = {video.subset for video in self.truth.videos.values()}
    return tuple(sorted(subset for subset in subsets if subset is not None))

  def covered_sec(self) -> dict[str, float]:
    """Returns the seconds that evenly spread features cover, where stated."""
    return {
      name: video.covered_sec
      for name, video in self.truth.videos.items()
      if video.covered_sec is not None
    }

  def examples(self, split: str) -> tuple[records.ExampleInfo, ...]:
    """The videos of a subset; "validation" finds "val" as well.

    Raises:
      ValueError: no video is of that subset.
    """
    if split in self._examples:
      return self._examples[split]
    wanted = [
      name
      for name, video in self.truth.videos.items()
      if video.subset is not None
      and ground_truth_files.same_subset(video.subset, split)
    ]
    if not wanted:
      raise ValueError(
        f"{self.path} has no videos of the subset {split!r}; it has "
        f"{', '.join(self.splits) or 'no subsets'}."
      )
    table = self.truth.table
    order = np.argsort(table.video, kind="stable")
    bounds = np.searchsorted(
      table.video[order], np.arange(len(table.video_names) + 1)
    )
    code_of = {name: code for code, name in enumerate(table.video_names)}
    self._examples[split] = tuple(
      self._example(
        index, name, order[bounds[code_of[name]] : bounds[code_of[name] + 1]]
      )
      for index, name in enumerate(wanted)
    )
    return self._examples[split]

  def _example(self, index, name, rows) -> records.ExampleInfo:
    table, video = self.truth.table, self.truth.videos[name]
    id_of = {label: i for i, label in enumerate(self.label_names)}
    labels = [id_of.get(table.label_names[c], -1) for c in table.label[rows]]
    labels = np.asarray(labels, np.int32)
    fps = video.fps or 0.0
    return records.ExampleInfo(
      index=index,
      id=name,
      fps=fps,
      duration_sec=video.duration_sec,
      num_frames=round(fps * video.duration_sec),
      height=0,
      width=0,
      segments=table.segments[rows][labels >= 0],
      labels=labels[labels >= 0],
      captions=tuple(self._captions.get(name, ())),
      background=np.zeros((0, 2)),
    )


def _read_json(path):
  """Segments and captions; an annotation has at least one of the two."""
  captions = own_annotations.read_captions(path)
  truth = ground_truth_files.read_ground_truth(
    path, subset=None, needs_label=not captions
  )
  return truth, captions


def _read_table(path):
  own = own_annotations.read_table(path)
  labelled = [span for span in own.spans if span.label is not None]
  table = tables.SegmentTable.from_columns(
    video=[span.video for span in labelled],
    start_sec=[span.start_sec for span in labelled],
    end_sec=[span.end_sec for span in labelled],
    label=[span.label for span in labelled],
    video_names=tuple(own.subsets),
  )
  videos = {
    name: ground_truth_files.VideoFacts(
      subset=subset,
      duration_sec=own.duration_sec.get(name),
      fps=None,
      covered_sec=None,
    )
    for name, subset in own.subsets.items()
  }
  truth = ground_truth_files.GroundTruth(table, "all", {}, videos)
  return truth, own.spans
