"""Finds moments by the similarity of snippets and texts.

Towers that were trained together embed a snippet near the texts that describe
it. The similarity of a text with the snippets of a video is a curve over time,
and a moment is an interval where the curve is high:

1. The vector of a text is the mean over its prompts, as for class names.
2. The curve of each video is scaled to the range from 0 to 1.
3. Proposals are the runs above nine levels of the curve, unsmoothed and
   smoothed at several scales. Smoothing joins the runs of a moment with gaps.
4. The score of a proposal is its mean minus that of its surroundings, reduced
   for short ones, because a single snippet can be high by chance.
5. Gaussian soft-NMS selects the moments.
6. A text is absent if background sentences match its best moment better.

Sources: Shou et al., ECCV 2018 (AutoLoc), for the contrast of inside and
outside; Radford et al., ICML 2021 (CLIP), for prompts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from clap_jax.data import class_texts, clips
from clap_jax.inference import encoder as encoder_lib
from clap_jax.ops import nms
from clap_jax.types import Detections

METHOD = "zero-shot similarity"
# Sentences that a video without the moment should match better.
BACKGROUND_TEXTS = (
  clips.GENERIC_BACKGROUND_TEXT,
  "nothing happens",
  "an empty scene",
  "nobody does anything",
  "a still picture",
  "something else happens",
)
# Maximum range of the cosines of a video that never changes.
_FLAT_RANGE = 1e-4
_LEVELS = np.arange(1, 10) / 10  # fractions of a curve's range
_SCALES = (1, 2, 4, 8, 16)  # widths of the smoothing mean, in snippets
# Length in snippets at which the score of a proposal is halved.
_HALF_LENGTH = 2.0
_SIGMA = 0.5  # soft-NMS
_MIN_SCORE = 1e-3
_NUM_KEPT, _NUM_CANDIDATES = 50, 1024


class Moments(NamedTuple):
  """Moments of one text, best first, in grid units of the video."""

  segments: np.ndarray  # float64 (k, 2)
  scores: np.ndarray  # float64 (k,), from 0 to 1
  runs: np.ndarray  # int (k, 2): first snippet, and the first after it


class Texts(NamedTuple):
  """Texts in the shared space."""

  vectors: np.ndarray  # float32 (n, p), unit vectors
  background: np.ndarray  # float32 (m, p), vectors of BACKGROUND_TEXTS
  logit_scale: float  # learned with the towers


class ZeroShotPredictions(NamedTuple):
  """Moments and absence of the texts of a request in one video."""

  moments: list[Moments]  # per text
  absence_logits: np.ndarray  # float64 (n,), above 0 if the text is absent


def check_aligned(encoder: encoder_lib.Encoder) -> None:
  """Raises a ValueError if the towers were never trained together."""
  training = encoder.training
  loss, start = training.get("loss") or {}, training.get("start") or {}
  weight = loss.get("contrastive_weight")
  if weight is not None and not weight and not start.get("imported"):
    raise ValueError(
      f"{encoder.directory} was trained without texts (contrastive_weight is "
      "0), so it cannot compare texts with videos. Pass --support, or an "
      "encoder that was trained with texts."
    )


def query_texts(encoder: encoder_lib.Encoder, queries: Sequence[str]) -> Texts:
  """Embeds free texts, each as the mean over the prompts."""
  prompts = [p.format(q) for q in queries for p in clips.LABEL_PROMPTS]
  return _embedded(encoder, prompts)


def label_texts(encoder: encoder_lib.Encoder, labels: Sequence[str]) -> Texts:
  """Embeds class names, each as the mean over the prompts."""
  return _embedded(encoder, class_texts.prompted(labels))


def _embedded(encoder: encoder_lib.Encoder, prompts: list[str]) -> Texts:
  vectors = encoder.embed_texts([*prompts, *BACKGROUND_TEXTS])
  return Texts(
    class_texts.mean_over_prompts(vectors[: len(prompts)]),
    vectors[len(prompts) :],
    encoder.logit_scale,
  )


def find(snippets: np.ndarray, texts: Texts) -> ZeroShotPredictions:
  """Finds the moments of every text; texts do not influence each other.

  Args:
    snippets: float32 (t, p), unit vectors of the shared space.
  """
  curves = texts.vectors @ snippets.T  # (n, t)
  background = texts.background @ snippets.T  # (m, t)
  moments = [find_moments(curve) for curve in curves]
  logits = [
    absence_logit(curve, background, found)
    for curve, found in zip(curves, moments, strict=True)
  ]
  return ZeroShotPredictions(moments, texts.logit_scale * np.array(logits))


def find_classes(snippets: np.ndarray, texts: Texts) -> list[Moments]:
  """Finds the moments of every class.

  The scores of `find` are multiplied by the probability of the class among all
  classes and the background, which makes them comparable across classes.
  """
  found = find(snippets, texts).moments
  share = class_shares(snippets, texts)  # (n, t)
  return [
    _reordered(own, own.scores * inner_means(row, own.runs))
    for own, row in zip(found, share, strict=True)
  ]


def class_shares(snippets: np.ndarray, texts: Texts) -> np.ndarray:
  """Computes class probabilities (n, t); the rest to 1 is the background."""
  vectors = np.concatenate([texts.vectors, texts.background])
  cosines = (vectors @ snippets.T).astype(np.float64)
  num = len(texts.vectors)
  # The maximum does not depend on the arbitrary number of sentences.
  best = cosines[num:].max(axis=0, keepdims=True)
  logits = texts.logit_scale * np.concatenate([cosines[:num], best])
  weight = np.exp(logits - logits.max(axis=0))
  return (weight / weight.sum(axis=0))[:num]


def find_moments(similarity: np.ndarray) -> Moments:
  """Finds the moments of one curve (t,); a flat curve has none.

  Any a * similarity + b with a > 0 has the same moments and scores, unless a
  makes it flat.
  """
  curve = normalised(similarity)
  runs = proposals(curve)
  scores = proposal_scores(curve, runs)
  order = np.argsort(-scores, kind="stable")
  order = order[scores[order] >= _MIN_SCORE][:_NUM_CANDIDATES]
  return _suppressed(runs[order], scores[order])


def normalised(similarity: np.ndarray) -> np.ndarray:
  """Scales a curve to the range from 0 to 1; a flat curve to zeros."""
  curve = np.asarray(similarity, np.float64)
  low, high = curve.min(), curve.max()
  if high - low <= _FLAT_RANGE:
    return np.zeros_like(curve)
  return (curve - low) / (high - low)


def proposals(curve: np.ndarray) -> np.ndarray:
  """Finds runs [first, stop) above every level at every scale, int (n, 2)."""
  found = [np.zeros((0, 2), np.int64)]
  for scale in _SCALES:
    if 4 * scale > max(len(curve), 4):
      break
    smooth = smoothed(curve, scale)
    low, high = smooth.min(), smooth.max()
    for level in low + _LEVELS * (high - low) if high > low else ():
      above = np.pad(smooth >= level, 1).astype(np.int8)
      step = np.diff(above)
      found.append(
        np.stack([np.flatnonzero(step == 1), np.flatnonzero(step == -1)], 1)
      )
  return np.unique(np.concatenate(found), axis=0)


def smoothed(curve: np.ndarray, scale: int) -> np.ndarray:
  """Computes means over `scale` snippets around each, fewer at the ends."""
  step = np.arange(len(curve))
  stop = np.minimum(step + (scale + 1) // 2, len(curve))
  start = np.maximum(step - scale // 2, 0)
  return inner_means(curve, np.stack([start, stop], axis=1))


def inner_means(curve: np.ndarray, runs: np.ndarray) -> np.ndarray:
  """Computes the means (n,) of a curve over runs (n, 2)."""
  start, stop = runs.T
  return _sums(curve, start, stop) / (stop - start)


def proposal_scores(curve: np.ndarray, runs: np.ndarray) -> np.ndarray:
  """Scores proposals (n,) by their contrast with the surroundings.

  The surroundings extend by the length of the run on both sides, within the
  video. A run of k snippets gets k / (k + 2) of the contrast.
  """
  start, stop = runs.T
  length = stop - start
  left = np.maximum(start - length, 0)
  right = np.minimum(stop + length, len(curve))
  num_outside = right - left - length
  outside = _sums(curve, left, start) + _sums(curve, stop, right)
  contrast = inner_means(curve, runs) - outside / np.maximum(num_outside, 1)
  contrast = np.where(num_outside > 0, contrast, 0.0)
  return contrast * length / (length + _HALF_LENGTH)


def _sums(curve: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
  total = np.concatenate([[0.0], np.cumsum(curve)])
  return total[stop] - total[start]


def absence_logit(
  curve: np.ndarray, background: np.ndarray, moments: Moments
) -> float:
  """Computes by how much a background sentence fits better, as a cosine.

  Args:
    curve: similarities (t,) of the text.
    background: similarities (m, t) of the background sentences.
    moments: moments of the text; if there are none, the whole video counts.
  """
  best = slice(*moments.runs[0]) if len(moments.runs) else slice(None)
  others = background[:, best].mean(axis=1)
  return float(others.max() - curve[best].mean())


def absence_probability(logits: np.ndarray) -> np.ndarray:
  """Computes the softmax over text and background; it is not calibrated."""
  return 1.0 / (1.0 + np.exp(-np.clip(logits, -500.0, 500.0)))


@jax.jit
def _soft_nms(*fields: jax.Array) -> Detections:
  return nms.soft_nms(
    Detections(*fields),
    num_kept=_NUM_KEPT,
    sigma=_SIGMA,
    min_score=_MIN_SCORE,
    class_wise=False,
  )


def _suppressed(runs: np.ndarray, scores: np.ndarray) -> Moments:
  """Applies soft-NMS to at most _NUM_CANDIDATES proposals."""
  count = len(scores)
  padding = _NUM_CANDIDATES - count
  kept = _soft_nms(
    np.pad(runs, ((0, padding), (0, 0))).astype(np.float32),
    np.pad(scores, (0, padding)).astype(np.float32),
    np.zeros(_NUM_CANDIDATES, np.int32),
    np.arange(_NUM_CANDIDATES) < count,
  )
  mask = np.asarray(kept.mask)
  chosen = np.asarray(kept.segments)[mask].astype(np.int64)
  # Snippet i covers the time from i - 0.5 to i + 0.5 on the grid.
  return Moments(
    chosen - 0.5, np.asarray(kept.scores)[mask].astype(np.float64), chosen
  )


def _reordered(moments: Moments, scores: np.ndarray) -> Moments:
  order = np.argsort(-scores, kind="stable")
  return Moments(moments.segments[order], scores[order], moments.runs[order])
