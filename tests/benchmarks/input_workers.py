"""Clips of real videos decoded by a thread, by processes and by other readers.

A part of input_pipeline.py. Videos are stored as the builders store them, once
as ActivityNet is (128 px, 15 frames per second, TSP's clips) and once at 224
px. The time is that of processors, of all processes together, which other work
on the machine disturbs least; a scaling by the clock means something on idle
cores alone.
"""

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import pathlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import shared_memory
from typing import Any

import jax
import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

from clap_jax.data import clip_source, clips, records
from clap_jax.data.tokenizer import train as train_tokenizer
from clap_jax.media.errors import VideoError
from clap_jax.storage import tfrecord
from clap_jax.trainers import abstract, pretrain
from clap_jax.training import flops, topology
from configs import pretrain_activitynet
from tests.benchmarks import input_pipeline_peers as peers
from tests.benchmarks import running
from tests.data import built_dataset
from tfds_builders import transcoding

MIN_SOURCE_SEC = 9.0  # of videos for random clips
_MAX_VIDEOS = 4
_BATCH = 8
_WORKERS = 2
_ONE, _SEVERAL = "a process", f"{_WORKERS} processes"
_JPEG_QUALITY = 75
_UTILIZATION = 0.4
_SCALING_GOAL = 1.7


@dataclasses.dataclass(frozen=True)
class Form:
  """The stored videos and the clips that are cut from them."""

  name: str
  limits: transcoding.StoreLimits
  frames: clip_source.FrameOptions
  clip_sec: float


FORMS = (
  Form(
    "16 x 112 px of 128 px, 15 fps",
    transcoding.StoreLimits(short_side_px=128, max_fps=15.0),
    clip_source.FrameOptions(
      num_frames=16, size=112, mode="tsp", random_cut=True
    ),
    16 / 15,
  ),
  Form(
    "32 x 224 px of 224 px, 10 fps",
    transcoding.StoreLimits(short_side_px=224, max_fps=10.0),
    clip_source.FrameOptions(num_frames=32, size=224),
    3.2,
  ),
)


@dataclasses.dataclass(frozen=True)
class Stored:
  """The videos of one form, in this project's records and as JPEG frames."""

  source: clip_source.ClipSource
  videos: list[tuple[pathlib.Path, float]]  # source file, seconds
  jpegs: pathlib.Path  # a TFRecord file of a frame sequence per video


def transcoded(
  paths: Iterable[pathlib.Path],
  target: pathlib.Path,
  limits: transcoding.StoreLimits,
) -> Iterator[tuple[pathlib.Path, dict, bytes]]:
  """Yields (source, facts, content) of the videos that are long enough."""
  for path in paths:
    try:
      facts = transcoding.transcode_apart(path, target, limits=limits)
    except VideoError:
      continue
    if facts["duration_sec"] >= MIN_SOURCE_SEC:
      yield path, facts, target.read_bytes()


def store(
  paths: Sequence[pathlib.Path], form: Form, work: pathlib.Path
) -> Stored:
  """Writes a dataset of the videos that are long enough."""
  work.mkdir()
  examples, videos, sequences = [], [], []
  stored = transcoded(paths, work / "stored.mp4", form.limits)
  for path, facts, content in itertools.islice(stored, _MAX_VIDEOS):
    seconds = facts["duration_sec"]
    videos.append((path, seconds))
    names = ("fps", "duration_sec", "num_frames", "height", "width")
    examples.append(
      {name: facts[name] for name in names}
      | {
        "id": path.stem,
        "video": content,
        "segments": [{"start_sec": 0.0, "end_sec": seconds, "label": 0}],
        "captions": [{"start_sec": 0.0, "end_sec": seconds, "text": "a b c"}],
        "background": [],
      }
    )
    frames = list(peers.all_frames(examples[-1]["video"]))
    sequences.append(
      peers.frame_sequence(peers.encode_jpegs(frames, _JPEG_QUALITY))
    )
  if not examples:
    raise ValueError(f"no video of {MIN_SOURCE_SEC} s or more in {paths}")
  built_dataset.write_dataset(work, examples=examples, num_shards=1)
  built_dataset.write_shard(work / "jpegs.tfrecord", sequences)
  dataset = records.open_dataset(work, "toy/small")
  of_split = dataset.split("train")
  infos = of_split.metadata().examples
  tokenizer = train_tokenizer(
    ["a b c d"] * 20, vocab_size=16, path=work / "texts.model"
  )
  source = clip_source.ClipSource(
    clips.ClipSampler(
      infos,
      clips.Sampling(background_share=0.0),
      clip_sec=form.clip_sec,
      label_names=dataset.label_names,
    ),
    clip_source.FrameLoader(of_split, form.frames, infos=infos),
    tokenizer=tokenizer,
    text_length=8,
    place=clip_source.RecordsLocation(
      str(dataset.directory), dataset.name, "train"
    ),
  )
  return Stored(source, videos, work / "jpegs.tfrecord")


def _processor_sec(pids: Sequence[int]) -> float:
  """Processor time so far of this process and of others."""
  # The clock of another process, as clock_getcpuclockid(3) makes it.
  others = (time.clock_gettime((~pid << 3) | 2) for pid in pids)
  return time.process_time() + sum(others)


@dataclasses.dataclass
class _Cost:
  """Costs per clip of one way of decoding, turn by turn."""

  all_sec: list[float] = dataclasses.field(default_factory=list)
  own_sec: list[float] = dataclasses.field(default_factory=list)
  wall_sec: list[float] = dataclasses.field(default_factory=list)

  def measure(
    self, work: Callable[[], None], *, num_clips: int, pids: Sequence[int]
  ) -> None:
    before = _processor_sec(pids), time.process_time(), time.perf_counter()
    work()
    self.all_sec.append((_processor_sec(pids) - before[0]) / num_clips)
    self.own_sec.append((time.process_time() - before[1]) / num_clips)
    self.wall_sec.append((time.perf_counter() - before[2]) / num_clips)


def measure_form(
  stored: Stored, form: Form, *, rounds: int, batches: int
) -> list[dict[str, Any]]:
  """Turns of all ways on one form."""
  source, num_clips = stored.source, batches * _BATCH
  processes = {
    name: source.start_processes(number)
    for name, number in ((_ONE, 1), (_SEVERAL, _WORKERS))
  }
  readers, absent = peers.video_readers()
  rng = np.random.default_rng(0)
  costs = {name: _Cost() for name in ("thread", *processes, *readers, "JPEG")}
  pool = multiprocessing.get_context("spawn").Pool(_WORKERS)
  planners = concurrent.futures.ThreadPoolExecutor(2)
  try:
    pool_pids = [child.pid for child in multiprocessing.active_children()]
    for turn in range(-1, rounds):  # the first one warms up and is not counted
      steps = range(max(turn, 0) * batches, (max(turn, 0) + 1) * batches)
      numbered = [range(step * _BATCH, (step + 1) * _BATCH) for step in steps]
      works: dict[str, tuple[Callable[[], None], Sequence[int]]] = {
        "thread": (lambda n=numbered: _by_thread(source, n), ())
      }
      for name, way in processes.items():
        works[name] = (
          lambda way=way, n=numbered: _by_processes(source, way, n, planners),
          way.pids,
        )
      for name in (*readers, "JPEG"):
        plans = [
          _peer_plan(name, stored, form, rng=rng) for _ in range(batches)
        ]
        works[name] = (lambda p=plans: _by_pool(pool, p), pool_pids)
      for name, (work, pids) in works.items():
        cost = costs[name] if turn >= 0 else _Cost()
        cost.measure(work, num_clips=num_clips, pids=pids)
  finally:
    pool.terminate()
    planners.shutdown()
    for way in processes.values():
      way.close()
  return _rows(costs, absent, form)


def _by_thread(source, numbered) -> None:
  for indices in numbered:
    items = [source.item(index, seed=0) for index in indices]
    source.collate(items, batch_size=_BATCH)


def _by_processes(source, processes, numbered, planners) -> None:
  for batch in planners.map(
    lambda indices: source.batch_of(indices, seed=0, processes=processes),
    numbered,
  ):
    assert batch.pairs.valid.all()


def _by_pool(pool, plans) -> None:
  """Whole batches of workers, through shared memory, as a DataLoader's."""
  for name, shape in pool.imap(load_peer_batch, plans):
    memory = shared_memory.SharedMemory(name)
    assert np.frombuffer(memory.buf, np.uint8, count=shape[-1]).shape
    memory.unlink()


def _peer_plan(name, stored, form, *, rng) -> tuple:
  chosen = rng.integers(len(stored.videos), size=_BATCH).tolist()
  starts = [
    rng.random() * (stored.videos[video][1] - form.clip_sec - 0.5)
    for video in chosen
  ]
  paths = [str(stored.videos[video][0]) for video in chosen]
  shape = form.frames.num_frames, form.frames.size
  place = str(stored.jpegs), form.limits.max_fps
  return name, paths, chosen, starts, form.clip_sec, shape, place


def load_peer_batch(plan: tuple) -> tuple[str, tuple[int, ...]]:
  """Loads a batch in a worker; the name of its memory, which others free."""
  name, paths, chosen, starts, clip_sec, (num_frames, size), place = plan
  jpegs, fps = place
  loaded = []
  if name == "JPEG":
    shard = tfrecord.ShardReader(jpegs)
    for video, start_sec in zip(chosen, starts, strict=True):
      sequence = tf_example_pb2.SequenceExample.FromString(shard.read(video))
      loaded.append(
        peers.read_sequence(
          sequence, start_sec, clip_sec, num_frames, size, fps=fps
        )
      )
  else:
    read = peers.video_readers()[0][name]
    for path, start_sec in zip(paths, starts, strict=True):
      data = pathlib.Path(path).read_bytes()
      loaded.append(read(data, start_sec, clip_sec, num_frames, size))
  batch = np.stack(loaded)
  memory = shared_memory.SharedMemory(create=True, size=batch.nbytes)
  np.frombuffer(memory.buf, np.uint8, count=batch.nbytes)[:] = batch.reshape(-1)
  name = memory.name
  memory.close()
  return name, batch.shape


def _rows(costs, absent, form) -> list[dict[str, Any]]:
  def row(name, value, unit, **kwargs):
    return running.row(f"{form.name}: {name}", value, unit, **kwargs)

  per_sec = "clips/s of one core"
  middle = {
    name: statistics.median(cost.all_sec) for name, cost in costs.items()
  }
  labels = {"thread": "a thread of the trainer"}
  labels |= {"JPEG": f"JPEG TFRecords, {_WORKERS} loading processes"}
  rows = []
  for name, sec in middle.items():
    default = f"{name}, source files, {_WORKERS} loading processes"
    default = name if name in (_ONE, _SEVERAL) else default
    rows.append(row(labels.get(name, default), 1 / sec, per_sec))
  rows += [
    row(f"{name}: not measured", None, per_sec, note=reason)
    for name, reason in absent.items()
  ]
  one, two = costs[_ONE], costs[_SEVERAL]
  own_sec = statistics.median(two.own_sec)
  by_clock = statistics.median(
    a / b for a, b in zip(one.wall_sec, two.wall_sec, strict=True)
  )
  by_time = _WORKERS * middle[_ONE] / middle[_SEVERAL]
  return [
    *rows,
    row("the trainer's own share of a clip", 1e3 * own_sec, "CPU ms"),
    row("most clips that one trainer can hand on", 1 / own_sec, "clips/s"),
    row("2 processes over 1, clock", by_clock, "x", at_least=_SCALING_GOAL),
    row("2 processes over 1, processor time", by_time, "x"),
  ]


def measure_demand() -> list[dict[str, Any]]:
  """Clips per second that the chips of a host ask for, by operations."""
  peak = topology.CHIPS["v5e"].flops_per_sec
  rows = []
  for name, size in (("ViT-B", "transformer"), ("R(2+1)D-34", "full")):
    config = pretrain.resolve(pretrain_activitynet.get_config(size))
    run = pretrain.abstract_run(config, abstract.DataFacts())
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(run.task.init, key)
    step = jax.make_jaxpr(jax.value_and_grad(run.task.loss, has_aux=True))
    found = flops.count(step(params, run.batch, key))
    per_clip = found.flops / config.data.batch_size
    rows.append(running.row(f"{name}, a step", per_clip / 1e9, "GFLOP/clip"))
    rows += [
      running.row(
        f"{name} on {chips} v5e chips at {100 * _UTILIZATION:.0f} %",
        chips * peak * _UTILIZATION / per_clip,
        "clips/s",
      )
      for chips in (4, 8)
    ]
  return rows


def measure(
  paths: Sequence[pathlib.Path],
  work: pathlib.Path,
  *,
  quick: bool,
) -> list[dict[str, Any]]:
  """Rows of both forms and of the demand."""
  rows = measure_demand()
  for number, form in enumerate(FORMS):
    stored = store(paths, form, work / str(number))
    rows += measure_form(
      stored, form, rounds=1 if quick else 5, batches=1 if quick else 2
    )
  return rows
