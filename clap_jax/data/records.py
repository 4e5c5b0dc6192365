"""Opens built datasets: versions, splits, manifests and records.

The directory follows TFDS's convention, DATA_DIR/<name>/<config>/<version>/,
with TFRecord shards and their `.idx` sidecars. TensorFlow is not imported.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import re
import threading
from collections.abc import Iterator, Mapping

import numpy as np

from clap_jax.data import dataset_files, examples
from clap_jax.data.dataset_files import DatasetError
from clap_jax.data.examples import Example, ExampleInfo
from clap_jax.data.video_blocks import VideoBlocks
from clap_jax.storage import framing, locations, record_index, untrusted
from clap_jax.storage.tfrecord import CorruptRecordError, ShardReader

METADATA_FILE = "metadata.tfrecord"
_OPENED_AT_ONCE = 16
_NAME = re.compile(
  r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?"
)


@dataclasses.dataclass(frozen=True)
class MetadataTable:
  """Metadata of all readable examples of a split, in split order."""

  examples: tuple[ExampleInfo, ...]
  corrupt: tuple[CorruptRecordError, ...]  # the records that were left out


class RecordSource:
  """Random access to the examples of one split; thread-safe."""

  def __init__(
    self,
    shards: list[str],
    *,
    name: str,
    folder: locations.Location,
    metadata: str | None = None,
    sizes: Mapping[str, int] | None = None,
    index: Mapping[str, record_index.ShardIndex] | None = None,
  ):
    """Opens the shards.

    Args:
      shards: shard files within the folder.
      name: name of the split, for messages.
      metadata: file of the records without videos.
      sizes: sizes of shards in a bucket, by name.
      index: index by shard name; None reads the sidecar of each shard.
    """
    self.name = name
    self._folder = folder
    self._metadata_file = metadata
    self._index = index or {}

    def open_shard(path: str) -> ShardReader:
      known = self._index.get(path)
      return ShardReader(
        path,
        folder=folder,
        size=sizes[path] if sizes else None,
        offsets=None if known is None else known.records["offset"],
      )

    with concurrent.futures.ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
      self._shards = list(pool.map(open_shard, shards))
    self._ends = np.cumsum([len(shard) for shard in self._shards])
    self._metadata: MetadataTable | None = None
    self._ids: dict[int, str] = {}  # by position, where the metadata says so
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self._ends) else 0

  @property
  def shard_lengths(self) -> list[int]:
    return [len(shard) for shard in self._shards]

  @property
  def shards(self) -> tuple[ShardReader, ...]:
    return tuple(self._shards)

  def locate(self, index: int) -> tuple[ShardReader, int]:
    """Returns the shard of record `index`, and its number in the shard."""
    if not 0 <= index < len(self):
      raise IndexError(f"record {index} of {self.name}, which has {len(self)}")
    shard = int(np.searchsorted(self._ends, index, side="right"))
    first = int(self._ends[shard - 1]) if shard else 0
    return self._shards[shard], index - first

  def __getitem__(self, index: int) -> Example:
    """Reads, checks and parses record `index`.

    Raises:
      IndexError: `index` is outside the split.
      CorruptRecordError: a checksum fails, the record does not parse, or it
        disagrees with metadata that was read before.
    """
    shard, number = self.locate(index)
    example = self._parse(shard, number, index=index)
    expected = self._ids.get(index, example.id)
    if example.id != expected:
      raise shard.corrupt(
        number, f"it holds {example.id} where {METADATA_FILE} says {expected}"
      )
    return example

  @contextlib.contextmanager
  def open_video(
    self, index: int, *, start_sec: float, last_sec: float
  ) -> Iterator[bytes | VideoBlocks]:
    """Opens the video of record `index` for frames between two times.

    If the dataset has an index, only the blocks needed for decoding are read
    and checked, otherwise the whole record. Errors as `self[index]`.
    """
    video = self.video_blocks(index)
    if video is None:
      yield self[index].video
      return
    video.load(start_sec=start_sec, last_sec=last_sec)
    with video.raising_failures():
      yield video

  def video_blocks(self, index: int) -> VideoBlocks | None:
    """Returns the video of record `index` by blocks; None without an index.

    Raises:
      CorruptRecordError: the index has another video.
    """
    shard, number = self.locate(index)
    known = self._index.get(shard.path.name)
    if known is None or not len(known.blocks_of(number)):
      return None
    expected = self._ids.get(index)
    id_checksum = int(known.records["id_checksum"][number])
    if expected and framing.masked_crc32c(expected.encode()) != id_checksum:
      raise shard.corrupt(
        number,
        f"it holds another video than {expected}, which {METADATA_FILE} says",
      )
    return VideoBlocks(shard, known, number)

  def expect_id(self, index: int, video_id: str) -> None:
    """Treats record `index` as damaged if it has another video id."""
    self._ids[index] = video_id

  def _parse(self, shard: ShardReader, number: int, *, index: int) -> Example:
    data = shard.read(number)
    try:
      return examples.parse(data, index)
    except Exception as error:
      # Protobuf raises many kinds, and missing values others; callers treat
      # them alike, as an unusable record.
      reason = f"it does not parse ({type(error).__name__}: {error})"
      raise shard.corrupt(number, reason) from error

  def metadata(self, *, on_corrupt: str = "raise") -> MetadataTable:
    """Returns every example without its video; read once, then cached.

    If the builder also wrote the records without videos, only those are read: a
    damaged video is then detected when it is read.

    Args:
      on_corrupt: 'raise', or 'skip' to leave damaged records out and list them
        in the table's `corrupt`.
    """
    with self._lock:
      if self._metadata is None:
        self._metadata = self._read_metadata()
    if self._metadata.corrupt and on_corrupt == "raise":
      raise self._metadata.corrupt[0]
    return self._metadata

  def _read_metadata(self) -> MetadataTable:
    light = self._open_light()
    examples, corrupt = [], []
    for index in range(len(self)):
      place = (light, index) if light else self.locate(index)
      try:
        examples.append(self._parse(*place, index=index).info())
      except CorruptRecordError as error:
        corrupt.append(error)
    if light:
      light.close()
      self._ids = {info.index: info.id for info in examples}
    return MetadataTable(tuple(examples), tuple(corrupt))

  def _open_light(self) -> ShardReader | None:
    if self._metadata_file is None:
      return None
    try:
      light = ShardReader(self._metadata_file, folder=self._folder, copied=True)
    except untrusted.UntrustedFileError as error:
      raise DatasetError(f"{self.name}: {error}") from error
    if len(light) != len(self):
      raise DatasetError(
        f"{light.path} has {len(light)} records, the shards of "
        f"{self.name} have {len(self)}; build the dataset again"
      )
    return light

  def close(self) -> None:
    for shard in self._shards:
      shard.close()


class Dataset:
  """A built dataset; see `open_dataset`."""

  def __init__(
    self,
    directory: locations.Location,
    *,
    name: str,
    sizes: Mapping[str, int] | None = None,
  ):
    """Reads the documents; takes `dataset_files.listed_sizes`, if known."""
    self.name = name
    self._sizes = sizes
    self.directory = directory
    info = dataset_files.read_info(directory)
    self._builder_name, self._shard_lengths = info
    dataset_files.check_feature_classes(directory)
    self.label_names = dataset_files.read_label_names(directory)
    self.label_ids: dict[int, str] = {}  # as annotation files state them
    self._readable = functools.cache(
      lambda split: self.split(split).metadata(on_corrupt="skip")
    )

  @property
  def splits(self) -> tuple[str, ...]:
    return tuple(self._shard_lengths)

  def class_ids(self, names: list[str] | tuple[str, ...]) -> frozenset[int]:
    """Returns ids of classes by name; unknown names raise with the choices."""
    unknown = sorted(set(names) - set(self.label_names))
    if unknown:
      raise DatasetError(
        f"unknown classes {unknown} of {self.name}; choose from "
        f"{', '.join(self.label_names)}"
      )
    return frozenset(self.label_names.index(name) for name in names)

  def manifest(self, split: str) -> dict:
    """Reads the builder's record of found and omitted videos."""
    self._check_split(split)
    try:
      return dataset_files.read_manifest(self.directory, split)
    except FileNotFoundError as error:
      raise DatasetError(
        f"{self.directory / split} has no {dataset_files.MANIFEST_FILE}; build "
        f"{self.name} again"
      ) from error

  def absent(self, split: str) -> tuple[str, ...]:
    """Returns ids of videos that the annotations have and the dataset lacks.

    First missing files, then undecodable ones, then those that were left out.
    """
    manifest = self.manifest(split)
    return (
      *manifest["missing"],
      *(entry["id"] for entry in manifest["corrupt"]),
      *(entry["id"] for entry in manifest.get("excluded", ())),
    )

  def damaged(self, split: str) -> tuple[CorruptRecordError, ...]:
    """Returns the errors of records with unreadable annotations."""
    return self._readable(split).corrupt

  def examples(self, split: str) -> tuple[ExampleInfo, ...]:
    """Returns the readable examples of a split, without their videos."""
    return self._readable(split).examples

  def subset_note(self, split: str) -> str | None:
    """Returns the card's note on missing videos; None if none is missing.

    It counts annotated videos that are not in the dataset, and spans of the
    others that the builder left out.
    """
    manifest = self.manifest(split)
    num_absent = len(self.absent(split))
    present = int(sum(self._shard_lengths[split]))
    limit = manifest.get("subset")
    if limit is not None:
      annotated = manifest.get("annotated", {}).get("videos", 0)
      num_absent = max(annotated - present, num_absent)
    parts = []
    if num_absent or limit is not None:
      built = f", built with at most {limit} per split" if limit else ""
      parts.append(
        f"a subset: {present} videos of {split} are in the dataset and "
        f"{num_absent} annotated ones are not{built}; not comparable with "
        "scores of the whole split"
      )
    if rejected := len(manifest.get("rejected", ())):
      parts.append(
        f"{rejected} annotations of {split} could not be used, see rejected in "
        "its manifest.json"
      )
    return "; ".join(parts) or None

  @functools.cached_property
  def index(self) -> dict[str, record_index.ShardIndex]:
    """Returns the index by shard; empty if the dataset has no index file.

    Raises:
      DatasetError: the index is damaged.
    """
    try:
      return record_index.read(self.directory)
    except FileNotFoundError:
      return {}
    except untrusted.UntrustedFileError as error:
      raise DatasetError(str(error)) from error

  def split(self, split: str, *, indexed: bool = True) -> RecordSource:
    """Opens a split and checks its shards against dataset_info.json.

    Args:
      indexed: whether to use the dataset's index, if it has one.

    Raises:
      DatasetError: the split is unknown, or shards are missing, extra, or of
        another length or size than the builder recorded.
      CorruptRecordError: an index does not match its shard.
    """
    self._check_split(split)
    lengths, place = self._shard_lengths[split], f"{split} of {self.directory}"
    stem = f"{self._builder_name}-{split}.tfrecord-"
    expected = [
      f"{stem}{number:05d}-of-{len(lengths):05d}"
      for number in range(len(lengths))
    ]
    sizes = self._sizes or dataset_files.listed_sizes(self.directory)
    names = sizes or [path.name for path in self.directory.iterdir()]
    present = {
      name
      for name in names
      if name.startswith(stem) and not name.endswith(".idx")
    }
    missing = sorted(set(expected) - present)
    extra = sorted(present - set(expected))
    if missing or extra:
      raise DatasetError(
        f"split {place}: shards missing {missing}, unexpected {extra}; remove "
        "unexpected files or build it again"
      )

    def is_there(name: str) -> bool:
      return name in sizes if sizes else (self.directory / name).exists()

    metadata = f"{split}/{METADATA_FILE}"
    try:
      source = RecordSource(
        expected,
        name=f"{self.name} {split}",
        folder=self.directory,
        metadata=metadata if is_there(metadata) else None,
        sizes=sizes,
        index=self.index if indexed else None,
      )
    except untrusted.UntrustedFileError as error:
      raise DatasetError(f"split {place}: {error}") from error
    if source.shard_lengths != lengths:
      raise DatasetError(
        f"split {place}: shards hold {source.shard_lengths} records, "
        f"dataset_info.json says {lengths}; build it again"
      )
    if indexed and self.index:
      self._check_index(source)
    elif is_there(f"{split}/{dataset_files.MANIFEST_FILE}"):
      self._check_sizes(split, source)
    return source

  def _check_index(self, source: RecordSource) -> None:
    """Refuses an index that does not match the shards."""
    for shard in source.shards:
      known = self.index.get(shard.path.name)
      if known is None or known.num_bytes != shard.num_bytes:
        raise DatasetError(
          f"{self.directory / record_index.FILE} is not of {shard.path.name}, "
          f"of {shard.num_bytes} bytes; `clap data upgrade` recreates it"
        )

  def _check_sizes(self, split: str, source: RecordSource) -> None:
    """Refuses shards of another build with the same number of records."""
    path = self.directory / split / dataset_files.MANIFEST_FILE
    known = {shard.path.name: shard.num_bytes for shard in source.shards}
    for entry in self.manifest(split).get("shards", ()):
      name, expected = entry["name"], entry.get("bytes")
      if name not in known or type(expected) is not int:
        raise DatasetError(
          f"{path} is damaged: its shards have {entry!r:.200}, expected one of "
          f"{', '.join(known)}"
        )
      if known[name] != expected:
        raise DatasetError(
          f"{self.directory / name} has {known[name]} bytes, {path} says "
          f"{expected}: it is of another build or truncated; copy it again or "
          "build it again"
        )

  def _check_split(self, split: str) -> None:
    if split not in self._shard_lengths:
      raise DatasetError(
        f"unknown split {split!r} of {self.name}; choose from "
        f"{', '.join(self.splits)}"
      )


def open_dataset(data_dir: locations.PathLike, name: str) -> Dataset:
  """Opens the newest version of a built dataset.

  Args:
    data_dir: output directory of `clap build`.
    name: `<name>` or `<name>/<config>`, e.g. 'motion_sprites/demo', with
      ':<version>' appended for an older version.

  Raises:
    DatasetError: no such dataset; the message lists those that exist.
  """
  base, _, version = name.partition(":")
  if not _NAME.fullmatch(base) or (
    version and not dataset_files.VERSION.fullmatch(version)
  ):
    raise DatasetError(
      f"{name!r} is not a dataset name; expected name or name/config, "
      "optionally followed by :major.minor.patch"
    )
  root = locations.at(data_dir)
  versions = dataset_files.versions(root / base)
  wanted = [key for key in versions if version in ("", key)]
  if not wanted:
    found = ", ".join(dataset_files.list_datasets(root)) or "no built dataset"
    raise DatasetError(f"no dataset {name!r} in {root}; there is {found}")
  newest = max(wanted, key=lambda key: [int(n) for n in key.split(".")])
  return Dataset(root / base / newest, name=base, sizes=versions[newest])
