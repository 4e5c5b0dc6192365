import numpy as np
import pytest

from clap_jax.ops import moment_map


@pytest.mark.parametrize(
  ("num_clips", "counts", "expected"),
  [
    (64, (15, 8, 8), 1104),  # VLG-Net on ActivityNet-Captions
    (256, (5, 8, 8, 8), 3101),  # TACoS
    (48, (9, 4), 505),  # DiDeMo
    (5, (), 5),
    (1, (15, 8, 8), 1),
  ],
)
def test_the_published_numbers_of_candidates(num_clips, counts, expected):
  pairs = moment_map.sparse_candidates(num_clips, pooling_counts=counts)
  assert pairs.shape == (expected, 2)
  assert len({tuple(pair) for pair in pairs}) == expected
  assert (pairs[:, 0] <= pairs[:, 1]).all()
  assert (pairs < num_clips).all() and (pairs >= 0).all()


def test_lengths_and_starts_grow_coarser():
  pairs = moment_map.sparse_candidates(16, pooling_counts=(3, 2))
  lengths = pairs[:, 1] - pairs[:, 0]
  assert sorted(set(lengths)) == [0, 1, 2, 3, 5, 7]
  assert set(pairs[lengths >= 5, 0] % 2) == {0}
  assert set(pairs[lengths == 3, 0]) == set(range(13))


def test_segments_cover_their_snippets():
  pairs = np.array([[0, 0], [1, 2]])
  got = moment_map.candidate_segments(pairs, steps_per_clip=4)
  # Clip 0: snippets 0..3; clips 1 and 2: snippets 4..11.
  np.testing.assert_array_equal(got, [[-0.5, 3.5], [3.5, 11.5]])


def test_a_map_needs_clips():
  with pytest.raises(ValueError, match="at least one clip"):
    moment_map.sparse_candidates(0, pooling_counts=(3,))
