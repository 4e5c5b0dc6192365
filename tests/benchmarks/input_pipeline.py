"""Measures stores, clip readers, record files and the whole input pipeline.

    python -m tests.benchmarks.input_pipeline [--quick] --json OUT
      [--videos DIR] [--only PART]

Videos are those of DIR, by default the real ones beside the repository; where
there are none, motion_sprites rendered at 224 px stand in and the rows say so.
Forms that are compared take turns in one process on one thread, in processor
time, which neighbours on the machine disturb least; the median of the ratios of
the rounds is stated. decord and torchcodec are measured where
they are installed.
"""

import dataclasses
import gc
import io
import json
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np

from clap_jax.data import shuffle
from clap_jax.data.pipeline import training_batches
from clap_jax.data.records import open_dataset
from clap_jax.media import video_reader
from clap_jax.media.decode import decode_clip, decode_video
from clap_jax.storage.framing import frame_record
from clap_jax.storage.tfrecord import ShardReader
from tests.benchmarks import input_pipeline_peers as peers
from tests.benchmarks import input_workers, running
from tests.data import built_dataset
from tfds_builders import encoding, transcoding

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
_CLIP_FRAMES, _CLIP_SEC, _SIZE = 32, 3.2, 224
_LIMITS = transcoding.StoreLimits(max_fps=10.0)


@dataclasses.dataclass(frozen=True)
class Store:
  """One source video and what the three stores made of it."""

  name: str
  source: bytes
  h264: bytes
  jpeg: bytes  # motion JPEG in one file
  duration_sec: float


def find_videos(folder: pathlib.Path | None, work: pathlib.Path):
  """(paths, what they are); the real ones, or else rendered ones."""
  folder = folder or REPOSITORY.parent / "shared" / "data" / "videos"
  suffixes = (".mp4", ".mkv", ".avi")
  paths = sorted(p for p in folder.rglob("*") if p.suffix in suffixes)
  if paths:
    return paths, "real videos"
  from tfds_builders.motion_sprites import (  # noqa: PLC0415
    render,
    sizes,
  )

  config = dataclasses.replace(
    sizes.get_config("tiny"),
    duration_sec=(20.0, 30.0),
    fps=(15,),
    size_px=(224,),
  )
  paths = []
  for index in range(4):
    path = work / f"sprites_{index}.mp4"
    render.render_video(0, "train", index=index, config=config, path=path)
    paths.append(path)
  return paths, "rendered sprites"


def make_stores(paths, work) -> list[Store]:
  """Transcodes what is long enough for random clips."""
  stores = []
  target = work / "stored.mp4"
  for path, facts, h264 in input_workers.transcoded(paths, target, _LIMITS):
    transcoding.transcode_apart(
      path, target, limits=dataclasses.replace(_LIMITS, store="jpeg")
    )
    stores.append(
      Store(
        path.stem,
        path.read_bytes(),
        h264,
        target.read_bytes(),
        facts["duration_sec"],
      )
    )
  return stores


def reference_frames(source: bytes) -> list[np.ndarray]:
  """The frames on the store's grid before any encoding."""
  fps = transcoding.store_rate(io.BytesIO(source), limits=_LIMITS)
  written = transcoding.Written()
  with video_reader.open_video(
    io.BytesIO(source), limits=_LIMITS.source
  ) as opened:
    return list(
      transcoding.frames_on_grid(
        opened, fps=fps, limits=_LIMITS, written=written
      )
    )


def psnr(first, second) -> float:
  """Decibels over all pixels."""
  error = np.mean(
    [
      np.mean((a.astype(np.float32) - b) ** 2)
      for a, b in zip(first, second, strict=True)
    ]
  )
  return float(10 * np.log10(255**2 / max(error, 1e-12)))


def measure_sizes(stores, kind, *, max_frames: int) -> list[dict]:
  """Bytes per hour and PSNR of each store, over all videos together."""
  forms = ("jpeg q75", "jpeg q90", "jpeg store", "h264 store", "h264 crf18")
  num_bytes = dict.fromkeys(forms, 0)
  decibels: dict[str, list[float]] = {form: [] for form in forms}
  seconds = source_bytes = 0.0
  for store in stores:
    frames = reference_frames(store.source)[:max_frames]
    share = len(frames) / len(reference_frames(store.source))
    seconds += store.duration_sec * share
    source_bytes += len(store.source) * share
    for quality in (75, 90):
      files = peers.encode_jpegs(frames, quality)
      num_bytes[f"jpeg q{quality}"] += sum(map(len, files))
      decibels[f"jpeg q{quality}"].append(
        psnr(frames, peers.decode_jpegs(files))
      )
    encoded = {
      "jpeg store": {"codec": "mjpeg"},
      "h264 store": {"crf": _LIMITS.crf, "even_quantizer": True},
      "h264 crf18": {"crf": 18, "even_quantizer": True},
    }
    for form, settings in encoded.items():
      with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "x.mp4")
        encoding.write_mp4(frames, path, fps=_LIMITS.max_fps, **settings)
        data = path.read_bytes()
      num_bytes[form] += len(data)
      decibels[form].append(psnr(frames, peers.all_frames(data)))
  rows = [
    running.row(
      f"source files, {len(stores)} {kind}",
      _mb_per_hour(source_bytes, seconds),
      "MB/h",
    )
  ]
  for form in forms:
    mean = statistics.mean(decibels[form])
    rows.append(
      running.row(form, _mb_per_hour(num_bytes[form], seconds), "MB/h")
    )
    rows.append(running.row(f"{form}, PSNR", mean, "dB"))
  for ours, theirs in (("h264 store", "jpeg q75"), ("h264 crf18", "jpeg q90")):
    ratio = num_bytes[ours] / num_bytes[theirs]
    gain = statistics.mean(decibels[ours]) - statistics.mean(decibels[theirs])
    rows.append(
      running.row(f"bytes of {ours} over {theirs}", ratio, "x", at_most=0.30)
    )
    rows.append(
      running.row(f"PSNR of {ours} above {theirs}", gain, "dB", at_least=0.0)
    )
  return rows


def _mb_per_hour(num_bytes: float, seconds: float) -> float:
  return num_bytes / 1e6 / seconds * 3600


def measure_clips(stores, kind, *, rounds: int, clips: int) -> list[dict]:
  """Random clips per second from the stores and from the source files."""
  readers, absent = peers.video_readers()
  forms = {name: (reader, "source") for name, reader in readers.items()}
  forms["ours, h264 store"] = (_read_ours, "h264")
  forms["ours, jpeg store"] = (_read_ours, "jpeg")
  speeds: dict[str, list[float]] = {name: [] for name in forms}
  rng = np.random.default_rng(0)
  for _ in range(rounds):
    plan = [
      (stores[rng.integers(len(stores))], rng.random()) for _ in range(clips)
    ]
    for name, (reader, form) in forms.items():
      start = time.process_time()
      for store, place in plan:
        start_sec = place * (store.duration_sec - _CLIP_SEC - 0.5)
        clip = reader(
          getattr(store, form), start_sec, _CLIP_SEC, _CLIP_FRAMES, _SIZE
        )
        assert clip.shape == (_CLIP_FRAMES, _SIZE, _SIZE, 3)
      speeds[name].append(clips / (time.process_time() - start))
  rows = [
    running.row(
      f"{name}: random clips of {_CLIP_FRAMES} frames",
      statistics.median(v),
      "clips/s of one core",
    )
    for name, v in speeds.items()
  ]
  rows += [
    running.row(f"{name}: not measured ({reason})", None, "clips/s of one core")
    for name, reason in absent.items()
  ]
  ratios = [
    ours / max(speeds[name][k] for name in readers)
    for k, ours in enumerate(speeds["ours, h264 store"])
  ]
  rows.append(
    running.row(
      f"ours, h264 store, over the best reader of the source ({kind})",
      statistics.median(ratios),
      "x",
      at_least=2.2,
    )
  )
  return rows


def _read_ours(data, start_sec, clip_sec, num_frames, size):
  return decode_clip(
    data,
    start_sec=start_sec,
    clip_sec=clip_sec,
    num_frames=num_frames,
    size=size,
  )


def measure_records(work, *, rounds: int, count: int) -> list[dict]:
  """Random records per second; ours checks the CRC of every one."""
  rng = np.random.default_rng(0)
  records = [rng.bytes(200_000) for _ in range(count)]
  path = work / "x.tfrecord"
  built_dataset.write_shard(path, records)
  ours = ShardReader(path)
  theirs = peers.write_array_record(work / "x.array_record", records)
  if theirs is None:
    return [running.row("records: array_record is not installed", None, "x")]
  speeds = {"ours": [], "array": []}
  for _ in range(rounds):
    indices = rng.permutation(count).tolist()
    for name, read in (("ours", ours.read), ("array", _array_read(theirs))):
      start = time.process_time()
      for index in indices:
        assert len(read(index)) == 200_000
      speeds[name].append(count / (time.process_time() - start))
  ratios = [a / b for a, b in zip(speeds["ours"], speeds["array"], strict=True)]
  return [
    running.row(
      "TFRecord with index, CRC checked",
      statistics.median(speeds["ours"]),
      "records/s",
    ),
    running.row(
      "ArrayRecord, one at a time",
      statistics.median(speeds["array"]),
      "records/s",
    ),
    running.row(
      "random records over ArrayRecord",
      statistics.median(ratios),
      "x",
      at_least=3.0,
    ),
  ]


def _array_read(reader):
  return lambda index: reader.read([index])[0]


def measure_resume(work, *, count: int) -> list[dict]:
  """From nothing to the exact next record at random places of a large set."""
  directory = work / "large" / "1.0.0"
  (directory / "train").mkdir(parents=True)
  spec = built_dataset.features()
  spec.save_config(str(directory))
  # One record many times: what it holds does not matter, where it lies does.
  example = built_dataset.make_example(0) | {"video": b"x"}
  framed = frame_record(spec.serialize_example(spec.encode_example(example)))
  shards, per_shard = 10, count // 10
  for shard in range(shards):
    path = directory / f"large-train.tfrecord-{shard:05d}-of-{shards:05d}"
    path.write_bytes(framed * per_shard)
    offsets = np.arange(per_shard, dtype="<u8") * len(framed)
    path.with_name(path.name + ".idx").write_bytes(offsets.tobytes())
  info = {
    "name": "large",
    "version": "1.0.0",
    "fileFormat": "tfrecord",
    "splits": [{"name": "train", "shardLengths": [str(per_shard)] * shards}],
  }
  (directory / "dataset_info.json").write_text(json.dumps(info))
  rng, seconds = np.random.default_rng(0), []
  for position in rng.integers(0, 10 * count, 10).tolist():
    start = time.perf_counter()
    source = open_dataset(work, "large").split("train")
    items = _Records(source, count)
    with training_batches(
      items, batch_size=1, seed=3, start_step=position, num_threads=0
    ) as batches:
      found = next(batches)
    seconds.append(time.perf_counter() - start)
    assert found == [shuffle.shuffled(position, length=count, seed=3)]
    source.close()
  return [
    running.row(
      f"open {count:,} records and read the next one, the slowest of 10 places",
      max(seconds),
      "s",
      at_most=1.0,
    )
  ]


class _Records:
  """Records in shuffled epochs; an item is the index that was read."""

  def __init__(self, records, length):
    self._records, self._length = records, length

  def item(self, index, *, seed):
    place = shuffle.shuffled(index, length=self._length, seed=seed)
    return self._records[place].index

  def collate(self, examples, *, batch_size):
    assert len(examples) == batch_size
    return examples


def measure_memory(*, videos: int) -> list[dict]:
  """Resident memory after many decoded videos, over that after a tenth."""
  data = [built_dataset.encode_mp4(16, seed=seed) for seed in range(8)]
  before = None
  for number in range(videos):
    video = decode_video(data[number % len(data)], size=48)
    assert len(video.frames) == 16
    if number == videos // 10:
      gc.collect()
      before = _resident_bytes()
  gc.collect()
  growth = _resident_bytes() / before - 1
  return [
    running.row(
      f"growth of resident memory over {videos:,} videos",
      100 * growth,
      "%",
      at_most=5.0,
    )
  ]


def _resident_bytes() -> int:
  pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
  return int(pages) * os.sysconf("SC_PAGE_SIZE")


def measure(
  *, quick: bool, videos: pathlib.Path | None, only: str | None
) -> list[dict]:
  rounds = 5
  with tempfile.TemporaryDirectory() as temporary:
    work = pathlib.Path(temporary)
    paths, kind = find_videos(videos, work)

    def of_stores() -> list[dict]:
      stores = make_stores(paths, work)
      if not stores:
        raise ValueError(
          f"no video of {input_workers.MIN_SOURCE_SEC} s or more in {videos}"
        )
      return [
        *measure_sizes(stores, kind, max_frames=60 if quick else 300),
        *measure_clips(stores, kind, rounds=rounds, clips=4 if quick else 12),
      ]

    parts = {
      "stores": of_stores,
      "records": lambda: measure_records(
        work, rounds=rounds, count=400 if quick else 2000
      ),
      "workers": lambda: input_workers.measure(paths, work, quick=quick),
      "resume": lambda: measure_resume(work, count=1_000_000),
      "memory": lambda: measure_memory(videos=1_000 if quick else 10_000),
    }
    names = list(parts) if only is None else [only]
    return [row for name in names for row in parts[name]()]


PARTS = ("stores", "records", "workers", "resume", "memory")

if __name__ == "__main__":
  running.main(
    measure,
    __doc__,
    options={
      "videos": {"type": pathlib.Path, "help": "of real videos to measure on"},
      "only": {"choices": PARTS, "help": "one part of the benchmark"},
    },
  )
