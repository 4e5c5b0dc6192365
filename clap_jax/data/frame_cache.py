"""Caches decoded videos in memory."""

import threading
from collections.abc import Callable

import numpy as np

from clap_jax.media.decode import (
  DecodedVideo,
  clip_instants,
  nearest_frames,
)


class FrameCache:
  """Caches whole decoded videos up to a size in MiB; thread-safe.

  A video that no longer fits is not cached, and nothing is ever evicted: in
  shuffled epochs a full cache with eviction would decode everything again. Each
  key is decoded by one thread while others that request it wait.
  """

  def __init__(self, limit_mib: float):
    self._limit_bytes = int(limit_mib * 2**20)
    self._used_bytes = 0
    self._videos: dict[int, DecodedVideo] = {}
    self._refused: set[int] = set()
    self._key_locks: dict[int, threading.Lock] = {}
    self._lock = threading.Lock()
    self.num_hits = 0
    self.num_misses = 0

  def __len__(self) -> int:
    return len(self._videos)

  def get(
    self,
    key: int,
    *,
    expected_bytes: int,
    decode: Callable[[], DecodedVideo],
  ) -> DecodedVideo | None:
    """Returns the decoded video, or None if it does not fit in the cache.

    Args:
      key: the video's record index.
      expected_bytes: estimated size of the decoded frames; a video that does
        not fit is not decoded.
      decode: decodes the video to frames uint8 (t, h, w, 3).
    """
    with self._lock:
      video = self._videos.get(key)
      if video is not None:
        self.num_hits += 1
        return video
      if key in self._refused or not self._has_room(expected_bytes):
        self._refused.add(key)
        self.num_misses += 1
        return None
      key_lock = self._key_locks.setdefault(key, threading.Lock())
    with key_lock:
      with self._lock:
        video = self._videos.get(key)
        if video is not None:
          self.num_hits += 1
          return video
      video = decode()
      return video if self._store(key, video) else None

  def _has_room(self, num_bytes: int) -> bool:
    return self._used_bytes + num_bytes <= self._limit_bytes

  def _store(self, key: int, video: DecodedVideo) -> bool:
    video.frames.setflags(write=False)  # many clips are cut from one array
    with self._lock:
      self.num_misses += 1
      self._key_locks.pop(key, None)
      if not self._has_room(video.frames.nbytes):
        self._refused.add(key)
        return False
      self._videos[key] = video
      self._used_bytes += video.frames.nbytes
      return True


def cut_clip(
  video: DecodedVideo, *, start_sec: float, clip_sec: float, num_frames: int
) -> np.ndarray:
  """Cuts the clip that `decode_clip` returns from a decoded video."""
  instants = clip_instants(start_sec, clip_sec, num_frames=num_frames)
  return video.frames[nearest_frames(video.timestamps, instants)]
