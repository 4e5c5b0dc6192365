"""What a search over hundreds of hours of indexed video costs.

  python -m tests.benchmarks.moment_search --json OUT [--quick]

Indexes of 500,000 and 2,000,000 clips of width 128 (69 and 278 hours at a
stride of half a second; 100,000 with --quick), made up: videos of six minutes,
each a walk between places of a space that all share. Queries are noisy copies
of clips. Per size:

1. seconds of a search for the ten best moments, vectors in the page cache;
2. the same over one product of the whole matrix in float32, which reads twice
   the bytes and keeps them all in memory;
3. bytes per clip of the vectors.
"""

import pathlib
import statistics
import tempfile
import time

import numpy as np

from clap_jax.inference import index as index_lib
from clap_jax.inference import index_files
from tests.benchmarks import running

WIDTH, CLIPS_PER_VIDEO, STRIDE_SEC = 128, 720, 0.5
CLIPS_PER_PLACE = 24  # 12 s
NUM_PLACES = 4_096
NUM_QUERIES, TOP = 20, 10
SEARCH_GOAL_SEC = 1.0


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

  def search(query):
    return index_lib.search(index, query, top=TOP)

  search_sec = seconds(search, queries)
  product_sec = product_seconds(index.vectors, queries)
  return [
    running.row(f"{title}, search", search_sec, "s", at_most=SEARCH_GOAL_SEC),
    running.row(
      f"{title}, search over one product in memory",
      search_sec / product_sec,
      "x",
    ),
    running.row(f"{title}, vectors", 2 * WIDTH, "bytes/clip"),
  ]


def measure(*, quick: bool) -> list[dict]:
  rows = []
  for num_clips in (100_000,) if quick else (500_000, 2_000_000):
    with tempfile.TemporaryDirectory() as directory:
      rows += size_rows(pathlib.Path(directory), num_clips // CLIPS_PER_VIDEO)
  return rows


if __name__ == "__main__":
  running.main(measure, __doc__)
