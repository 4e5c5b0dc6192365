"""Token vectors of queries, a file per query."""

import numpy as np
import pytest

from clap_jax.data import queries, query_features
from clap_jax.data.features import FeatureError


def query(number, text):
  return queries.GroundingQuery(
    id=str(number), video_id="a", text=text, windows=((0.0, 1.0),)
  )


def write(path, length, width=3, key="last_hidden_state"):
  np.savez(path, **{key: np.full((length, width), length, np.float16)})


def test_files_of_queries(tmp_path):
  write(tmp_path / "qid1.npz", 2)
  write(tmp_path / "qid2.npz", 4)
  asked = [
    query(1, "run"),
    query(2, "sit"),
    query(3, "run"),  # the vectors of the first
    query(4, "none"),  # has no file
  ]
  found = query_features.read(f"{tmp_path}/qid{{id}}.npz", asked)
  assert found.texts == ("run", "sit")
  assert found.vectors.dtype == np.float32
  assert found.vectors.shape == (2, 4, 3)
  np.testing.assert_array_equal(found.mask.sum(axis=1), [2, 4])
  np.testing.assert_array_equal(found.vectors[0, :, 0], [2, 2, 0, 0])


@pytest.mark.parametrize(
  ("files", "number", "match"),
  [
    ({}, 1, "data.queries.texts"),
    ({"qid1": {"length": 2, "key": "pooler_output"}}, 1, "last_hidden_state"),
    ({"qid1": {"length": 0}}, 1, r"\(0, 3\)"),
    ({"qid1": {"length": 2}, "qid2": {"length": 2, "width": 4}}, 1, "width 4"),
    ({"qid1": {"length": 2}}, "../1", "not a file name"),
  ],
)
def test_files_that_cannot_be_used(tmp_path, files, number, match):
  for name, options in files.items():
    write(tmp_path / f"{name}.npz", **options)
  asked = [query(number, "run"), query(2, "sit")]
  with pytest.raises(FeatureError, match=match):
    query_features.read(f"{tmp_path}/qid{{id}}.npz", asked)


def test_a_file_of_many_texts(tmp_path):
  path = tmp_path / "texts.npz"
  vectors = np.arange(12, dtype=np.float16).reshape(2, 3, 2)
  mask = np.array([[True, True, False], [True] * 3])
  np.savez(path, texts=["run", "sit"], vectors=vectors, mask=mask)
  found, found_mask = query_features.read_texts(path, ["sit", "run"])
  np.testing.assert_array_equal(found, vectors[::-1])
  np.testing.assert_array_equal(found_mask, mask[::-1])
  assert found.dtype == np.float32
