"""Encodes videos of any length.

A thread decodes while the caller encodes. A short queue lies between them, so
that no more than a few decoded clips are in memory. Features alone grow with
the video: 4 bytes per channel and step, 15 MB per hour at 512 channels and a
stride of half a second.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import extract
from clap_jax.media import decode

T = TypeVar("T")
_CLIPS_AHEAD = 16
_POLL_SEC = 0.2


def encode_video(
  encoder: encoder_lib.Encoder,
  video,
  *,
  stride_sec: float,
  on_clip: Callable[[float], None] = lambda start_sec: None,
) -> np.ndarray:
  """Encodes a video of any length to features (t, d).

  Args:
    encoder: of the clips.
    video: bytes or a local path.
    stride_sec: between clips.
    on_clip: called with the start of every clip that is decoded.

  Raises:
    VideoError: the video cannot be decoded.
  """

  def clips() -> Iterator[decode.DecodedClip]:
    stream = extract.stream_clips(encoder, video, stride_sec=stride_sec)
    for clip in stream:
      on_clip(clip.start_sec)
      yield clip

  with contextlib.closing(run_ahead(clips(), depth=_CLIPS_AHEAD)) as ahead:
    return extract.video_features(encoder, ahead)


def run_ahead(items: Iterable[T], *, depth: int) -> Iterator[T]:
  """Yields items that a thread makes, of which at most `depth` wait.

  What the thread raises is raised here; it stops when nobody listens any more.
  """
  waiting: queue.Queue = queue.Queue(maxsize=depth)
  is_over = threading.Event()

  def put(message) -> bool:
    while not is_over.is_set():
      try:
        waiting.put(message, timeout=_POLL_SEC)
        return True
      except queue.Full:
        continue
    return False

  def work():
    try:
      for item in items:
        if not put((item, None)):
          return
      put((None, StopIteration()))
    except BaseException as error:  # handed over to the listener
      put((None, error))
    finally:
      close = getattr(items, "close", None)
      if close is not None:
        close()

  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  try:
    while True:
      item, error = waiting.get()
      if isinstance(error, StopIteration):
        return
      if error is not None:
        raise error
      yield item
  finally:
    is_over.set()
    thread.join()
