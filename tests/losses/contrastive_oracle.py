"""The masked contrastive loss as float64 loops over pairs, and random batches.

Nothing here uses jax or the package's mask rules: a pair is judged by itself.
"""

import math
from typing import NamedTuple

import numpy as np

from clap_jax.types import PairMetadata


class OracleResult(NamedTuple):
  loss: float
  by_video: np.ndarray  # (b, d)
  by_text: np.ndarray  # (b, d)
  by_scale: float
  by_bias: float
  mass: float  # sum of |dL/ds|, the size of what the scalars' gradients sum


def random_embeddings(rng, batch, width):
  """Two float32 (b, d) arrays of unit rows; a clip is near its own text."""
  video = rng.normal(size=(batch, width))
  text = 0.6 * video + rng.normal(size=(batch, width))
  video, text = (
    x / np.linalg.norm(x, axis=1, keepdims=True) for x in (video, text)
  )
  return video.astype(np.float32), text.astype(np.float32)


def random_pairs(rng, batch, *, uneven):
  """Metadata in which every rule has something to mask.

  Uneven batches have padding, clips without text, a stretch (one or more
  devices' whole share) of padding and one of clips without text.
  """
  is_action = rng.random(batch) < 0.5
  start = rng.integers(0, 8, batch).astype(np.float32)
  caption = rng.integers(0, 8, batch).astype(np.float32)
  has_text = np.ones(batch, bool)
  valid = np.ones(batch, bool)
  if uneven:
    has_text = rng.random(batch) < 0.7
    valid = rng.random(batch) < 0.8
    eighth = max(1, batch // 8)
    valid[2 * eighth : 3 * eighth] = False
    has_text[4 * eighth : 5 * eighth] = False
  return PairMetadata(
    text_id=rng.integers(0, max(2, batch // 2), batch).astype(np.int32),
    class_id=np.where(is_action, rng.integers(0, 4, batch), -1).astype(
      np.int32
    ),
    video_id=rng.integers(0, max(2, batch // 8), batch).astype(np.int32),
    clip_start_sec=start,
    clip_end_sec=start + 1,
    caption_start_sec=caption,
    caption_end_sec=caption + 4,
    is_action=is_action,
    has_text=has_text,
    generic_text=~is_action & (rng.random(batch) < 0.6),
    valid=valid,
    action_share=is_action.astype(np.float32),
  )


def pair_kind(pairs, rules, i, j):
  """'positive', 'negative' or 'masked' for clip i and the text of item j."""
  row = PairMetadata(*(leaf[i] for leaf in pairs))
  column = PairMetadata(*(leaf[j] for leaf in pairs))
  if not (row.valid and column.valid and column.has_text):
    return "masked"
  equal_text = rules.same_text and row.text_id == column.text_id
  if row.has_text and (i == j or equal_text):
    return "positive"
  same_class = (
    row.is_action
    and column.is_action
    and row.class_id >= 0
    and row.class_id == column.class_id
  )
  covered = (
    row.video_id == column.video_id
    and column.caption_start_sec <= row.clip_start_sec
    and row.clip_end_sec <= column.caption_end_sec
  )
  both_generic = (
    not row.is_action
    and not column.is_action
    and row.generic_text
    and column.generic_text
  )
  untrusted = (
    (rules.same_class and same_class)
    or (rules.overlapping_caption and covered)
    or (rules.background_pairs and both_generic)
  )
  return "masked" if untrusted else "negative"


def oracle(video, text, pairs, *, scale, bias, rules, objective):
  """Value and gradients in float64."""
  video, text = video.astype(np.float64), text.astype(np.float64)
  batch = len(video)
  cosines = np.array(
    [[float(np.dot(v, u)) for u in text] for v in video]
  ).reshape(batch, batch)
  kinds = [
    [pair_kind(pairs, rules, i, j) for j in range(batch)] for i in range(batch)
  ]
  weights = (pairs.valid & pairs.has_text).astype(float)
  count = max(sum(weights), 1.0)
  by_logit = np.zeros((batch, batch))
  if objective == "softmax":
    loss = 0.0
    for i in range(batch):
      row = [(i, j) for j in range(batch)]
      column = [(j, i) for j in range(batch)]
      for entries in (row, column):
        if weights[i]:
          loss += _softmax_item(
            entries, kinds, scale * cosines, by_logit, 0.5 / count
          )
  else:
    loss = _sigmoid_pairs(kinds, scale * cosines + bias, by_logit, 1.0 / count)
  return OracleResult(
    loss,
    scale * by_logit @ text,
    scale * by_logit.T @ video,
    float(np.sum(by_logit * cosines)),
    float(np.sum(by_logit)) if objective == "sigmoid" else 0.0,
    float(np.sum(np.abs(by_logit))),
  )


def _softmax_item(entries, kinds, logits, by_logit, factor):
  exponentials = {
    kind: {e: math.exp(logits[e]) for e in entries if kinds[e[0]][e[1]] == kind}
    for kind in ("positive", "negative")
  }
  positive, negative = (sum(group.values()) for group in exponentials.values())
  share = negative / (positive + negative)
  for entry, value in exponentials["positive"].items():
    by_logit[entry] -= factor * share * value / positive
  for entry, value in exponentials["negative"].items():
    by_logit[entry] += factor * value / (positive + negative)
  return factor * math.log1p(negative / positive)


def _sigmoid_pairs(kinds, logits, by_logit, factor):
  loss = 0.0
  for i, row in enumerate(kinds):
    for j, kind in enumerate(row):
      if kind == "masked":
        continue
      sign = 1.0 if kind == "positive" else -1.0
      signed = sign * logits[i, j]
      loss += factor * (math.log1p(math.exp(-abs(signed))) + max(-signed, 0.0))
      by_logit[i, j] -= factor * sign / (1.0 + math.exp(signed))
  return loss
