"""Encodes frames as small JPEG data URIs."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

_JPEG_QUALITY = 72


def data_uri(frame: np.ndarray, *, height: int) -> str:
  """Encodes a uint8 (h, w, 3) frame as a JPEG of at most `height` pixels."""
  image = Image.fromarray(np.ascontiguousarray(frame))
  if image.height > height:
    width = max(1, round(image.width * height / image.height))
    image = image.resize((width, height), Image.Resampling.LANCZOS)
  buffer = io.BytesIO()
  image.save(buffer, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
  encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
  return f"data:image/jpeg;base64,{encoded}"


def evenly(count: int, *, at_most: int) -> Sequence[int]:
  """Returns indices of up to `at_most` evenly spaced frames of `count`."""
  kept = min(count, at_most)
  return [int((index + 0.5) * count / kept) for index in range(kept)]
