"""Verifies the integrity and consistency of a built dataset."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from clap_jax.data.records import (
  Dataset,
  DatasetError,
  Example,
  ExampleInfo,
  RecordSource,
)
from clap_jax.media.decode import decode_video
from clap_jax.media.errors import VideoError
from clap_jax.storage import locations, record_index, untrusted
from clap_jax.storage.tfrecord import CorruptRecordError

CHECKSUMS = "SHA256SUMS"
MAX_PROBLEMS = 1000
_MAX_FILE_BYTES = 1 << 44
_END_SLACK_SEC = 1e-3  # times are float32
_DECODED_PX = 16

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Verification:
  """The outcome of a verification."""

  name: str
  directory: str
  num_files: int
  num_records: int
  num_bytes: int
  problems: tuple[str, ...]  # the first `MAX_PROBLEMS`, each naming its place

  def to_dict(self) -> dict:
    return {**dataclasses.asdict(self), "ok": not self.problems}


def verify(
  dataset: Dataset,
  *,
  decode: bool = False,
  on_progress: Progress = lambda done, total: None,
) -> Verification:
  """Verifies hashes of files, CRCs and content of records, and counts.

  Args:
    decode: whether to decode every video and count its frames.
    on_progress: called with (records read, total records).
  """
  problems: list[str] = []
  hashes, num_bytes = _check_files(dataset.directory, problems)
  sources = {}
  for split in dataset.splits:
    try:
      sources[split] = dataset.split(split)
    except (DatasetError, CorruptRecordError, OSError) as error:
      problems.append(f"split {split}: {error}")
  total = sum(len(source) for source in sources.values())
  done = 0
  for split, source in sources.items():
    counts = {"present": 0, "segments": 0, "captions": 0}
    ids: set[str] = set()
    infos: dict[int, ExampleInfo] = {}
    for example in _read_all(source, problems):
      done += 1
      on_progress(done, total)
      if example is None:
        continue
      counts["present"] += 1
      counts["segments"] += len(example.labels)
      counts["captions"] += len(example.captions)
      place = f"{split} record {example.index} ({example.id})"
      if example.id in ids:
        problems.append(f"{place}: the id occurs twice in the split")
      ids.add(example.id)
      infos[example.index] = example.info()
      problems += [f"{place}: {text}" for text in _example_problems(example)]
      problems += _index_problems(source, example, place)
      if decode:
        problems += [f"{place}: {text}" for text in _decode_problems(example)]
    problems += _manifest_problems(dataset, split, counts, ids, hashes)
    problems += _metadata_problems(source, split, infos)
    source.close()
  return Verification(
    dataset.name,
    str(dataset.directory),
    len(hashes),
    done,
    num_bytes,
    tuple(problems[:MAX_PROBLEMS]),
  )


def _check_files(
  directory: locations.Location, problems: list[str]
) -> tuple[dict[str, str], int]:
  """Compares files with SHA256SUMS; returns hashes by name and bytes read."""
  path = directory / CHECKSUMS
  try:
    text = untrusted.read_text(CHECKSUMS, folder=directory)
  except FileNotFoundError:
    problems.append(f"{path} is missing; build the dataset again to create it")
    return {}, 0
  except untrusted.UntrustedFileError as error:
    problems.append(f"{path}: {error}")
    return {}, 0
  expected = {
    name: digest for digest, _, name in map(_split_line, text.splitlines())
  }
  num_bytes = 0
  for name, digest in expected.items():
    try:
      found = untrusted.hash_file(
        name, folder=directory, max_bytes=_MAX_FILE_BYTES
      )
    except FileNotFoundError:
      problems.append(f"{name}: the file is missing")
    except (untrusted.UntrustedFileError, OSError) as error:
      problems.append(f"{name}: {error}")
    else:
      if found != digest:
        problems.append(f"{name}: its SHA-256 is not that of the build")
      else:
        num_bytes += (directory / name).stat().st_size
  present = {
    locations.name_below(file, directory)
    for file in directory.rglob("*")
    if (file.is_symlink() or not file.is_dir())
    and file.name not in (CHECKSUMS, record_index.FILE)
  }
  problems += [
    f"{name}: a file that the build did not write"
    for name in sorted(present - set(expected))
  ]
  return expected, num_bytes


def _split_line(line: str) -> tuple[str, str, str]:
  return line.partition("  ")


def _read_all(
  source: RecordSource, problems: list[str]
) -> Iterator[Example | None]:
  """Reads every example; None, with a recorded problem, if unreadable."""
  for index in range(len(source)):
    try:
      yield source[index]
    except CorruptRecordError as error:
      problems.append(str(error))
      yield None


def _example_problems(example: Example) -> Iterator[str]:
  if example.fps <= 0 or example.num_frames < 1 or example.duration_sec <= 0:
    yield (
      f"{example.num_frames} frames at {example.fps} per second, "
      f"{example.duration_sec} s"
    )
  if not example.video:
    yield "the video is empty"
  captions = np.array([c[:2] for c in example.captions], np.float32)
  for name, spans in (
    ("segments", example.segments),
    ("captions", captions.reshape(-1, 2)),
    ("background", example.background),
  ):
    if not len(spans):
      continue
    is_good = (
      np.isfinite(spans).all(axis=1)
      & (spans[:, 0] >= 0)
      & (spans[:, 1] > spans[:, 0])
      & (spans[:, 1] <= example.duration_sec + _END_SLACK_SEC)
    )
    for start, end in spans[~is_good]:
      yield (
        f"{name}: [{start}, {end}] s is not a span of the "
        f"{example.duration_sec} s video"
      )


def _index_problems(
  source: RecordSource, example: Example, place: str
) -> Iterator[str]:
  """Compares the video with the blocks that the index addresses."""
  try:
    video = source.video_blocks(example.index)
    if video is not None and video.read() != example.video:
      yield f"{place}: {record_index.FILE} has another video"
  except CorruptRecordError as error:
    yield f"{place}: {record_index.FILE}: {error}"


def _decode_problems(example: Example) -> Iterator[str]:
  try:
    video = decode_video(
      example.video,
      size=_DECODED_PX,
      max_frames=max(100_000, 2 * example.num_frames),
    )
  except VideoError as error:
    yield f"the video does not decode: {error}"
    return
  if len(video.frames) != example.num_frames:
    yield (
      f"{len(video.frames)} frames decode, the record says {example.num_frames}"
    )


def _manifest_problems(
  dataset: Dataset,
  split: str,
  counts: dict,
  ids: set[str],
  hashes: dict[str, str],
) -> Iterator[str]:
  try:
    manifest = dataset.manifest(split)
  except (DatasetError, ValueError) as error:
    yield f"split {split}: {error}"
    return
  for key, count in counts.items():
    if manifest.get(key) != count:
      yield (
        f"split {split}: the manifest counts {manifest.get(key)} {key}, the "
        f"records have {count}"
      )
  for shard in manifest.get("shards", ()):
    if hashes and shard.get("sha256") != hashes.get(shard["name"]):
      yield (
        f"split {split}: the SHA-256 of {shard['name']} in the manifest is not "
        f"that in {CHECKSUMS}"
      )
  known = manifest.get("videos")
  if known is not None:
    for name in sorted(ids - set(known)):
      yield f"split {split}: {name} is not in the manifest"


def _metadata_problems(
  source: RecordSource, split: str, infos: dict[int, ExampleInfo]
) -> Iterator[str]:
  try:
    table = source.metadata(on_corrupt="skip")
  except (DatasetError, CorruptRecordError) as error:
    yield f"split {split}: {error}"
    return
  for error in table.corrupt:
    yield f"split {split}, metadata: {error}"
  for info in table.examples:
    example = infos.get(info.index)
    if example is None:
      continue  # unreadable and already reported
    for field in dataclasses.fields(info):
      one, other = (
        np.asarray(getattr(it, field.name), dtype=object)
        for it in (info, example)
      )
      if not np.array_equal(one, other):
        yield (
          f"{split} record {info.index}: {field.name} differs between the "
          "shard and the metadata"
        )
