"""Builds shards independently and commits each atomically.

A shard is a pure function of its job: the items, the form of the store, the
class names. A worker writes it into a folder of its own, then moves its files
to the common folder, on a disk or in a bucket, last the done-file, which states
what the shard holds. The names have the digest of the job, so that attempts at
one job, however many there are at a time, leave the same bytes there. A build
that was killed at any moment finds its done-files, redoes the shards in flight
and ends with the same bytes. Jobs are plain data: threads run them here, Beam
elsewhere.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import BinaryIO

import av
from tensorflow_datasets.proto import tf_example_generated_pb2

from clap_jax.media.errors import VideoError
from clap_jax.storage import (
  framing,
  locations,
  output,
  record_index,
  tfrecord,
  untrusted,
)
from tfds_builders import collection, indexing, packing, schema, transcoding

FORMAT = 5  # increase it if equal jobs give other bytes
VIDEOS_PER_SHARD = 64
_MIN_SHARDS = 4
METADATA, INDEX, _DONE = _ENDS = ".metadata", ".index", ".done.json"
_MAX_STORED_BYTES = 1 << 50
MAX_RECORD_BYTES = (2 << 30) - (1 << 20)  # protocol buffers end at 2 GiB


@dataclasses.dataclass(frozen=True)
class ShardJob:
  """A shard to write."""

  name: str
  items: tuple[collection.Item, ...]
  class_names: tuple[str, ...]
  limits: transcoding.StoreLimits

  @functools.cached_property
  def digest(self) -> str:
    """Returns a hash of everything that the bytes depend on."""
    facts = [FORMAT, av.__version__, dataclasses.asdict(self)]
    text = json.dumps(facts, default=str)
    return hashlib.sha256(text.encode()).hexdigest()

  @property
  def stem(self) -> str:
    """Returns the name of the shard, the prefix of its other files."""
    return f"{self.name}.{self.digest[:16]}"

  @property
  def file_names(self) -> tuple[str, ...]:
    """Returns the files in the order in which they are written."""
    return tuple(f"{self.stem}{end}" for end in ("", *_ENDS))


def serialize(features, record: dict) -> bytes:
  """Serializes a tf.train.Example with its map entries in a fixed order."""
  data = features.serialize_example(features.encode_example(record))
  example = tf_example_generated_pb2.Example.FromString(data)
  return example.SerializeToString(deterministic=True)


def make_jobs(
  plan: collection.Plan, *, limits: transcoding.StoreLimits
) -> dict[str, list[ShardJob]]:
  """Divides each split's items into equal runs, at least four if possible."""
  jobs: dict[str, list[ShardJob]] = {}
  for split, items in plan.items.items():
    count = max(_MIN_SHARDS, -(-len(items) // VIDEOS_PER_SHARD))
    count = min(count, len(items))
    for number in range(count):
      first, last = (len(items) * (number + k) // count for k in (0, 1))
      jobs.setdefault(split, []).append(
        ShardJob(
          f"{split}-{number:05d}-of-{count:05d}",
          tuple(items[first:last]),
          tuple(plan.class_names),
          limits,
        )
      )
  return jobs


def _stored(item, source, limits, scratch):
  """Returns (encoded video, metadata) of an item, whose file is open.

  Raises:
    VideoError: the source cannot be stored.
  """
  if item.facts is not None:
    source.seek(0)
    return _read(source), dict(item.facts)
  target = scratch / f"{item.id}.mp4"
  facts = transcoding.transcode_apart(source, target, limits=limits)
  try:
    with untrusted.open_file(target, max_bytes=_MAX_STORED_BYTES) as file:
      return _read(file), facts
  finally:
    target.unlink()


def _read(file: BinaryIO) -> bytes:
  if (size := untrusted.size_of(file)) > MAX_RECORD_BYTES:
    raise VideoError(
      f"{size} bytes when stored; a record holds {MAX_RECORD_BYTES}"
    )
  return file.read(size)


def _opened(item, limits, note) -> BinaryIO | None:
  """Opens an item's file, or a copy of an object; None if unreadable.

  Raises:
    OSError: the bucket refuses access, or there is no space for the copy.
  """
  try:
    source = untrusted.open_file(item.path, max_bytes=limits.source.max_bytes)
    note["bytes"] = untrusted.size_of(source)
    note["sha256"] = hashlib.file_digest(source, "sha256").hexdigest()
  except untrusted.UntrustedFileError as error:
    note["corrupt"] = str(error)
  except OSError as error:
    is_absent = isinstance(error, FileNotFoundError)
    if locations.is_object(item.path) and not is_absent:
      raise
    note["corrupt"] = f"cannot be read: {error.strerror}"
  else:
    return source
  return None


def pack_item(
  item: collection.Item,
  *,
  limits: transcoding.StoreLimits,
  scratch: pathlib.Path,
  has_classes: bool,
) -> tuple[dict, dict | None]:
  """Returns a note for the manifest, and the record of a usable video.

  In a dataset without classes, captions cover foreground.

  Raises:
    OSError: the disk is full, or a bucket does not answer.
  """
  note = {"id": item.id, "repaired": [], "rejected": []}
  source = _opened(item, limits, note)
  if source is None:
    return note, None
  with source:
    try:
      video, facts = _stored(item, source, limits, scratch)
    except VideoError as error:
      note["corrupt"] = str(error)
      return note, None
  source = facts.pop("source", None) or facts
  note["frames"] = [item.expected_frames, source["num_frames"]]
  note["duration_sec"] = [item.expected_duration_sec, source["duration_sec"]]
  note["claimed"] = source.get("claimed")
  for key in ("damaged_frames", "longest_gap_sec", "stream", "joined"):
    note[key] = source.get(key, 0)
  spans = [
    collection.fit_spans(
      spans, facts["duration_sec"], video_id=item.id, notes=note
    )
    for spans in (item.segments, item.captions)
  ]
  ambiguous = [(s.start_sec, s.end_sec) for s in item.ambiguous]
  if not has_classes:
    ambiguous += [caption[:2] for caption in spans[1]]
  record = packing.make_record(
    item.id,
    video,
    segments=spans[0],
    captions=spans[1],
    ambiguous=ambiguous,
    **facts,
  )
  return note, record


def read_done(job: ShardJob, folder: locations.Location) -> dict | None:
  """Reads the done-file of a job; None unless its shard exists."""
  try:
    done = untrusted.read_json(f"{job.stem}{_DONE}", folder=folder)
    size = (folder / job.stem).stat().st_size
  except (FileNotFoundError, ValueError):
    return None
  if done["job"] != job.digest or done["bytes"] != size:
    return None
  return done


def build_shard(
  job: ShardJob,
  folder: locations.PathLike,
  *,
  on_start: Callable[[str], None] = lambda path: None,
  on_video: Callable[[], None] = lambda: None,
) -> dict:
  """Writes the files of a job, its done-file last; idempotent.

  Other files are its records without videos, and its index.

  Returns:
    {"job", "records", "bytes", "sha256", "notes"}; see `pack_item`.
  """
  folder = locations.at(folder)
  done = read_done(job, folder)
  if done is not None:
    for _ in job.items:
      on_video()
    return done
  with output.scratch_folder(folder) as scratch:
    done = _write_shard(job, scratch, on_start=on_start, on_video=on_video)
    for name in job.file_names:
      output.move(scratch / name, folder / name)
  return done


def _write_shard(job, scratch, *, on_start, on_video) -> dict:
  features = schema.make_features(job.class_names)
  notes: list[dict] = []
  lights: list[bytes] = []
  digest, path = hashlib.sha256(), scratch / job.stem
  with output.writing(path) as file:
    for item in job.items:
      on_start(str(item.path))
      note, record = pack_item(
        item,
        limits=job.limits,
        scratch=scratch,
        has_classes=bool(job.class_names),
      )
      if record is not None:
        note.update(packing.describe(record))
        data = framing.frame_record(serialize(features, record))
        digest.update(data)
        file.write(data)
        lights.append(
          framing.frame_record(serialize(features, {**record, "video": b""}))
        )
      notes.append(note)
      on_video()
  with contextlib.closing(tfrecord.ShardReader(path)) as shard:
    index, _ = indexing.index_shard(shard)
  done = {
    "job": job.digest,
    "records": len(lights),
    "bytes": index.num_bytes,
    "sha256": digest.hexdigest(),
    "notes": notes,
  }
  for end, content in (
    (METADATA, b"".join(lights)),
    (INDEX, record_index.to_bytes([index])),
    (_DONE, json.dumps(done).encode()),
  ):
    output.write_bytes(scratch / f"{job.stem}{end}", content)
  return done


def build_all(
  jobs: Sequence[ShardJob],
  folder: locations.Location,
  *,
  workers: int,
  on_start: Callable[[str], None],
  on_progress: Callable[[str, int, int], None],
) -> list[dict]:
  """Runs the jobs on threads; each decodes in its own processes.

  The first error stops the build after the shards in flight.
  """
  lock, numbers = threading.Lock(), itertools.count(1)
  total = sum(len(job.items) for job in jobs)

  def on_video():
    with lock:
      on_progress("pack", next(numbers), total)

  clean(folder, jobs)
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    runs = [
      pool.submit(
        build_shard, job, folder, on_start=on_start, on_video=on_video
      )
      for job in jobs
    ]
    try:
      return [run.result() for run in runs]
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      raise


def clean(folder: locations.Location, jobs: Sequence[ShardJob]) -> None:
  """Removes files of killed builds and of builds with other settings."""
  kept = {name for job in jobs for name in job.file_names}
  for leftover in folder.iterdir():
    if leftover.name in kept:
      continue
    if leftover.is_dir():
      output.remove_tree(leftover)
    else:
      leftover.unlink()
