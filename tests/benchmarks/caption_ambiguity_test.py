"""How near-duplicate captions are counted."""

import numpy as np
import pytest

from tests.benchmarks import caption_ambiguity as measured


def test_the_probability_of_a_near_duplicate_in_a_batch():
  assert measured.probability(np.array([0.0, 0.5]), 3) == pytest.approx(
    (0 + 1 - 0.25) / 2
  )
  assert measured.probability(np.array([0.3]), 1) == 0.0


def test_sentences_of_the_same_video_are_left_out():
  same = np.ones((4, 4), bool)
  shares = measured.shares_of(same, np.array([0, 0, 1, 2]))
  np.testing.assert_array_equal(shares, 1.0)
  same[0, 3] = False
  assert measured.shares_of(same, np.array([0, 0, 1, 2]))[0] == 0.5


def test_sentences_about_the_same_moment_of_two_annotators():
  one = {"v": [(0.0, 10.0, "a"), (10.0, 12.0, "b")], "w": [(0.0, 1.0, "c")]}
  other = {"v": [(1.0, 10.0, "d"), (11.0, 20.0, "e")], "x": [(0.0, 1.0, "c")]}
  assert measured.same_moment_pairs(one, other) == [("a", "d")]


def test_the_ambiguity_that_matches():
  assert measured.matching((0.0, 0.5, 1.0), [0.1, 0.3, 0.9], 0.2) == 0.25
  assert measured.matching((0.0, 1.0), [0.1, 0.3], 0.05) is None


def test_more_ambiguity_has_more_sentences_that_are_true_of_a_clip():
  few, many = (
    measured.sprites_shares(value, num_videos=12) for value in (0.1, 0.9)
  )
  for criterion in few:
    assert few[criterion].mean() < many[criterion].mean()
  # Whatever says the same is true of the clip.
  for found in (few, many):
    assert (found["same meaning"] <= found["true of the clip"] + 1e-12).all()


def test_tfidf_ignores_common_words():
  embed = measured.tfidf(["the man runs", "the man jumps", "the dog sleeps"])
  vectors = embed(["the man runs", "the man runs", "the dog sleeps"])
  cosine = vectors @ vectors.T
  assert cosine[0, 1] == pytest.approx(1.0)
  assert cosine[0, 2] == pytest.approx(0.0)
