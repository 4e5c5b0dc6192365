"""Encodes videos of any length.

A thread decodes while the caller encodes. A short queue lies between them, so
that no more than a few decoded clips are in memory. Features alone grow with
the video: 4 bytes per channel and step, 15 MB per hour at 512 channels and a
stride of half a second.
"""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np

from clap_jax.inference import ahead, extract
from clap_jax.inference import encoder as encoder_lib
from clap_jax.media import decode
from clap_jax.media.limits import DEFAULT_LIMITS, VideoLimits

_CLIPS_AHEAD = 16


def encode_video(
  encoder: encoder_lib.Encoder,
  video,
  *,
  stride_sec: float,
  on_clip: Callable[[float], None] = lambda start_sec: None,
  limits: VideoLimits = DEFAULT_LIMITS,
) -> tuple[np.ndarray, float]:
  """Encodes a video of any length.

  Args:
    encoder: of the clips.
    video: bytes or a local path.
    stride_sec: between clips.
    on_clip: called with the start of every clip that is decoded.
    limits: caps on what is decoded.

  Returns:
    The features (t, d), and the duration of the video in seconds, which is
    known only once it was decoded.

  Raises:
    VideoError: the video cannot be decoded.
  """

  stream = extract.stream_clips(
    encoder, video, stride_sec=stride_sec, limits=limits
  )

  def clips() -> Iterator[decode.DecodedClip]:
    with contextlib.closing(stream):
      for clip in stream:
        on_clip(clip.start_sec)
        yield clip

  with contextlib.closing(ahead.Ahead(clips(), depth=_CLIPS_AHEAD)) as decoded:
    features = extract.video_features(encoder, decoded)
  return features, stream.duration_sec
