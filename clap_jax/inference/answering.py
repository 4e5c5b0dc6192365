"""What the heads of a model find in the windows of a video.

`model` is everywhere a `model_directory.Model`.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from clap_jax.data import features
from clap_jax.inference import streaming, support
from clap_jax.trainers import grounding_answers

# Moments of neighbouring windows that overlap by more are one.
_SAME_IOU = 0.5
_MIN_WINDOW_STEPS = 2048  # 17 minutes at a stride of half a second


@dataclasses.dataclass(frozen=True)
class Request:
  """What is asked of a video; see `predict.predict`."""

  labels: Sequence[str] | None
  queries: tuple[str, ...]
  examples: support.SupportSet | None
  max_predictions: int

  @property
  def asks_labels(self) -> bool:
    return self.labels is not None or not (self.queries or self.examples)


@dataclasses.dataclass(frozen=True)
class Moment:
  """A segment in steps of the video; `window` is the one that found it."""

  segment: np.ndarray  # (2,)
  score: float
  name: str  # label or query
  window: int


def window_steps(model) -> int:
  """Features of a window: what a head was trained on, doubled to be long."""
  heads = (model.localizer, model.grounder, model.matcher)
  lengths = [head[1]["max_length"] for head in heads if head is not None]
  longest = max(map(_doubled, lengths), default=_MIN_WINDOW_STEPS)
  return -(-longest // 4) * 4


def _doubled(length: int) -> int:
  """The first double of a length that is long enough."""
  return length * 2 ** max(0, math.ceil(math.log2(_MIN_WINDOW_STEPS / length)))


class Answers:
  """Moments of a video as its windows come in."""

  def __init__(self, model, request: Request, grid: features.FeatureGrid):
    self._model = model
    self._request = request
    self._grid = grid
    self._found: dict[str, list[Moment]] = {
      kind: [] for kind in ("label", "example", "query")
    }
    self._absence_logits: np.ndarray | None = None

  def add(self, window: streaming.FeatureWindow, *, number: int) -> None:
    """Asks the heads about one window."""
    model, request = self._model, self._request
    sequence = window.features
    if request.asks_labels:
      self._keep("label", window, number, _localize(model, sequence, request))
    if request.examples:
      padded, mask = padded_to(sequence, request.examples.max_length)
      found = request.examples.find(padded, mask)
      self._keep("example", window, number, found)
    if request.queries:
      found, logits = _ground(model, sequence, request.queries, self._texts)
      self._keep("query", window, number, found)
      # A query is absent only where every window says so.
      known = self._absence_logits
      self._absence_logits = (
        logits if known is None else np.minimum(known, logits)
      )

  @functools.cached_property
  def _texts(self) -> tuple[np.ndarray, np.ndarray]:
    """Token vectors of the queries and their mask; the same for all windows."""
    return self._model.encoder.text_vectors(list(self._request.queries))

  def entries(self, duration_sec: float) -> list[dict]:
    """Predictions in the form of the document, best first by what is asked."""
    most = self._request.max_predictions
    entries = []
    for kind, key in (("label", "label"), ("example", "label")):
      entries += [
        self._entry(moment, duration_sec, key)
        for moment in merged(self._found[kind])[:most]
      ]
    moments = merged(self._found["query"])
    for query in self._request.queries:
      own = [moment for moment in moments if moment.name == query]
      entries += [self._entry(m, duration_sec, "query") for m in own[:most]]
    return entries

  def absence(self) -> dict:
    """What the calibration says; nothing where there is none."""
    facts = self._model.grounder[1]["absence"]
    if facts is None:
      return {"absence": None, "absent": None}
    fitted = grounding_answers.calibration_of(facts)
    logits = self._absence_logits
    rows = zip(
      self._request.queries,
      fitted.probability(logits),
      fitted.is_absent(logits),
      strict=True,
    )
    absence = {
      query: {"probability": float(probability), "absent": bool(absent)}
      for query, probability, absent in rows
    }
    return {
      "absence": absence,
      "absent": all(entry["absent"] for entry in absence.values()),
    }

  def _keep(self, kind: str, window, number: int, found: Iterable) -> None:
    low, high = window.owned
    for segment, score, name in found:
      place = np.asarray(segment, np.float64) + window.first
      if low <= place.mean() < high:
        self._found[kind].append(Moment(place, float(score), name, number))

  def _entry(self, moment: Moment, duration_sec: float, key: str) -> dict:
    start_sec, end_sec = np.clip(
      self._grid.to_seconds(moment.segment), 0.0, duration_sec
    )
    return {
      "start_sec": float(start_sec),
      "end_sec": float(end_sec),
      "score": moment.score,
      key: moment.name,
    }


def merged(moments: Sequence[Moment]) -> list[Moment]:
  """Best first; of what two windows found of one moment, the better one."""
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


def _localize(model, sequence: np.ndarray, request: Request) -> list[tuple]:
  """(segment in grid units, score, class), best first."""
  _, facts, params = model.localizer
  names = facts["label_names"]
  padded, mask = padded_to(sequence, facts["max_length"])
  output = model.detect(params, padded, mask)
  keep = np.asarray(output.mask[0])
  segments = np.asarray(output.segments[0])[keep]
  scores = np.asarray(output.scores[0])[keep]
  if model.takes_any_label:
    return _named(
      model,
      sequence,
      segments=segments,
      scores=scores,
      names=tuple(dict.fromkeys(request.labels or model.label_names)),
    )
  rows = zip(segments, scores, np.asarray(output.labels[0])[keep], strict=True)
  wanted = set(names if request.labels is None else request.labels)
  return [
    (segment, score, names[label])
    for segment, score, label in rows
    if names[label] in wanted
  ]


def _named(model, sequence, *, segments, scores, names) -> list[tuple]:
  """(segment, score, name) of proposals under class names, best first."""
  best, share = model.naming.best(sequence, segments.astype(np.float64), names)
  found = [
    (segments[row], scores[row] * value, names[code])
    for row in range(len(segments))
    for code, value in zip(best[row], share[row], strict=True)
  ]
  return sorted(found, key=lambda entry: -entry[1])


def _ground(model, sequence: np.ndarray, queries, texts):
  """(segment in grid units, score, query) of all queries; absence logits."""
  _, _, params = model.grounder
  vectors, query_mask = texts
  encoded = model.search.encode(params, sequence)
  output = model.search.answer(
    params, encoded, query=vectors, query_mask=query_mask
  )
  found = []
  for row, query in enumerate(queries):
    keep = output.mask[row]
    rows = zip(
      output.segments[row][keep], output.scores[row][keep], strict=True
    )
    found += [(segment, score, query) for segment, score in rows]
  return found, output.absence_logits


def padded_to(
  sequence: np.ndarray, max_length: int
) -> tuple[np.ndarray, np.ndarray]:
  """(1, t, d) and (1, t): at least `max_length` long, else the next double.

  The heads are convolutional, so that a longer video needs no other weights;
  doubling keeps the number of compiled programs small.
  """
  length = max_length
  while length < len(sequence):
    length *= 2
  padded = np.zeros((1, length, sequence.shape[1]), np.float32)
  padded[0, : len(sequence)] = sequence
  return padded, (np.arange(length) < len(sequence))[None]
