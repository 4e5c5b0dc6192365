"""Chooses the frame rate at which a video is stored."""

import numpy as np

from clap_jax.media import errors
from clap_jax.media.limits import DEFAULT_LIMITS, VideoLimits
from clap_jax.media.video_reader import Video, open_video

# The rate is constant if average and nominal rate differ by at most this share.
_CONSTANT_SHARE = 0.05
# Share of the steps between frames that may be faster than the rate.
_FASTER_SHARE = 0.1


def motion_rate(video: Video, *, limits: VideoLimits = DEFAULT_LIMITS) -> float:
  """Returns the frames per second of the moving parts of a video.

  The average rate of a screen recording with long still parts does not describe
  its motion. If average and nominal rate differ, the distances between all
  frames decide; nothing is decoded.

  Raises:
    VideoError: as `video_reader.open_video`.
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
