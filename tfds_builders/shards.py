"""Builds shards independently and commits each atomically.

A shard is a pure function of its job: the items, the form of the store, the
class names. It is written beside its place, flushed to the disk, renamed, and
only then its done-file says what it holds. A build that was killed at any
moment finds its done-files, redoes the shards in flight and ends with the same
bytes. Jobs are plain data: threads run them here, Beam elsewhere.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence

import av
from tensorflow_datasets.proto import tf_example_generated_pb2

from clap_jax.media.errors import VideoError
from clap_jax.storage import framing, output, untrusted
from tfds_builders import collection, packing, schema, transcoding

FORMAT = 4  # raise it when equal jobs give other bytes
VIDEOS_PER_SHARD = 64
_MIN_SHARDS = 4
MAX_RECORD_BYTES = (2 << 30) - (1 << 20)  # protocol buffers end at 2 GiB


@dataclasses.dataclass(frozen=True)
class ShardJob:
  """One shard to be written."""

  name: str
  items: tuple[collection.Item, ...]
  class_names: tuple[str, ...]
  limits: transcoding.StoreLimits

  def digest(self) -> str:
    """Changes with whatever the bytes depend on, but a source's content."""
    facts = []
    for item in self.items:
      status = item.path.stat()
      fields = dataclasses.asdict(item)
      fields["path"] = [str(item.path), status.st_size, status.st_mtime_ns]
      facts.append(fields)
    text = json.dumps(
      [
        FORMAT,
        av.__version__,
        self.name,
        facts,
        self.class_names,
        dataclasses.asdict(self.limits),
      ]
    )
    return hashlib.sha256(text.encode()).hexdigest()


def serialize(features, record: dict) -> bytes:
  """Serializes a tf.train.Example with its map entries in a fixed order."""
  data = features.serialize_example(features.encode_example(record))
  example = tf_example_generated_pb2.Example.FromString(data)
  return example.SerializeToString(deterministic=True)


def make_jobs(
  plan: collection.Plan, *, limits: transcoding.StoreLimits
) -> dict[str, list[ShardJob]]:
  """Equal runs of the items of each split, at least four where possible."""
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


def _read(path):
  return untrusted.read_bytes(path, max_bytes=MAX_RECORD_BYTES)


def _stored(item, limits, scratch):
  """(encoded video, facts) of an item.

  Raises:
    VideoError: if the source cannot be stored.
  """
  if item.facts is not None:
    return _read(item.path), dict(item.facts)
  target = scratch / f"{item.id}.mp4"
  facts = transcoding.transcode_apart(item.path, target, limits=limits)
  try:
    if target.stat().st_size > MAX_RECORD_BYTES:
      raise VideoError(
        f"{target.stat().st_size} bytes when stored; a record holds "
        f"{MAX_RECORD_BYTES}"
      )
    return _read(target), facts
  finally:
    target.unlink()


def pack_item(
  item: collection.Item,
  *,
  limits: transcoding.StoreLimits,
  scratch: pathlib.Path,
  has_classes: bool,
) -> tuple[dict, dict | None]:
  """A note for the manifest, and the record unless the video is unusable.

  In a dataset without classes what its captions cover is no background.

  Raises:
    OSError: where the disk takes no more.
  """
  note = {"id": item.id, "repaired": [], "rejected": []}
  try:
    note["bytes"] = item.path.stat().st_size
    note["sha256"] = untrusted.hash_file(
      item.path, max_bytes=limits.source.max_bytes
    )
  except untrusted.UntrustedFileError as error:
    note["corrupt"] = str(error)
    return note, None
  except OSError as error:
    note["corrupt"] = f"cannot be read: {error.strerror}"
    return note, None
  try:
    video, facts = _stored(item, limits, scratch)
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


def _commit(path: pathlib.Path, parts: Iterable[bytes]) -> None:
  """Writes a file that is complete and on the disk, or not there."""
  with output.writing(path) as file:
    for part in parts:
      file.write(part)


def read_done(job: ShardJob, folder: pathlib.Path) -> dict | None:
  """Reads the done-file of a job, if it belongs to this job."""
  try:
    done = untrusted.read_json(f"{job.name}.done.json", folder=folder)
    size = (folder / job.name).stat().st_size
  except (OSError, ValueError):
    return None
  if done["job"] != job.digest() or done["bytes"] != size:
    return None
  return done


def build_shard(
  job: ShardJob,
  folder: pathlib.Path,
  *,
  on_start: Callable[[str], None] = lambda path: None,
  on_video: Callable[[], None] = lambda: None,
) -> dict:
  """Writes a shard, the same without videos, and the done-file; idempotent.

  Returns:
    {"job", "records", "bytes", "sha256", "notes"}; see `pack_item`.
  """
  done = read_done(job, folder)
  if done is not None:
    for _ in job.items:
      on_video()
    return done
  features = schema.make_features(job.class_names)
  notes: list[dict] = []
  shard, metadata = folder / job.name, folder / f"{job.name}.metadata"
  digest, lights = hashlib.sha256(), []

  def records(scratch):
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
        lights.append(
          framing.frame_record(serialize(features, {**record, "video": b""}))
        )
        yield data
      notes.append(note)
      on_video()

  with tempfile.TemporaryDirectory(prefix=".scratch-", dir=folder) as scratch:
    _commit(shard, records(pathlib.Path(scratch)))
  _commit(metadata, lights)
  done = {
    "job": job.digest(),
    "records": len(lights),
    "bytes": shard.stat().st_size,
    "sha256": digest.hexdigest(),
    "notes": notes,
  }
  _commit(folder / f"{job.name}.done.json", [json.dumps(done).encode()])
  return done


def build_all(
  jobs: Sequence[ShardJob],
  folder: pathlib.Path,
  *,
  workers: int,
  on_start: Callable[[str], None],
  on_video: Callable[[], None],
) -> list[dict]:
  """Runs the jobs on threads; each decodes in processes of its own.

  The first error stops the build after the shards in flight.
  """
  clean(folder)
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


def clean(folder: pathlib.Path) -> None:
  """Removes what a killed build left unfinished."""
  for leftover in folder.glob(".*"):
    if leftover.is_dir():
      shutil.rmtree(leftover)
    else:
      leftover.unlink()


def file_names(job: ShardJob) -> tuple[str, ...]:
  """The files of a finished shard, in the order in which they appear."""
  return job.name, f"{job.name}.metadata", f"{job.name}.done.json"
