"""What a search over hundreds of hours of indexed video costs.

  python -m tests.benchmarks.moment_search --json OUT [--quick]

Indexes of 500,000 and 2,000,000 clips of width 128 (69 and 278 hours at a
stride of half a second; 100,000 with --quick), made up: videos of six minutes,
each a walk between places of a space that all share. Queries are noisy copies
of clips. Per size:

1. seconds of a search for the ten best moments, vectors in the page cache:
   exact, and approximate;
2. the same over one product of the whole matrix in float32, which reads twice
   the bytes and keeps them all in memory;
3. how many of the ten exact moments the approximate search finds;
4. seconds to build the cells, and bytes per clip of both.
"""

import pathlib
import statistics
import tempfile
import time

import numpy as np

from clap_jax.inference import approximate, index_files
from clap_jax.inference import index as index_lib
from tests.benchmarks import running

WIDTH, CLIPS_PER_VIDEO, STRIDE_SEC = 128, 720, 0.5
CLIPS_PER_PLACE = 24  # 12 s
NUM_PLACES = 4_096
NUM_QUERIES, TOP = 20, 10
SEARCH_GOAL_SEC, FOUND_GOAL = 1.0, 0.9


def unit(vectors):
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_index(directory: pathlib.Path, *, num_videos: int) -> index_lib.Index:
  """An index as `clap index` leaves it, its vectors on disk."""
  rng = np.random.default_rng(0)
  places = unit(rng.normal(size=(NUM_PLACES, WIDTH)).astype(np.float32))
  path = directory / index_files.VECTORS_FILE
  vectors = np.lib.format.open_memmap(
    path,
    mode="w+",
    dtype=np.float16,
    shape=(num_videos * CLIPS_PER_VIDEO, WIDTH),
  )
  per_video = CLIPS_PER_VIDEO // CLIPS_PER_PLACE
  videos = []
  for number in range(num_videos):
    first = number * CLIPS_PER_VIDEO
    at = np.repeat(rng.integers(NUM_PLACES, size=per_video), CLIPS_PER_PLACE)
    own = 0.3 * rng.normal(size=WIDTH) / WIDTH**0.5  # the video's look
    noise = 0.5 * rng.normal(size=(CLIPS_PER_VIDEO, WIDTH)) / WIDTH**0.5
    vectors[first : first + CLIPS_PER_VIDEO] = unit(places[at] + own + noise)
    videos.append(
      index_lib.IndexedVideo(
        f"{number}.mp4",
        "",
        CLIPS_PER_VIDEO * STRIDE_SEC,
        first,
        CLIPS_PER_VIDEO,
      )
    )
  vectors.flush()
  return index_lib.Index(
    directory=directory,
    encoder_directory="",
    parameters="",
    stride_sec=STRIDE_SEC,
    clip_sec=2.0,
    videos=tuple(videos),
    failed=(),
    vectors=np.load(path, mmap_mode="r", allow_pickle=False),
    is_approximate=True,
  )


def make_queries(vectors: np.ndarray) -> np.ndarray:
  rng = np.random.default_rng(1)
  rows = rng.choice(len(vectors), NUM_QUERIES, replace=False)
  noise = 0.5 * rng.normal(size=(NUM_QUERIES, WIDTH)) / WIDTH**0.5
  return unit(np.asarray(vectors[np.sort(rows)], np.float32) + noise)


def seconds(function, queries) -> float:
  """The median over queries, each after one that warms up."""
  function(queries[0])
  spent = []
  for query in queries:
    started_sec = time.perf_counter()
    function(query)
    spent.append(time.perf_counter() - started_sec)
  return statistics.median(spent)


def product_seconds(vectors: np.ndarray, queries: np.ndarray) -> float:
  whole = np.asarray(vectors, np.float32)
  return seconds(lambda query: whole @ query.astype(np.float32), queries)


def size_rows(directory: pathlib.Path, num_videos: int) -> list[dict]:
  index = make_index(directory, num_videos=num_videos)
  queries = make_queries(index.vectors)
  title = f"{len(index.vectors):,} clips"

  def exact(query):
    return index_lib.search(index, query, top=TOP, exact=True)

  exact_sec = seconds(exact, queries)
  product_sec = product_seconds(index.vectors, queries)
  rows = [
    running.row(
      f"{title}, exact search", exact_sec, "s", at_most=SEARCH_GOAL_SEC
    ),
    running.row(
      f"{title}, exact over one product in memory", exact_sec / product_sec, "x"
    ),
    running.row(f"{title}, vectors", 2 * WIDTH, "bytes/clip"),
  ]
  started_sec = time.perf_counter()
  approximate.build(index.vectors, directory)
  build_sec = time.perf_counter() - started_sec

  def near(query):
    return index_lib.search(index, query, top=TOP)

  near_sec = seconds(near, queries)
  hits = sum(
    moment in near(query) for query in queries for moment in exact(query)
  )
  return [
    *rows,
    running.row(
      f"{title}, approximate search", near_sec, "s", at_most=SEARCH_GOAL_SEC
    ),
    running.row(f"{title}, approximate over exact", near_sec / exact_sec, "x"),
    running.row(
      f"{title}, exact moments that it finds",
      hits / (TOP * len(queries)),
      "share",
      at_least=FOUND_GOAL,
    ),
    running.row(f"{title}, building the cells", build_sec, "s"),
    running.row(
      f"{title}, files of the cells",
      sum((directory / name).stat().st_size for name in approximate.FILES)
      / len(index.vectors),
      "bytes/clip",
    ),
  ]


def measure(*, quick: bool) -> list[dict]:
  rows = []
  for num_clips in (100_000,) if quick else (500_000, 2_000_000):
    with tempfile.TemporaryDirectory() as directory:
      rows += size_rows(pathlib.Path(directory), num_clips // CLIPS_PER_VIDEO)
  return rows


if __name__ == "__main__":
  running.main(measure, __doc__)
