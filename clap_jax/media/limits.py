"""Limits on accepted videos, shared by all commands."""

import argparse
import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoLimits:
  """Limits on videos; stated values are checked before decoding, real during.

  `max_gap_sec` is between two frames or before the first. Hours of 4K decode
  slower than real time. `max_memory_bytes` is address space, of which the
  decoding process uses a part.
  """

  max_pixels: int = 4096 * 4096  # per frame
  max_frames: int = 5_000_000
  max_duration_sec: float = 24 * 3600.0
  max_gap_sec: float = 1800.0
  max_bytes: int = 64 << 30
  max_decode_sec: float = 3600.0  # per video
  max_memory_bytes: int = 3 << 29

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if not 0 < value < 1 << 62:
        raise ValueError(f"{name} is {value}; expected a positive number")


DEFAULT_LIMITS = VideoLimits()

_HELP = {
  "max_pixels": "pixels per frame",
  "max_frames": "frames per video",
  "max_duration_sec": "duration of a video in seconds",
  "max_gap_sec": "seconds between two frames",
  "max_bytes": "size of a video file in bytes",
  "max_decode_sec": "seconds to decode a video",
  "max_memory_bytes": "memory of a decoding process in bytes",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds a flag for every limit."""
  group = parser.add_argument_group("limits on each video")
  for name, text in _HELP.items():
    default = getattr(DEFAULT_LIMITS, name)
    group.add_argument(
      f"--{name}",
      type=type(default),
      default=default,
      metavar="N",
      help=f"maximum {text} (default: {default})",
    )


def from_args(args: argparse.Namespace) -> VideoLimits:
  """Returns the limits that the flags of `add_flags` state.

  Raises:
    ValueError: a limit is not positive.
  """
  return VideoLimits(**{name: getattr(args, name) for name in _HELP})
