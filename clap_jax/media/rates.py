"""Chooses the frame rate at which a video is stored."""

import numpy as np

from clap_jax.media import errors
from clap_jax.media.limits import DEFAULT_LIMITS, VideoLimits
from clap_jax.media.video_reader import Video, open_video

# An average rate this near to the nominal one means that the rate is constant.
_CONSTANT_SHARE = 0.05
# Of the steps between frames, the share that may be faster than the rate.
_FASTER_SHARE = 0.1


def motion_rate(video: Video, *, limits: VideoLimits = DEFAULT_LIMITS) -> float:
  """Frames per second of the moving parts of a video.

  The average of a screen recording that stands still for minutes says nothing
  of its motion. Where average and nominal rate differ, the distances between
  all frames are looked at; nothing is decoded.

  Raises:
    VideoError: as `container.open_video`.
  """
  with open_video(video, limits=limits) as opened:
    nominal = 1.0 / opened.info.frame_sec
    if abs(opened.info.fps - nominal) <= _CONSTANT_SHARE * nominal:
      return opened.info.fps
    with errors.named("cannot read the video"):
      times = [packet.time_sec for packet in opened.list_packets()]
  steps = np.diff(np.sort(times))
  steps = steps[steps > 0]
  if not len(steps):
    return nominal
  return float(1.0 / np.quantile(steps, _FASTER_SHARE))
