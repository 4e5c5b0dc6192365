"""Approximate nearest-neighbour search over clips.

Clips are grouped into cells around centres (an inverted file), and a query
looks into the cells nearest to it. Worth its files from some millions of clips
on; below, comparing all is quick and exact.

The files are arrays that `storage.arrays` reads within bounds. They hold a copy
of the vectors, cell after cell, so that a cell is one stretch of a file.
"""

import math
import pathlib

import numpy as np

from clap_jax.storage import arrays, output

# Beside the index: centres float32 (c, p); places int64 (c + 1,), where each
# cell begins; rows int64 (n,), of the clips in the order of cells; vectors
# float16 (n, p) in that order.
FILES = tuple(
  f"cells_{part}.npy" for part in ("centres", "places", "rows", "vectors")
)
_CLIPS_PER_CENTRE = 39  # at least, to place a centre
_TRAINING_CLIPS_PER_CENTRE = 64
_LEAST_CELLS = 256  # that a query looks into, if there are as many
_SHARE_OF_CELLS = 0.05
_ROWS_PER_BLOCK = 1 << 14
_NUM_ITERATIONS = 10  # of k-means


def exists(directory: pathlib.Path) -> bool:
  """Whether `build` has finished there."""
  return all((directory / name).is_file() for name in FILES)


def remove(directory: pathlib.Path) -> None:
  """Removes the files, such as those of other vectors."""
  for name in FILES:
    (directory / name).unlink(missing_ok=True)


def build(vectors: np.ndarray, directory: pathlib.Path) -> None:
  """Writes the files for unit vectors (n, p).

  Raises:
    ValueError: there are no vectors.
  """
  count = len(vectors)
  if not count:
    raise ValueError("An approximate index needs at least one clip.")
  num_cells = min(int(4 * math.sqrt(count)), max(1, count // _CLIPS_PER_CENTRE))
  rng = np.random.default_rng(0)
  sampled = min(count, _TRAINING_CLIPS_PER_CENTRE * num_cells)
  rows = np.sort(rng.choice(count, sampled, replace=False))
  centres = _centres(np.asarray(vectors[rows], np.float32), num_cells, rng=rng)
  cells = _nearest_centres(vectors, centres)
  order = np.argsort(cells, kind="stable").astype(np.int64)
  places = np.searchsorted(cells[order], np.arange(num_cells + 1))
  small = (centres, places.astype(np.int64), order)
  for name, array in zip(FILES, small, strict=False):
    arrays.write_npy(directory / name, array, folder=directory)
  _write_ordered(directory, vectors, order)


def _write_ordered(directory, vectors: np.ndarray, order: np.ndarray) -> None:
  """Writes the vectors block by block: they may not fit in memory twice."""
  header = {"descr": "<f2", "fortran_order": False, "shape": vectors.shape}
  with output.writing(directory / FILES[3], folder=directory) as file:
    np.lib.format.write_array_header_1_0(file, header)
    for start in range(0, len(order), _ROWS_PER_BLOCK):
      block = vectors[order[start : start + _ROWS_PER_BLOCK]]
      file.write(np.ascontiguousarray(block, "<f2").data)


def _centres(
  sample: np.ndarray, num_cells: int, *, rng: np.random.Generator
) -> np.ndarray:
  """Unit centres (num_cells, p) of unit vectors (n, p), by spherical k-means.

  A centre that no vector is nearest to moves to a random vector.
  """
  centres = sample[rng.choice(len(sample), num_cells, replace=False)]
  for _ in range(_NUM_ITERATIONS):
    cells = _nearest_centres(sample, centres)
    order = np.argsort(cells, kind="stable")
    found, first = np.unique(cells[order], return_index=True)
    centres = sample[rng.choice(len(sample), num_cells)]
    centres[found] = np.add.reduceat(sample[order], first, axis=0)
    norms = np.linalg.norm(centres, axis=1, keepdims=True)
    centres = centres / np.maximum(norms, 1e-12)
  return centres


def _nearest_centres(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """The number (n,) of the nearest centre of each vector, block by block."""
  nearest = np.empty(len(vectors), np.int64)
  for start in range(0, len(vectors), _ROWS_PER_BLOCK):
    stop = start + _ROWS_PER_BLOCK
    block = np.asarray(vectors[start:stop], np.float32)
    nearest[start:stop] = (block @ centres.T).argmax(axis=1)
  return nearest


def nearest_rows(
  directory: pathlib.Path, vector: np.ndarray, *, count: int, num_rows: int
) -> np.ndarray:
  """Rows of about the `count` best clips for a unit vector, best first.

  Args:
    directory: of the files; they may have been received from others.
    vector: (p,).
    count: how many.
    num_rows: of all vectors of the index.

  Raises:
    ValueError: the files are of other vectors, or damaged.
  """
  centres, places, rows, vectors = (
    arrays.map_npy(name, folder=directory) for name in FILES
  )
  width = len(vector)
  shapes = [array.shape for array in (centres, places, rows, vectors)]
  num_cells = len(places) - 1
  expected = [(num_cells, width), (num_cells + 1,), (num_rows,)]
  expected.append((num_rows, width))
  is_numbered = places.dtype == rows.dtype == np.int64
  if num_cells < 1 or shapes != expected or not is_numbered:
    raise ValueError(
      f"{directory}: {', '.join(FILES)} have the shapes {shapes}, expected "
      f"those of {num_rows} vectors of width {width}; run `clap index` again."
    )
  query = np.asarray(vector, np.float32)
  places = np.asarray(places)
  if places[0] or places[-1] != num_rows or (np.diff(places) < 0).any():
    raise ValueError(
      f"{directory / FILES[1]} does not rise from 0 to {num_rows}; run `clap "
      "index` again."
    )
  likeness = np.asarray(centres, np.float32) @ query
  num_probed = max(_LEAST_CELLS, int(_SHARE_OF_CELLS * num_cells))
  probed = np.argsort(-likeness, kind="stable")[:num_probed]
  parts = [slice(places[cell], places[cell + 1]) for cell in probed]
  scores = np.concatenate(
    [np.asarray(vectors[part], np.float32) @ query for part in parts]
  )
  found = np.concatenate([rows[part] for part in parts])
  best = np.argsort(-scores, kind="stable")[:count]
  found = np.asarray(found[best], np.int64)
  if ((found < 0) | (found >= num_rows)).any():
    raise ValueError(
      f"{directory / FILES[2]} names rows outside of {num_rows}; run `clap "
      "index` again."
    )
  return found
