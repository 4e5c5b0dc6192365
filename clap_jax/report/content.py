"""The content of a report as frozen dataclasses.

Callers fill them in; the other modules of this folder only draw them. Times
are seconds from the start of a video, segments are [start, end), and texts
need no escaping.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from clap_jax.metrics import diagnosis

# Order of the tasks on the page.
TASKS = ("localization", "fewshot", "grounding", "retrieval")
# Encoders of the comparison, in the order of its rows.
ENCODERS = {
  "random": "towers without training",
  "tac": "trimmed action classification: cross-entropy over the classes, on "
  "action clips only",
  "tsp": "class and action-or-background cross-entropy",
  "clip": "plain contrastive loss without masks, on action clips only",
  "clap": "masked contrastive loss on action clips, background clips and "
  "captions",
}


@dataclasses.dataclass(frozen=True)
class Curve:
  """One line of a chart: `values[i]` was measured at `steps[i]`."""

  name: str  # its first word, an encoder ("clap seed 1"), sets the colour
  steps: Sequence[float]
  values: Sequence[float]  # NaN breaks the line


@dataclasses.dataclass(frozen=True)
class Chart:
  """Overlaid curves on the same axes."""

  title: str
  curves: Sequence[Curve] = ()
  y_label: str = "loss"
  x_label: str = "step"
  smooth: bool = True  # draw a moving average over the thin raw line


@dataclasses.dataclass(frozen=True)
class Figure:
  """A drawing with its title."""

  title: str
  svg: Markup


@dataclasses.dataclass(frozen=True)
class Listing:
  """A table of texts."""

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[str]]
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Segment:
  """A stretch of a video; `score` is None for ground truth."""

  start_sec: float
  end_sec: float
  label: str = ""
  score: float | None = None

  def __post_init__(self):
    ends = (self.start_sec, self.end_sec)
    if not all(math.isfinite(value) for value in ends) or ends[0] > ends[1]:
      raise ValueError(
        f"Segment {self.label!r} is from {ends[0]} to {ends[1]} s; expected"
        " finite seconds with start <= end."
      )


@dataclasses.dataclass(frozen=True)
class Track:
  """The predictions of one model, in any order."""

  name: str  # of the encoder, for example
  segments: Sequence[Segment] = ()


@dataclasses.dataclass(frozen=True)
class Query:
  """A free-text query on a video, with the moments found for it."""

  text: str
  moments: Sequence[Segment] = ()  # ground truth; empty if unknown
  tracks: Sequence[Track] = ()
  absent: bool | None = None  # True: predicted not to occur in the video


@dataclasses.dataclass(frozen=True)
class VideoTimeline:
  """A video with ground truth and predictions."""

  video_id: str
  duration_sec: float
  frames: np.ndarray | None = None  # uint8 (n, h, w, 3), see `frame_times`
  ground_truth: Sequence[Segment] = ()
  tracks: Sequence[Track] = ()
  queries: Sequence[Query] = ()
  note: str = ""

  def __post_init__(self):
    if not (math.isfinite(self.duration_sec) and self.duration_sec > 0):
      raise ValueError(
        f"Video {self.video_id!r} lasts {self.duration_sec} s; expected a"
        " finite, positive duration."
      )
    frames = self.frames
    if frames is not None and (
      frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3
    ):
      raise ValueError(
        f"Frames of video {self.video_id!r} are {frames.dtype}"
        f" {frames.shape}; expected uint8 (n, height, width, 3)."
      )


@dataclasses.dataclass(frozen=True)
class Command:
  """A command that repeats a part of the report."""

  purpose: str
  command: str


@dataclasses.dataclass(frozen=True)
class Diagnosed:
  """The diagnosis of one detector."""

  name: str  # of the encoder, for example
  where: str  # dataset and split
  diagnosis: diagnosis.Diagnosis
  # Characteristic -> description of its bins.
  bin_notes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def frame_times(duration_sec: float, num_frames: int) -> np.ndarray:
  """Returns the times (num_frames,) of a timeline's frames, in seconds.

  They are the middles of equal cells, so the strip and the time axis agree.
  """
  return (np.arange(num_frames) + 0.5) * duration_sec / max(num_frames, 1)
