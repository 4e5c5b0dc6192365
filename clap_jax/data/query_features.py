"""Reads token vectors of queries from one file or one file per query.

Moment-DETR publishes an .npz per query with "last_hidden_state"; `clap texts`
writes one .npz of all texts.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from clap_jax.data import queries
from clap_jax.data.features import FeatureError
from clap_jax.storage import arrays, locations

_KEY = "last_hidden_state"  # float (tokens, width)
_MAX_BYTES = 64 << 20
_MANY = ("texts", "vectors", "mask")  # of `clap texts`
_MAX_MANY_BYTES = 64 << 30


def read(
  pattern: str, asked: Iterable[queries.GroundingQuery]
) -> queries.QueryVectors:
  """Reads the .npz file of every query that has one.

  Args:
    pattern: file name, with {id} for the query's id.
    asked: queries; those of equal text share the vectors of the first.

  Raises:
    FeatureError: no query has a file, or a file holds no token vectors of the
      width of the others.
  """
  found: dict[str, np.ndarray] = {}
  for query in asked:
    path = _path(pattern, query.id)
    if query.text in found or not path.is_file():
      continue
    vectors = _vectors(path)
    width = next(iter(found.values()), vectors).shape[1]
    if vectors.shape[1] != width:
      raise FeatureError(
        f"{path} has token vectors of width {vectors.shape[1]}, others {width}"
      )
    found[query.text] = vectors
  if not found:
    raise FeatureError(
      f"no query has a file {pattern}; correct data.queries.texts"
    )
  length = max(map(len, found.values()))
  rows = np.zeros((len(found), length, width), np.float32)
  mask = np.zeros((len(found), length), np.bool_)
  for row, vectors in enumerate(found.values()):
    rows[row, : len(vectors)] = vectors
    mask[row, : len(vectors)] = True
  return queries.QueryVectors(tuple(found), rows, mask)


def read_texts(
  path: locations.PathLike, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
  """Reads the vectors (n, l, e) of n texts and their mask (n, l).

  Args:
    path: output of `clap texts`, or a published file of one query.
    texts: distinct texts; a file of one query matches any text.

  Raises:
    ValueError: the file lacks vectors of a text, or is of neither kind.
  """
  with arrays.open_npz(path, max_bytes=_MAX_MANY_BYTES) as archive:
    if not archive.keys() >= set(_MANY):
      if _KEY in archive and len(texts) > 1:
        raise ValueError(
          f"{path} holds the vectors of one query, but {len(texts)} are asked; "
          "ask them one at a time."
        )
      vectors = _vectors(path)[None]
      return vectors, np.ones(vectors.shape[:2], bool)
    known = {str(text): row for row, text in enumerate(archive["texts"])}
    missing = [text for text in texts if text not in known]
    if missing:
      raise ValueError(
        f"{path} has no vectors of {missing[0]!r:.100}; add them with `clap "
        "texts`."
      )
    rows = [known[text] for text in texts]
    vectors, mask = archive["vectors"][rows], archive["mask"][rows]
  return vectors.astype(np.float32), mask


def _path(pattern: str, query_id: str):
  if "/" in query_id or "\\" in query_id or query_id.startswith("."):
    raise FeatureError(
      f"query id {query_id!r} is not a file name; expected no slash "
      "and no dot at its start"
    )
  return locations.at(pattern.replace("{id}", query_id))


def _vectors(path) -> np.ndarray:
  with arrays.open_npz(path, max_bytes=_MAX_BYTES) as archive:
    if _KEY not in archive:
      raise FeatureError(
        f"{path} holds {', '.join(archive)}; expected {_KEY} of (tokens, width)"
      )
    vectors = np.asarray(archive[_KEY], np.float32)
  if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
    raise FeatureError(
      f"{path}: {_KEY} has shape {vectors.shape}; expected finite numbers "
      "(tokens, width)"
    )
  return vectors
