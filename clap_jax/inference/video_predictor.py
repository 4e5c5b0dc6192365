"""Runs the heads of a model on the features of one video.

Every head gets the same sequences as in evaluation, see sequences.py. `model`
always means a `model_directory.Model`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from clap_jax import types
from clap_jax.data import features
from clap_jax.evaluation import grounding as grounding_evaluation
from clap_jax.evaluation import localization
from clap_jax.inference import sequences, shots, support, zero_shot

# Moments of neighbouring windows with a larger IoU are duplicates.
_SAME_IOU = 0.5
_WINDOWS_PER_CALL = 4  # bounds the memory of a call


@dataclasses.dataclass(frozen=True)
class Request:
  """A request for predictions of videos; see `predict.predict`.

  `vectors` are the token vectors of the queries and their mask; None encodes
  the queries.
  """

  labels: Sequence[str] | None
  queries: tuple[str, ...]
  examples: support.SupportSet | None
  max_predictions: int
  vectors: tuple[np.ndarray, np.ndarray] | None = None

  @property
  def asks_labels(self) -> bool:
    return self.labels is not None or not (self.queries or self.examples)


@dataclasses.dataclass(frozen=True)
class Moment:
  """A segment of the video; `window` is the long window that found it."""

  segment: np.ndarray  # (2,), seconds
  score: float
  name: str  # label or query
  window: int


class VideoPredictor:
  """Predicts the moments of one request in any number of videos."""

  def __init__(self, model, request: Request):
    self._model = model
    self._request = request

  @functools.cached_property
  def _texts(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns the token vectors of the queries and their mask."""
    if self._request.vectors is not None:
      return self._request.vectors
    return self._model.encoder.text_vectors(list(self._request.queries))

  @functools.cached_property
  def _label_texts(self) -> zero_shot.Texts:
    return zero_shot.label_texts(self._model.encoder, self._labels)

  @functools.cached_property
  def _query_texts(self) -> zero_shot.Texts:
    return zero_shot.query_texts(self._model.encoder, self._request.queries)

  @property
  def _labels(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys(self._request.labels or ()))

  def predict(self, video: features.VideoFeatures, duration_sec: float) -> dict:
    """Returns "predictions", "absent" and "absence" of a video's entry.

    Predictions are best first within labels, examples, and each query. An
    encoder alone adds "method", and its moments end at nearby cuts.
    """
    request = self._request
    most, entries = request.max_predictions, []
    result: dict[str, Any] = {"absent": None}
    if self._model.is_encoder_alone:
      result["method"] = zero_shot.METHOD
    if request.asks_labels:
      found = self._of_classes(video, duration_sec)
      entries += [_entry(moment, "label") for moment in found[:most]]
    if request.examples:
      found = _match(request.examples, video, duration_sec)
      entries += [_entry(moment, "label") for moment in found[:most]]
    if request.queries:
      found, absence = self._of_queries(video, duration_sec)
      for query in request.queries:
        own = [moment for moment in found if moment.name == query]
        entries += [_entry(moment, "query") for moment in own[:most]]
      result |= absence
    return {"predictions": entries} | result

  def _of_classes(
    self, video: features.VideoFeatures, duration_sec: float
  ) -> list[Moment]:
    """Finds the moments of the classes, best first."""
    model = self._model
    if not model.is_encoder_alone:
      return _localize(model, video, self._request, duration_sec)
    snippets = model.encoder.project(video.features)
    found = zero_shot.find_classes(snippets, self._label_texts)
    return _listed(found, self._labels, video, duration_sec)

  def _of_queries(
    self, video: features.VideoFeatures, duration_sec: float
  ) -> tuple[list[Moment], dict]:
    """Finds the moments of all queries, best first, and their absence.

    A grounder that scores highlights adds "highlights".
    """
    model, queries = self._model, self._request.queries
    if not model.is_encoder_alone:
      moments, logits, saliency = _ground(
        model, video, queries, self._texts, duration_sec
      )
      found = _calibrated_absence(model, queries, logits)
      if model.grounder[0].kind.scores_highlights:
        rows = zip(queries, saliency, strict=True)
        found["highlights"] = {query: row.tolist() for query, row in rows}
      return moments, found
    snippets = model.encoder.project(video.features)
    found = zero_shot.find(snippets, self._query_texts)
    moments = _listed(found.moments, queries, video, duration_sec)
    logits = found.absence_logits
    probability = zero_shot.absence_probability(logits)
    return moments, _absence(queries, probability, logits > 0)


def _entry(moment: Moment, key: str) -> dict:
  start_sec, end_sec = moment.segment
  return {
    "start_sec": float(start_sec),
    "end_sec": float(end_sec),
    "score": moment.score,
    key: moment.name,
  }


def _calibrated_absence(
  model, queries: Sequence[str], logits: np.ndarray
) -> dict:
  """Returns probabilities of absence, or None without a calibration."""
  stored = model.grounder[1]["absence"]
  if stored is None:
    return {"absence": None, "absent": None}
  fitted = grounding_evaluation.calibration_of(stored)
  return _absence(queries, fitted.probability(logits), fitted.is_absent(logits))


def _absence(
  queries: Sequence[str], probabilities: np.ndarray, is_absent: np.ndarray
) -> dict:
  rows = zip(queries, probabilities, is_absent, strict=True)
  absence = {
    query: {"probability": float(probability), "absent": bool(absent)}
    for query, probability, absent in rows
  }
  return {
    "absence": absence,
    "absent": all(entry["absent"] for entry in absence.values()),
  }


def _listed(
  found: Sequence[zero_shot.Moments],
  names: Sequence[str],
  video: features.VideoFeatures,
  duration_sec: float,
) -> list[Moment]:
  """Lists moments in seconds, best first, with ends moved to nearby cuts."""
  moments: dict[tuple, Moment] = {}
  for name, own in zip(names, found, strict=True):
    segments = shots.snapped(
      _in_seconds(own.segments, video.grid, duration_sec),
      video.cuts_sec,
      stride_sec=video.grid.stride_sec,
    )
    for segment, score in zip(segments, own.scores, strict=True):
      # Moved moments may coincide; the first one has the higher score.
      moment = Moment(segment, float(score), name, 0)
      moments.setdefault((name, *segment), moment)
  return sorted(moments.values(), key=lambda moment: -moment.score)


def merged(moments: Sequence[Moment]) -> list[Moment]:
  """Sorts moments, best first, and removes duplicates of other windows.

  Of two overlapping moments with one name from different windows, the better
  one is kept.
  """
  kept: list[Moment] = []
  for moment in sorted(moments, key=lambda m: -m.score):
    twins = (
      other
      for other in kept
      if other.name == moment.name and other.window != moment.window
    )
    if not any(_iou(moment.segment, o.segment) > _SAME_IOU for o in twins):
      kept.append(moment)
  return kept


def _iou(first: np.ndarray, second: np.ndarray) -> float:
  overlap = min(first[1], second[1]) - max(first[0], second[0])
  union = max(first[1], second[1]) - min(first[0], second[0])
  return float(overlap / union) if overlap > 0 else 0.0


def _in_seconds(
  segments: np.ndarray, grid: features.FeatureGrid, duration_sec: float
) -> np.ndarray:
  """Converts segments from grid units to seconds, clipped to the video."""
  return grid.to_seconds(segments.astype(np.float64)).clip(0.0, duration_sec)


def _owned(
  detections: types.Detections, window: sequences.LongWindow
) -> types.Detections:
  """Keeps the detections that a window owns, in grid units of the video."""
  low, high = window.owned
  segments = np.asarray(detections.segments) + np.float32(window.start)
  middle = segments.mean(axis=-1)
  keep = np.asarray(detections.mask) & (low <= middle) & (middle < high)
  return detections._replace(segments=segments, mask=keep)


def _localize(
  model,
  video: features.VideoFeatures,
  request: Request,
  duration_sec: float,
) -> list[Moment]:
  metadata = model.localizer[1]
  sequence = sequences.with_trained_length(video, metadata)
  moments = []
  for number, found in enumerate(_detections(model, sequence.features)):
    keep = found.mask
    segments = _in_seconds(found.segments[keep], sequence.grid, duration_sec)
    scores = found.scores[keep].astype(np.float64)
    if model.takes_any_label:
      names = tuple(dict.fromkeys(request.labels or model.label_names))
      rows = _named(model, sequence, segments, scores, names)
    else:
      names = (metadata["label_names"][label] for label in found.labels[keep])
      rows = zip(segments, scores, names, strict=True)
    moments += [
      Moment(segment, float(score), name, number)
      for segment, score, name in rows
      if request.labels is None or name in request.labels
    ]
  return merged(moments)


def _detections(model, sequence: np.ndarray) -> Iterator[types.Detections]:
  """Yields the localizer's detections in grid units, per long window."""
  task, metadata, params = model.localizer
  size, num_snippets = metadata["max_length"], len(sequence)
  if metadata["length"] == "windows" or not task.takes_any_length:
    yield _in_trained_windows(model, sequence)
    return
  for window in sequences.long_windows(
    num_snippets, max_length=size, whole_snippets=task.whole_steps
  ):
    part = sequence[window.start : window.stop]
    length = task.padded_length(len(part))
    output = model.detect(params, *sequences.padded(part, length))
    (found,) = _rows(jax.device_get(output), 1)
    yield _owned(found, window)


def _in_trained_windows(model, sequence: np.ndarray) -> types.Detections:
  """Detects in windows of the trained length and merges as in evaluation."""
  task, metadata, params = model.localizer
  size = metadata["max_length"]
  windows = sequences.trained_windows(len(sequence), max_length=size)
  num_rows = min(len(windows), _WINDOWS_PER_CALL)
  parts: list[types.Detections] = []
  for first in range(0, len(windows), num_rows):
    chunk = windows[first : first + num_rows]
    output = model.detect(
      params,
      *sequences.stacked(sequence, chunk, max_length=size, num_rows=num_rows),
    )
    rows = _rows(jax.device_get(output), len(chunk))
    parts += [
      row._replace(segments=row.segments + np.float32(start))
      for row, (start, _) in zip(rows, chunk, strict=True)
    ]
  # Powers of two keep the number of compiled programs small.
  num_padded = 1 << (len(parts) - 1).bit_length()
  return localization.merged(
    parts, decode=task.decode_config, num_windows=num_padded
  )


def _rows(output: types.Detections, count: int) -> list[types.Detections]:
  return [
    types.Detections(*(np.asarray(field[row]) for field in output))
    for row in range(count)
  ]


def _named(
  model,
  sequence: features.VideoFeatures,
  segments: np.ndarray,
  scores: np.ndarray,
  names: tuple[str, ...],
) -> list[tuple]:
  """Lists (segment, score, name) of the best class names of proposals."""
  best, share = model.naming.best(
    sequence.features, sequence.grid.to_grid(segments), names
  )
  return [
    (segments[row], scores[row] * value, names[code])
    for row in range(len(segments))
    for code, value in zip(best[row], share[row], strict=True)
  ]


def _match(
  examples: support.SupportSet,
  video: features.VideoFeatures,
  duration_sec: float,
) -> list[Moment]:
  """Finds moments like those of the examples."""
  sequence = sequences.with_trained_length(video, examples.lengths)
  size = examples.lengths["max_length"]
  return _in_long_windows(
    sequence,
    size,
    lambda part: [examples.find(*sequences.padded_to(part, size))],
    names_of=lambda _, labels: [examples.classes[label] for label in labels],
    duration_sec=duration_sec,
  )


def _ground(
  model,
  video: features.VideoFeatures,
  queries: tuple[str, ...],
  texts: tuple[np.ndarray, np.ndarray],
  duration_sec: float,
) -> tuple[list[Moment], np.ndarray, np.ndarray]:
  """Finds the moments of all queries, best first.

  Returns:
    Moments, absence logits (q,), and saliency (q, t), averaged where windows
    overlap.
  """
  _, metadata, params = model.grounder
  vectors, query_mask = texts
  sequence = sequences.with_trained_length(video, metadata)
  logits: list[np.ndarray] = []
  saliency: list[np.ndarray] = []

  def ask(part: np.ndarray) -> list[types.Detections]:
    output = model.search.answer(
      params,
      model.search.encode(params, part),
      query=vectors,
      query_mask=query_mask,
    )
    logits.append(output.absence_logits)
    saliency.append(output.saliency)
    return [
      types.Detections(segments, scores, np.zeros(len(scores), np.int32), mask)
      for segments, scores, mask in zip(
        output.segments, output.scores, output.mask, strict=True
      )
    ]

  moments = _in_long_windows(
    sequence,
    metadata["max_length"],
    ask,
    names_of=lambda number, labels: [queries[number]] * len(labels),
    duration_sec=duration_sec,
  )
  # A query is absent only if it is absent in every window.
  return moments, np.min(logits, axis=0), _joined(saliency, sequence, metadata)


def _joined(
  parts: list[np.ndarray], sequence: features.VideoFeatures, metadata
) -> np.ndarray:
  """Averages scores (q, window) of long windows to scores (q, t)."""
  num_snippets = len(sequence.features)
  windows = sequences.long_windows(
    num_snippets, max_length=metadata["max_length"]
  )
  total = np.zeros((len(parts[0]), num_snippets), np.float64)
  count = np.zeros(num_snippets)
  for window, part in zip(windows, parts, strict=True):
    total[:, window.start : window.stop] += part
    count[window.start : window.stop] += 1
  return total / count


def _in_long_windows(
  sequence: features.VideoFeatures,
  max_length: int,
  ask: Callable[[np.ndarray], list[types.Detections]],
  *,
  names_of: Callable[[int, np.ndarray], Sequence[str]],
  duration_sec: float,
) -> list[Moment]:
  """Merges the detections of `ask` in the long windows of a video.

  Args:
    ask: maps features (t, d) of a window to a list of detections.
    names_of: maps (index in that list, labels (n,)) to names.
  """
  moments = []
  windows = sequences.long_windows(
    len(sequence.features), max_length=max_length
  )
  for number, window in enumerate(windows):
    part = sequence.features[window.start : window.stop]
    for row, detections in enumerate(ask(part)):
      found = _owned(detections, window)
      moments += [
        Moment(segment, float(score), name, number)
        for segment, score, name in zip(
          _in_seconds(found.segments[found.mask], sequence.grid, duration_sec),
          found.scores[found.mask],
          names_of(row, found.labels[found.mask]),
          strict=True,
        )
      ]
  return merged(moments)
