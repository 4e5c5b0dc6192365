"""Encodes frames as the training store's H.264 mp4 files.

A file has one stream, yuv420p, a key frame every 16 frames (closed groups), no
B-frames and the index in front: a random clip of a few seconds decodes from the
key frame before it, and presentation order is decoding order. Equal frames give
equal bytes: the encoder uses one thread and no macroblock-tree look-ahead,
whose vector code reads uninitialised memory unless sides are multiples of 64
px.
"""

import os
import pathlib
import uuid
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np

from clap_jax.storage import untrusted

CODECS = ("h264", "mjpeg")
GOP_FRAMES = 16
DEFAULT_CRF = 18
JPEG_QUALITY_SCALE = 3  # FFmpeg's q, 2 (best) to 31; 3 is near libjpeg's 90
_QP_TO_LAMBDA = 118  # FFmpeg's FF_QP2LAMBDA
X264_PARAMS = (
  f"keyint={GOP_FRAMES}:min-keyint={GOP_FRAMES}:scenecut=0:open-gop=0:"
  "bframes=0:mbtree=0:rc-lookahead=0:threads=1:sliced-threads=0"
)
EVEN_QUANTIZER = ":aq-mode=0:psy=0"


def write_mp4(
  frames: Iterable[np.ndarray],
  path: pathlib.Path,
  *,
  fps: float,
  crf: int = DEFAULT_CRF,
  preset: str = "veryfast",
  codec: str = "h264",
  even_quantizer: bool = False,
) -> int:
  """Encodes (h, w, 3) uint8 RGB frames of even sides into `path`.

  Codec "mjpeg" stores each frame as a JPEG picture instead, every one a key
  frame, and ignores the other settings. `even_quantizer` disables perceptual
  optimisations: less error for equal bytes.

  The file is written under another name and renamed when complete.

  Returns:
    The number of frames.

  Raises:
    ValueError: there are no frames, or they are not RGB of even sides.
  """
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
  try:
    params = X264_PARAMS + (EVEN_QUANTIZER if even_quantizer else "")
    settings = {
      "codec": codec,
      "options": {"crf": str(crf), "preset": preset, "x264-params": params},
    }
    count = _encode(frames, partial, fps=fps, settings=settings)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)
  return count


def _encode(frames, path, *, fps, settings):
  count = 0
  rate = Fraction(fps).limit_denominator(1001)
  # A name, not a file object: the second pass, which moves the index to the
  # front, opens the file again.
  with av.open(
    str(path),
    "w",
    format="mp4",
    options={"movflags": "+faststart", "fflags": "+bitexact"},
  ) as container:
    stream = None
    for image in frames:
      if stream is None:
        stream = _add_stream(container, image, rate=rate, **settings)
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts = count
      frame.time_base = 1 / rate
      container.mux(stream.encode(frame))
      count += 1
    if stream is None:
      raise ValueError(
        "no frames to encode: got an empty sequence; pass at "
        "least one (h, w, 3) uint8 frame"
      )
    container.mux(stream.encode(None))
  return count


def _add_stream(container, image, *, rate, codec, options):
  if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
    raise ValueError(
      f"frames must be (h, w, 3) uint8 RGB, got shape "
      f"{image.shape} of {image.dtype}"
    )
  if image.shape[0] % 2 or image.shape[1] % 2:
    raise ValueError(
      f"4:2:0 video needs even sides, got {image.shape[:2]}; "
      "crop or resize the frames to even sides"
    )
  if codec not in CODECS:
    raise ValueError(f"unknown codec {codec!r}; choose from {CODECS}")
  if codec == "mjpeg":
    quality = JPEG_QUALITY_SCALE * _QP_TO_LAMBDA
    options = {"flags": "+qscale", "global_quality": str(quality)}
  name = {"h264": "libx264", "mjpeg": "mjpeg"}[codec]
  stream = container.add_stream(name, rate=rate, options=options)
  stream.height, stream.width = image.shape[:2]
  stream.pix_fmt = {"h264": "yuv420p", "mjpeg": "yuvj420p"}[codec]
  stream.codec_context.thread_count = 1
  stream.codec_context.time_base = 1 / rate
  return stream


def count_frames(path: pathlib.Path) -> int:
  """Counts the packets of an mp4 file; decodes nothing, returns 0 if broken."""
  try:
    with (
      untrusted.open_file(path, max_bytes=1 << 40) as file,
      av.open(
        file, "r", format="mov", options={"protocol_whitelist": "file"}
      ) as container,
    ):
      stream = container.streams.video[0]
      return sum(1 for packet in container.demux(stream) if packet.size)
  except (av.FFmpegError, OSError, IndexError):
    return 0
