"""Limits on accepted videos, shared by all commands."""

import argparse
import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoLimits:
  """Caps on what is decoded; claims are checked before, facts during it."""

  max_pixels: int = 4096 * 4096  # of one frame
  max_frames: int = 5_000_000
  max_duration_sec: float = 24 * 3600.0
  # Between two frames, or before the first: a longer one is refused.
  max_gap_sec: float = 1800.0
  max_bytes: int = 64 << 30
  # Of one video. Whole hours of 4K decode at less than real time.
  max_decode_sec: float = 3600.0
  # Of the decoding process: address space, of which it uses a part.
  max_memory_bytes: int = 3 << 29

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if not 0 < value < 1 << 62:
        raise ValueError(f"{name} is {value}; expected a positive number")


DEFAULT_LIMITS = VideoLimits()

_HELP = {
  "max_pixels": "pixels of a frame",
  "max_frames": "frames of a video",
  "max_duration_sec": "seconds of a video",
  "max_gap_sec": "seconds between two frames",
  "max_bytes": "bytes of a video file",
  "max_decode_sec": "seconds that decoding a video may take",
  "max_memory_bytes": "bytes of memory of a decoding process",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds a flag for every cap."""
  group = parser.add_argument_group("limits on each video")
  for name, text in _HELP.items():
    default = getattr(DEFAULT_LIMITS, name)
    group.add_argument(
      f"--{name}",
      type=type(default),
      default=default,
      metavar="N",
      help=f"{text}, at most; default: {default}",
    )


def from_args(args: argparse.Namespace) -> VideoLimits:
  """The caps of the flags that `add_flags` added.

  Raises:
    ValueError: a cap is not positive.
  """
  return VideoLimits(**{name: getattr(args, name) for name in _HELP})
