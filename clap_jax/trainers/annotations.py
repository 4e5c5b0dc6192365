"""Annotation files in the place of a built dataset."""

import os
import pathlib

import numpy as np

from clap_jax.data import records
from clap_jax.metrics import ground_truth_files


class AnnotatedVideos:
  """The videos of an ActivityNet-style JSON file; see `records.Dataset`.

  Segments keep the file's precision, so that a score computed in training
  equals that of `clap score` on the predictions it wrote.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is malformed, or lacks what training needs.
  """

  def __init__(
    self, path: str | os.PathLike, *, ignored_labels: tuple[str, ...] = ()
  ):
    """Reads the file; segments of `ignored_labels` are as if not there."""
    self.path = pathlib.Path(path)
    if not self.path.is_file():
      raise FileNotFoundError(
        f"{path} is missing; give an ActivityNet-style JSON file as "
        "data.annotations."
      )
    self._examples: dict[str, tuple[records.ExampleInfo, ...]] = {}
    self.name = self.path.stem
    self.truth = ground_truth_files.read_ground_truth(self.path, subset=None)
    table = self.truth.table
    self.label_names = tuple(
      sorted(
        {table.label_names[code] for code in np.unique(table.label)}
        - {*ignored_labels}
      )
    )
    videos = self.truth.videos
    lacking = [name for name in table.video_names if name not in videos]
    lacking += [name for name, v in videos.items() if v.duration_sec is None]
    if lacking or not self.label_names:
      raise ValueError(
        f"{path}: {len(lacking)} videos have no duration (e.g. {lacking[:3]}) "
        f"and there are {len(self.label_names)} classes; training needs JSON "
        "with a duration of every video and at least one class."
      )

  @property
  def splits(self) -> tuple[str, ...]:
    subsets = {video.subset for video in self.truth.videos.values()}
    return tuple(sorted(subset for subset in subsets if subset is not None))

  def covered_sec(self) -> dict[str, float]:
    """Seconds that evenly spread features stand for, where the file says so."""
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
        f"{', '.join(self.splits)}."
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
      captions=(),
      background=np.zeros((0, 2)),
    )
