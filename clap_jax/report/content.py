"""The content of a report as frozen dataclasses.

Whoever runs the stages fills these in; the other modules of this folder only
draw them. Times are seconds from the start of a video, segments are
[start, end), and every text may hold anything: it is escaped when drawn.
Fields without a default are required.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from clap_jax.metrics import diagnosis

TASKS = ("localization", "fewshot", "grounding", "retrieval")  # on the page
# The encoders of the comparison, in the order of its rows.
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

  name: str  # an encoder's name first ("clap", "clap seed 1") sets the colour
  steps: Sequence[float]
  values: Sequence[float]  # NaN breaks the line


@dataclasses.dataclass(frozen=True)
class Chart:
  """Curves over the same axes, overlaid."""

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
        f"Segment {self.label!r} runs from {ends[0]} to {ends[1]} s; expected"
        " finite seconds, the start not after the end."
      )


@dataclasses.dataclass(frozen=True)
class Track:
  """The predictions of one model, in any order."""

  name: str  # for example the encoder
  segments: Sequence[Segment] = ()


@dataclasses.dataclass(frozen=True)
class Query:
  """A free-text query on a video, with the moments found for it."""

  text: str
  moments: Sequence[Segment] = ()  # ground truth; empty if unknown
  tracks: Sequence[Track] = ()
  absent: bool | None = None  # True: the model says it does not occur


@dataclasses.dataclass(frozen=True)
class VideoTimeline:
  """A video with what happens in it and what was predicted."""

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
  """A command that repeats part of what the report shows."""

  purpose: str
  command: str


@dataclasses.dataclass(frozen=True)
class Diagnosed:
  """The diagnosis of one detector."""

  name: str  # for example the encoder
  where: str  # dataset and split
  diagnosis: diagnosis.Diagnosis
  # Characteristic -> what its bins are, in words.
  bin_notes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def frame_times(duration_sec: float, num_frames: int) -> np.ndarray:
  """Times (num_frames,) at which a timeline expects its frames, in seconds.

  The strip is cut into equal cells and each frame stands in the middle of its
  cell, so the strip and the time axis agree.
  """
  return (np.arange(num_frames) + 0.5) * duration_sec / max(num_frames, 1)
