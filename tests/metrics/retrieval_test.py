"""Retrieval metrics on matrices small enough to rank by hand."""

import numpy as np
import pytest

from clap_jax.metrics import retrieval


def test_many_positives_count_as_one_hit():
  similarity = np.array([[0.1, 0.9, 0.3], [0.8, 0.2, 0.3]])
  metrics = retrieval.evaluate(
    similarity,
    video_text_id=np.array([7, 7]),
    text_id=np.array([7, 3, 7]),
    recall_at=(1, 2),
  )
  assert metrics["text_to_video/num_queries"] == 2  # text 3 has no video
  assert metrics["text_to_video/r@1"] == 1  # every video is a positive
  assert metrics["video_to_text/r@1"] == 0.5
  assert metrics["video_to_text/r@2"] == 1
  assert metrics["video_to_text/median_rank"] == 1.5


def test_a_constant_similarity_earns_nothing():
  metrics = retrieval.evaluate(
    np.zeros((20, 20)), video_text_id=np.arange(20), text_id=np.arange(20)
  )
  assert metrics["text_to_video/r@10"] == 0
  assert metrics["video_to_text/median_rank"] == 20


def test_equals_a_loop_over_queries():
  rng = np.random.default_rng(0)
  similarity = rng.integers(0, 6, (30, 25)).astype(float)
  video, text = rng.integers(-1, 12, 30), rng.integers(-1, 12, 25)
  ranks = []
  for query in range(25):
    match = (video == text[query]) & (text[query] >= 0)
    if match.any():
      best = similarity[match, query].max()
      ranks.append(1 + sum(similarity[~match, query] >= best))
  metrics = retrieval.evaluate(similarity, video_text_id=video, text_id=text)
  assert metrics["text_to_video/num_queries"] == len(ranks)
  assert metrics["text_to_video/median_rank"] == np.median(ranks)
  assert metrics["text_to_video/mean_rank"] == np.mean(ranks)
  assert metrics["text_to_video/r@5"] == np.mean(np.array(ranks) <= 5)


def test_bad_input_is_named():
  ids = np.arange(2)
  with pytest.raises(ValueError, match=r"expected \(videos, texts\)"):
    retrieval.evaluate(np.zeros((2, 3)), video_text_id=ids, text_id=ids)
  with pytest.raises(ValueError, match="finite"):
    retrieval.evaluate(np.full((2, 2), np.nan), video_text_id=ids, text_id=ids)
  empty = retrieval.evaluate(
    np.zeros((2, 2)), video_text_id=ids, text_id=ids + 5
  )
  assert np.isnan(empty["text_to_video/r@1"])
