"""Divides an encoded video into blocks that are read separately."""

import io
from typing import NamedTuple

import numpy as np

from clap_jax.media import errors, structure
from clap_jax.media.video_reader import open_video

_MIN_BLOCK_SEC = 0.5  # matters if every frame is a key frame


class Blocks(NamedTuple):
  """Consecutive parts of a video, which together make up the file."""

  ends: np.ndarray  # int64, in bytes
  start_sec: np.ndarray  # times of the key frames; NaN: read on opening
  reach_sec: float  # maximum time from a frame to the block after it


def divide(video: bytes) -> Blocks | None:
  """Divides a video at key frames, and after its header and first frame.

  FFmpeg reads the first frame on opening. A file whose header is at the end has
  another block there. Returns None for containers other than mp4 and mov, for
  fragmented files, nearly all of which is read on opening, and if only the
  first frame is a key frame.

  Raises:
    VideoError: the video cannot be opened.
  """
  with open_video(video) as opened:
    is_fragmented = structure.is_whole(io.BytesIO(video), "mov") is not None
    if opened.info.container != "mov" or is_fragmented:
      return None
    with errors.named("cannot read the video"):
      packets = [packet for packet in opened.list_packets() if packet.num_bytes]
  if not packets:
    return None
  time_sec, start, num_bytes, is_key = map(np.array, zip(*packets, strict=True))
  end = int(start[-1] + num_bytes[-1])
  if np.any(np.diff(start, prepend=-1) <= 0) or end > len(video):
    return None
  cuts = [0]
  for number in np.flatnonzero(is_key):
    if time_sec[number] - time_sec[cuts[-1]] >= _MIN_BLOCK_SEC:
      cuts.append(int(number))
  if len(cuts) == 1:
    return None
  head_end = start[0] + num_bytes[0]
  ends = np.array([head_end, *start[cuts[1:]], end, len(video)], np.int64)
  start_sec = np.array([np.nan, *time_sec[cuts], np.nan])
  is_empty = np.diff(ends, prepend=0) == 0
  reach_sec = _reach_sec(time_sec, cuts[1:])
  return Blocks(ends[~is_empty], start_sec[~is_empty], reach_sec)


def _reach_sec(time_sec: np.ndarray, cuts: list[int]) -> float:
  """Returns the longest time from the last frame shown before a block to it.

  If frames are not stored in presentation order, the decoder holds back as many
  as the order may differ by.
  """
  rank = np.argsort(np.argsort(time_sec, kind="stable"), kind="stable")
  num_kept = int(np.max(np.arange(len(rank)) - rank))
  shown = [np.sort(time_sec[:cut])[: cut - num_kept] for cut in cuts]
  return float(
    max(
      time_sec[cut] - (times[-1] if len(times) else 0.0)
      for cut, times in zip(cuts, shown, strict=True)
    )
  )
