"""Encodes a video once and answers many queries on it."""

from typing import Any, NamedTuple

import jax
import numpy as np

_FEWEST_QUERIES = 8  # of a call; fewer are padded


class EncodedVideo(NamedTuple):
  """A video encoded by `MomentSearch.encode`."""

  windows: Any  # what the model returned, (w, ...)
  starts: np.ndarray  # int32 (w,): first snippet of each window
  valid: np.ndarray  # bool (w,); windows are padded to a power of two
  num_steps: int  # snippets of the video
  window_steps: int


class Answers(NamedTuple):
  """Moments for q queries, best first, in grid units of the video."""

  segments: np.ndarray  # float32 (q, k, 2)
  scores: np.ndarray  # float32 (q, k)
  mask: np.ndarray  # bool (q, k)
  absence_logits: np.ndarray  # float32 (q,)
  saliency: np.ndarray  # float32 (q, t), scores of highlights


class MomentSearch:
  """Retrieves moments; compiled per doubled video length and query count.

  A grounder that takes any length processes a video whole; another one
  processes windows that overlap by half, whose moments are merged before
  suppression: a query is absent only if it is absent from every window.
  """

  def __init__(self, task, *, queries_per_call: int = 32):
    """Takes a GroundingTask; more queries than `queries_per_call` are split."""
    self._task = task
    self._queries_per_call = max(queries_per_call, _FEWEST_QUERIES)
    self._encode = jax.jit(task.encode)
    self._answer = jax.jit(task.answer)

  def encode(self, params, features: np.ndarray) -> EncodedVideo:
    """Encodes the features (t, d) of one video of any length."""
    length, window_steps = len(features), self._task.max_length
    if self._task.takes_any_length:
      while window_steps < length:
        window_steps *= 2
      starts = [0]
    else:
      hop = max(window_steps // 2, 1)
      last = max(length - window_steps, 0)
      starts = [*range(0, last, hop), last]
    count = _next_power_of_two(len(starts))
    padded = np.zeros((count, window_steps, features.shape[1]), np.float32)
    mask = np.zeros((count, window_steps), np.bool_)
    for row, start in enumerate(starts):
      part = features[start : start + window_steps]
      padded[row, : len(part)] = part
      mask[row, : len(part)] = True
    return EncodedVideo(
      windows=self._encode(params, padded, mask),
      starts=np.pad(np.array(starts, np.int32), (0, count - len(starts))),
      valid=np.arange(count) < len(starts),
      num_steps=length,
      window_steps=window_steps,
    )

  def answer(
    self,
    params,
    video: EncodedVideo,
    *,
    query: np.ndarray,  # float32 (q, l, e)
    query_mask: np.ndarray,  # bool (q, l)
  ) -> Answers:
    """Retrieves moments for every query in the encoded video."""
    parts = []
    for start in range(0, len(query), self._queries_per_call):
      take = slice(start, start + self._queries_per_call)
      parts.append(self._call(params, video, query[take], query_mask[take]))
    return Answers(*(np.concatenate(x) for x in zip(*parts, strict=True)))

  def _call(self, params, video, query, query_mask) -> Answers:
    count = len(query)
    padding = max(_next_power_of_two(count), _FEWEST_QUERIES) - count
    output = jax.device_get(
      self._answer(
        params,
        (video.windows, video.starts, video.valid),
        query=np.pad(query, ((0, padding), (0, 0), (0, 0))),
        query_mask=np.pad(query_mask, ((0, padding), (0, 0))),
      )
    )
    kept = output["detections"]
    saliency = _stitched(output["saliency"][:, :count], video)
    return Answers(
      kept.segments[:count],
      kept.scores[:count],
      kept.mask[:count],
      output["absence_logits"][:count],
      saliency,
    )


def _stitched(saliency: np.ndarray, video: EncodedVideo) -> np.ndarray:
  """Stitches windows (w, q, t) to (q, steps), averaging overlaps."""
  total = np.zeros((saliency.shape[1], video.num_steps), np.float32)
  count = np.zeros(video.num_steps, np.float32)
  for row in np.flatnonzero(video.valid):
    start = video.starts[row]
    stop = min(start + video.window_steps, video.num_steps)
    total[:, start:stop] += saliency[row, :, : stop - start]
    count[start:stop] += 1
  return total / count


def _next_power_of_two(count: int) -> int:
  return 1 << (count - 1).bit_length()
