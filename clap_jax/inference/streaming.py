"""Features of a video of any length, window by window, in constant memory.

Three things happen at once: a thread decodes, a second one encodes what the
first has decoded, and the caller works on the window before. Between them stand
short queues, so that what waits does not grow with the video.
"""

import dataclasses
import itertools
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
_BLOCK_CLIPS = 64
_WINDOWS_AHEAD = 1
_POLL_SEC = 0.2


@dataclasses.dataclass(frozen=True)
class FeatureWindow:
  """Features of a stretch of a video, and which of its moments are its own.

  Windows overlap by half, so that a moment of less than a quarter window lies
  whole in the one that owns its middle, a longer one up to half a window too.
  """

  features: np.ndarray  # float32 (t, d)
  first: int  # step of the video that stands at its start
  owned: tuple[float, float]  # steps of the video: middles of its moments


def stream_windows(
  encoder: encoder_lib.Encoder,
  video,
  *,
  stride_sec: float,
  window_steps: int,
  on_clip: Callable[[float], None] = lambda start_sec: None,
) -> Iterator[FeatureWindow]:
  """Yields the windows of a video; one alone if it is not longer.

  Args:
    encoder: of the clips.
    video: bytes or a local path.
    stride_sec: between clips.
    window_steps: features of a window, a multiple of 4.
    on_clip: called with the start of every clip that is decoded.

  Raises:
    VideoError: the video cannot be decoded.
  """
  if window_steps < 4 or window_steps % 4:
    raise ValueError(
      f"window_steps is {window_steps}; expected a positive multiple of 4."
    )

  def clips() -> Iterator[decode.DecodedClip]:
    stream = extract.stream_clips(encoder, video, stride_sec=stride_sec)
    for clip in stream:
      on_clip(clip.start_sec)
      yield clip

  blocks = _encoded(encoder, run_ahead(clips(), depth=_CLIPS_AHEAD))
  windows = cut_windows(blocks, window_steps=window_steps)
  yield from run_ahead(windows, depth=_WINDOWS_AHEAD)


def _encoded(
  encoder: encoder_lib.Encoder, clips: Iterator[decode.DecodedClip]
) -> Iterator[np.ndarray]:
  """Features (n, d) of consecutive clips, as many at a time as a block has."""
  for clip in clips:
    block = itertools.chain([clip], itertools.islice(clips, _BLOCK_CLIPS - 1))
    yield extract.video_features(encoder, block)


def cut_windows(
  blocks: Iterable[np.ndarray], *, window_steps: int
) -> Iterator[FeatureWindow]:
  """Blocks of features (n, d) to windows that overlap by half."""
  hop, quarter = window_steps // 2, window_steps // 4
  buffer = np.zeros((0, 0), np.float32)
  first, low = 0, -np.inf
  for block in blocks:
    buffer = np.concatenate([buffer, block]) if len(buffer) else block
    while len(buffer) > window_steps:  # so that there is a window after it
      high = first + hop + quarter
      yield FeatureWindow(buffer[:window_steps].copy(), first, (low, high))
      buffer, first, low = buffer[hop:], first + hop, high
  yield FeatureWindow(buffer.copy(), first, (low, np.inf))


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
