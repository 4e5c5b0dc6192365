"""Nearest clips without comparing all of them, by FAISS.

An extra: pip install "clap_jax[faiss]". Clips are grouped into cells around
centres (an inverted file), and a query looks into the cells nearest to it.
Worth its file from some millions of clips on; below, comparing all is quick and
exact.
"""

import importlib.util
import math
import os
import pathlib

import numpy as np

FILE = "vectors.faiss"
_CLIPS_PER_CENTRE = 39  # what FAISS asks for at least, to place a centre
_TRAINING_CLIPS_PER_CENTRE = 64
_LEAST_CELLS = 256  # that a query looks into, if there are as many
_SHARE_OF_CELLS = 0.05
_ROWS_PER_BLOCK = 1 << 18


def check_installed() -> None:
  """Raises a ValueError that says how to install FAISS if it is not there."""
  if importlib.util.find_spec("faiss") is None:
    raise ValueError(
      'An approximate index needs FAISS: pip install "clap_jax[faiss]".'
    )


def build(vectors: np.ndarray, directory: pathlib.Path) -> pathlib.Path:
  """Writes DIRECTORY/vectors.faiss for unit vectors (n, p).

  Raises:
    ValueError: FAISS is not installed, or there are no vectors.
  """
  check_installed()
  import faiss  # noqa: PLC0415  (an extra)

  count, width = vectors.shape
  if not count:
    raise ValueError("An approximate index needs at least one clip.")
  cells = min(int(4 * math.sqrt(count)), max(1, count // _CLIPS_PER_CENTRE))
  made = faiss.index_factory(
    width, f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT
  )
  rng = np.random.default_rng(0)
  sampled = min(count, _TRAINING_CLIPS_PER_CENTRE * cells)
  rows = np.sort(rng.choice(count, sampled, replace=False))
  made.train(np.asarray(vectors[rows], np.float32))
  for start in range(0, count, _ROWS_PER_BLOCK):
    made.add(np.asarray(vectors[start : start + _ROWS_PER_BLOCK], np.float32))
  made.nprobe = min(cells, max(_LEAST_CELLS, int(_SHARE_OF_CELLS * cells)))
  path = directory / FILE
  partial = path.with_name(f"{FILE}.partial")
  faiss.write_index(made, str(partial))
  os.replace(partial, path)
  return path


def nearest_rows(
  path: pathlib.Path, vector: np.ndarray, *, count: int, num_rows: int
) -> np.ndarray:
  """Rows of about the `count` best clips for a unit vector, best first.

  Raises:
    ValueError: FAISS is not installed, or the file is of other vectors.
  """
  check_installed()
  import faiss  # noqa: PLC0415  (an extra)

  opened = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
  if opened.ntotal != num_rows or opened.d != len(vector):
    raise ValueError(
      f"{path} is of {opened.ntotal} vectors of width {opened.d}, expected "
      f"{num_rows} of {len(vector)}; run `clap index` again."
    )
  query = np.asarray(vector, np.float32)[None]
  _, rows = opened.search(query, min(count, num_rows))
  return rows[0][rows[0] >= 0]
