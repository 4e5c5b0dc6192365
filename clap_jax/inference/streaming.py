"""Encodes videos of any length.

A thread decodes while the caller encodes. A short queue between them bounds the
decoded clips in memory. Only the features grow with the video: 4 bytes per
channel and step, 15 MB per hour at 512 channels and a stride of half a second.
"""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np

from clap_jax.data import features
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import extract
from clap_jax.media import decode
from clap_jax.media.limits import DEFAULT_LIMITS, VideoLimits
from clap_jax.training import ahead

_CLIPS_AHEAD = 16


def encode_video(
  encoder: encoder_lib.Encoder,
  video,
  *,
  stride_sec: float,
  on_clip: Callable[[float], None] = lambda start_sec: None,
  limits: VideoLimits = DEFAULT_LIMITS,
) -> tuple[features.VideoFeatures, float]:
  """Encodes a video of any length.

  Args:
    video: bytes or local path of the video.
    stride_sec: seconds between clips.
    on_clip: called with the start of every decoded clip.
    limits: decoding limits.

  Returns:
    The features, with the cuts where clips are single frames, and the duration
    in seconds.

  Raises:
    VideoError: if the video cannot be decoded.
  """

  stream = extract.stream_clips(
    encoder,
    video,
    stride_sec=stride_sec,
    limits=limits,
    finds_cuts=encoder.sees_single_frames,
  )

  def clips() -> Iterator[decode.DecodedClip]:
    with contextlib.closing(stream):
      for clip in stream:
        on_clip(clip.start_sec)
        yield clip

  with contextlib.closing(ahead.Ahead(clips(), depth=_CLIPS_AHEAD)) as decoded:
    vectors = extract.video_features(encoder, decoded)
  assert stream.duration_sec is not None  # the last clip was read
  grid = features.FeatureGrid(
    start_sec=0.0, stride_sec=stride_sec, clip_sec=encoder.clip.clip_sec
  )
  cuts_sec = np.sort(np.asarray(stream.cuts_sec, float))
  return features.VideoFeatures(vectors, grid, cuts_sec), stream.duration_sec
