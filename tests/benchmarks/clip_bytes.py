"""Measures which part of a two-minute record a clip of one second transfers.

    python -m tests.benchmarks.clip_bytes [--quick] --json OUT [--video FILE]

The record is a real video, repeated to two minutes and stored as `clap build`
does, at 128 px and 15 frames per second. Every clip is compared with the same
clip of the whole record, bit for bit.
"""

import contextlib
import io
import itertools
import pathlib
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import pytest

from clap_jax.data import records
from clap_jax.data.clip_source import FrameLoader, FrameOptions
from clap_jax.data.clips import ClipItem
from clap_jax.media import video_reader
from clap_jax.storage import tfrecord
from tests.benchmarks import running
from tests.data import built_dataset
from tfds_builders import encoding, indexing, transcoding

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
VIDEO = REPOSITORY.parent / "shared" / "data" / "videos" / "v_ZNVhz7ctTq0.mp4"
LENGTH_SEC, CLIP_SEC, NUM_FRAMES, SIZE = 120.0, 16 / 15, 16, 112
_LIMITS = transcoding.StoreLimits(short_side_px=128, max_fps=15.0)


def two_minutes(source: pathlib.Path) -> bytes:
  """A video in the form of the store, repeated until the time is full."""
  content = source.read_bytes()
  fps = transcoding.store_rate(io.BytesIO(content), limits=_LIMITS)
  with video_reader.open_video(content, limits=_LIMITS.source) as opened:
    frames = list(
      transcoding.frames_on_grid(
        opened, fps=fps, limits=_LIMITS, written=transcoding.Written()
      )
    )
  count = round(LENGTH_SEC * fps)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "stored.mp4")
    encoding.write_mp4(
      itertools.islice(itertools.cycle(frames), count),
      path,
      fps=fps,
      crf=_LIMITS.crf,
      even_quantizer=True,
    )
    return path.read_bytes()


def write_dataset(folder: pathlib.Path, video: bytes) -> pathlib.Path:
  """A dataset of this one video, with an index."""
  directory = built_dataset.write_dataset(
    folder,
    num_shards=1,
    examples=[built_dataset.make_example(0) | {"video": video}],
  )
  shards = records.open_dataset(folder, "toy/small").split("train").shards
  indexing.index_dataset(directory, shards)
  return directory


@contextlib.contextmanager
def counted() -> Iterator[list[list[int]]]:
  """Yields a list of the readings of parts: the bytes of their spans."""
  readings: list[list[int]] = []
  original = tfrecord.ShardReader.read_ranges

  def read_ranges(shard, spans):
    readings.append([num_bytes for _, num_bytes in spans])
    return original(shard, spans)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(tfrecord.ShardReader, "read_ranges", read_ranges)
    yield readings


def measure_clips(
  data_dir: pathlib.Path | str, *, num_clips: int
) -> dict[str, float]:
  """Shares of the record, requests and times of clips at random places."""
  dataset = records.open_dataset(data_dir, "toy/small")
  options = FrameOptions(num_frames=NUM_FRAMES, size=SIZE)
  by_clips, whole = (
    FrameLoader(dataset.split("train", indexed=indexed), options)
    for indexed in (True, False)
  )
  record = dataset.split("train").shards[0].num_bytes
  starts = np.random.default_rng(0).uniform(0, LENGTH_SEC - CLIP_SEC, num_clips)
  shares, requests, seconds = [], [], {True: 0.0, False: 0.0}
  for start_sec in [0.0, *starts.tolist(), LENGTH_SEC - CLIP_SEC]:
    item = ClipItem(
      record_index=0,
      start_sec=start_sec,
      end_sec=start_sec + CLIP_SEC,
      is_action=False,
    )
    frames = {}
    for indexed, loader in ((True, by_clips), (False, whole)):
      began = time.process_time()
      with counted() as readings:
        frames[indexed] = loader.frames(item)
      seconds[indexed] += time.process_time() - began
      if indexed:
        shares.append(sum(map(sum, readings)) / record)
        requests.append(sum(map(len, readings)))
    np.testing.assert_array_equal(frames[True], frames[False])
  return {
    "record": record,
    "mean": float(np.mean(shares)),
    "most": max(shares),
    "requests": float(np.mean(requests)),
    "seconds": seconds[True] / len(shares),
    "whole_seconds": seconds[False] / len(shares),
  }


def measure(*, quick: bool, video: pathlib.Path) -> list[dict]:
  with tempfile.TemporaryDirectory() as folder:
    data_dir = pathlib.Path(folder)
    write_dataset(data_dir, two_minutes(video))
    found = measure_clips(data_dir, num_clips=20 if quick else 200)
  by_blocks, by_records = 1e3 * found["seconds"], 1e3 * found["whole_seconds"]
  return [
    running.row("record of two minutes", found["record"] / 1e6, "MB"),
    running.row("share of it per clip, mean", 100 * found["mean"], "%"),
    running.row("... at most", 100 * found["most"], "%", at_most=10.0),
    running.row("requests per clip", found["requests"], "", at_most=2.0),
    running.row("read and decoded by blocks", by_blocks, "ms/clip"),
    running.row("... by whole records", by_records, "ms/clip"),
  ]


if __name__ == "__main__":
  file = {"type": pathlib.Path, "default": VIDEO}
  running.main(measure, __doc__, options={"video": file})
