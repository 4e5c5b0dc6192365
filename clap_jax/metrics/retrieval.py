"""Evaluates retrieval between videos and texts: R@k and ranks."""

from collections.abc import Sequence

import numpy as np


def evaluate(
  similarity: np.ndarray,
  *,
  video_text_id: np.ndarray,
  text_id: np.ndarray,
  recall_at: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
  """Scores a similarity matrix in both directions.

  A text and a video match if their text ids are equal, so equal captions are
  positives of each other's videos. The rank of a query is that of its best
  positive. Negatives tied with the best positive rank before it, so a constant
  similarity scores worst.

  Args:
    similarity: (v, q) similarity of every video with every text.
    video_text_id: (v,) text id of each video; -1 for none.
    text_id: (q,) id of each text; -1 for none.
    recall_at: the k of R@k.

  Returns:
    text_to_video/r@k in [0, 1], text_to_video/median_rank and mean_rank from 1,
    text_to_video/num_queries, and the same under video_to_text. Queries without
    a positive are left out.

  Raises:
    ValueError: the shapes disagree or a similarity is not finite.
  """
  similarity = np.asarray(similarity, np.float64)
  video_text_id, text_id = np.asarray(video_text_id), np.asarray(text_id)
  expected = (*video_text_id.shape, *text_id.shape)
  if similarity.shape != expected or similarity.ndim != 2:
    raise ValueError(
      f"similarity: got shape {similarity.shape}; expected (videos, texts) = "
      f"{expected}"
    )
  if not np.isfinite(similarity).all():
    raise ValueError(
      "similarity: got NaN or infinite entries; expected finite scores"
    )
  positive = (video_text_id[:, None] == text_id) & (text_id >= 0)
  metrics: dict[str, float] = {}
  for name, scores, match in (
    ("text_to_video", similarity.T, positive.T),
    ("video_to_text", similarity, positive),
  ):
    rank = best_positive_rank(scores, match)
    metrics[f"{name}/num_queries"] = float(len(rank))
    for k in recall_at:
      metrics[f"{name}/r@{k}"] = _mean(rank <= k)
    metrics[f"{name}/median_rank"] = (
      float(np.median(rank)) if len(rank) else float("nan")
    )
    metrics[f"{name}/mean_rank"] = _mean(rank)
  return metrics


def best_positive_rank(
  similarity: np.ndarray, positive: np.ndarray
) -> np.ndarray:
  """Returns the rank, from 1, of the best positive of each row with one.

  similarity and positive are (q, n). Negatives that are at least as similar
  rank before it.
  """
  has_positive = positive.any(axis=1)
  similarity, positive = similarity[has_positive], positive[has_positive]
  best = np.where(positive, similarity, -np.inf).max(axis=1, initial=-np.inf)
  return 1 + ((similarity >= best[:, None]) & ~positive).sum(axis=1)


def _mean(values: np.ndarray) -> float:
  return float(np.mean(values)) if len(values) else float("nan")
