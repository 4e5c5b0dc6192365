"""Decodes planned clips into batches of pixels, tokens, masks and metadata."""

import dataclasses
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import numpy as np

from clap_jax.data.augment import (
  AugmentOptions,
  augment_clip,
  cut_at_random,
)
from clap_jax.data.clips import ClipItem, ClipSampler
from clap_jax.data.decoding import DecodingProcesses, SharedArray
from clap_jax.data.frame_cache import FrameCache, cut_clip
from clap_jax.data.records import ExampleInfo, RecordSource
from clap_jax.data.vocabulary import Vocabulary
from clap_jax.media.decode import (
  DecodedVideo,
  clip_instants,
  decode_clip,
  decode_video,
)
from clap_jax.media.errors import VideoError
from clap_jax.media.frames import frame_sides
from clap_jax.storage.tfrecord import CorruptRecordError
from clap_jax.types import ClipBatch, PairMetadata

_MAX_ATTEMPTS = 20
_T = TypeVar("_T")


class ClipExample(NamedTuple):
  item: ClipItem
  frames: np.ndarray  # uint8 (t, size, size, 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameOptions:
  """Options of decoding the frames of a clip."""

  num_frames: int
  size: int  # px
  mode: str = "squash"  # see frames.FrameConverter
  random_cut: bool = False  # of mode tsp: anywhere, else the centre

  @property
  def decoded_mode(self) -> str:
    is_cut_later = self.mode == "tsp" and self.random_cut
    return "tsp_whole" if is_cut_later else self.mode


class BadRecords:
  """Unusable records by name, with the reason; thread-safe."""

  def __init__(self):
    self._reasons: dict[str, str] = {}
    self._lock = threading.Lock()

  def add(self, name: str, reason: str) -> None:
    with self._lock:
      self._reasons.setdefault(name, reason)

  def __len__(self) -> int:
    return len(self._reasons)

  @property
  def reasons(self) -> dict[str, str]:
    with self._lock:
      return dict(self._reasons)


class FrameLoader:
  """Loads frames of planned clips, through the cache if there is one."""

  def __init__(
    self,
    records: RecordSource,
    options: FrameOptions,
    *,
    augment: AugmentOptions = AugmentOptions(),
    cache: FrameCache | None = None,
    infos: Sequence[ExampleInfo] = (),
  ):
    """Creates a loader; reads nothing yet.

    Args:
      augment: augmentation of training clips.
      cache: cache of decoded videos.
      infos: metadata of the videos; required with a cache or processes.
    """
    self._records = records
    self._options = options
    self._augment = augment
    self._cache = cache
    self._infos = {info.index: info for info in infos}

  @property
  def frame_shape(self) -> tuple[int, int, int, int]:
    size = self._options.size
    return self._options.num_frames, size, size, 3

  @property
  def origin(self) -> dict[str, Any]:
    """Returns what decoding_worker.py needs besides the records' location."""
    return {
      "options": dataclasses.asdict(self._options),
      "augment": dataclasses.asdict(self._augment),
    }

  def request(self, item: ClipItem, *, row: int) -> dict[str, Any]:
    """Returns the JSON request to decoding_worker.py for a row's frames."""
    fields = {
      "record_index": int(item.record_index),
      "start_sec": float(item.start_sec),
      "end_sec": float(item.end_sec),
      "is_action": bool(item.is_action),
      "seed": int(item.seed),
    }
    offset = row * math.prod(self.frame_shape)
    video_id = self._infos[item.record_index].id
    return {"item": fields, "id": video_id, "offset": offset}

  def frames(self, item: ClipItem) -> np.ndarray:
    """Returns the frames of a clip, uint8 (t, size, size, 3).

    Raises:
      CorruptRecordError: the record is damaged.
      VideoError: its video is damaged.
    """
    times = {
      "start_sec": item.start_sec,
      "clip_sec": item.end_sec - item.start_sec,
      "num_frames": self._options.num_frames,
    }
    options = self._options
    video = self._cached(item.record_index)
    if video is not None:
      frames = cut_clip(video, **times)
    else:
      instants = clip_instants(**times)
      with self._records.open_video(
        item.record_index, start_sec=instants[0], last_sec=instants[-1]
      ) as encoded:
        frames = decode_clip(
          encoded, size=options.size, mode=options.decoded_mode, **times
        )
    if options.decoded_mode != options.mode:
      frames = cut_at_random(frames, options.size, seed=item.seed)
    return augment_clip(frames, self._augment, seed=item.seed)

  def _cached(self, record_index: int) -> DecodedVideo | None:
    if self._cache is None or record_index not in self._infos:
      return None
    height, width = frame_sides(self._options.size, self._options.decoded_mode)
    num_frames = self._infos[record_index].num_frames

    def decode() -> DecodedVideo:
      return decode_video(
        self._records[record_index].video,
        size=self._options.size,
        mode=self._options.decoded_mode,
      )

    return self._cache.get(
      record_index,
      expected_bytes=num_frames * height * width * 3,
      decode=decode,
    )


class _ClipBatches:
  """Collates the clips of a source to batches."""

  def __init__(
    self, loader: FrameLoader, *, tokenizer: Vocabulary, text_length: int
  ):
    self._loader = loader
    self._tokenizer = tokenizer
    self._text_length = text_length

  def collate(
    self, examples: Sequence[ClipExample], *, batch_size: int
  ) -> ClipBatch:
    """Stacks clips and pads to `batch_size` rows with valid = False.

    Rows without text hold the tokens of the empty text, so that every row has a
    valid token; `pairs.has_text` is False for them.

    Raises:
      ValueError: more than `batch_size` clips, or frames of different shapes.
    """
    if len(examples) > batch_size:
      raise ValueError(f"{len(examples)} clips for a batch of {batch_size}")
    frames = np.zeros((batch_size, *self._loader.frame_shape), np.uint8)
    for row, example in enumerate(examples):
      frames[row] = example.frames
    return self._described([example.item for example in examples], frames)

  def _described(
    self, items: Sequence[ClipItem], frames: np.ndarray
  ) -> ClipBatch:
    """Combines frames with the texts and metadata of their clips."""
    batch_size = len(frames)
    texts = [item.text for item in items] + [""] * (batch_size - len(items))
    tokens, mask = self._tokenizer.encode(texts, length=self._text_length)
    return ClipBatch(frames, tokens, mask, pair_metadata(items, batch_size))


class RecordsLocation(NamedTuple):
  """The split of the records, for worker processes to open."""

  directory: str  # of the version of the dataset
  dataset: str
  split: str


class ClipSource(_ClipBatches):
  """Yields training clips; item `index` is a function of (seed, index).

  A clip of an unreadable record is replaced by another one, which depends on
  (seed, index) only, and the record is listed in `bad_records`.
  """

  def __init__(
    self,
    sampler: ClipSampler,
    loader: FrameLoader,
    *,
    tokenizer: Vocabulary,
    text_length: int,
    place: RecordsLocation | None = None,
  ):
    """Creates a source; `place` is the split of the loader's records."""
    super().__init__(loader, tokenizer=tokenizer, text_length=text_length)
    self._sampler = sampler
    self._place = place
    self.bad_records = BadRecords()

  def __len__(self) -> int:
    return len(self._sampler)

  def item(self, index: int, *, seed: int) -> ClipExample:
    return ClipExample(*self._first_good(index, seed, self._loader.frames))

  def start_processes(self, number: int) -> DecodingProcesses:
    """Starts decoding processes for `batch_of`; the caller closes them."""
    assert self._place is not None
    origin = self._place._asdict() | self._loader.origin
    return DecodingProcesses(number, origin)

  def batch_of(
    self, indices: Sequence[int], *, seed: int, processes: DecodingProcesses
  ) -> ClipBatch:
    """Returns the batch of given items, decoded by processes."""
    memory = SharedArray((len(indices), *self._loader.frame_shape))

    def start(item: ClipItem, row: int) -> Future:
      return processes.submit(self._loader.request(item, row=row), memory)

    items = [self._sampler.item(index, seed=seed) for index in indices]
    started = [start(item, row) for row, item in enumerate(items)]
    for row, (index, first) in enumerate(zip(indices, items, strict=True)):

      def decode(item: ClipItem, row: int = row) -> None:
        is_first = item is items[row]
        (started[row] if is_first else start(item, row)).result()

      items[row], _ = self._first_good(index, seed, decode, first=first)
    return self._described(items, memory.array)

  def _first_good(
    self,
    index: int,
    seed: int,
    decode: Callable[[ClipItem], _T],
    *,
    first: ClipItem | None = None,
  ) -> tuple[ClipItem, _T]:
    """Returns an item, or its first substitute that can be decoded."""
    reason = ""
    for attempt in range(_MAX_ATTEMPTS):
      item = first if attempt == 0 else None
      item = item or self._sampler.item(index, seed=seed, attempt=attempt)
      try:
        return item, decode(item)
      except (CorruptRecordError, VideoError) as error:
        reason = str(error)
        self.bad_records.add(f"record {item.record_index}", reason)
    raise VideoError(
      f"{_MAX_ATTEMPTS} unreadable records in a row; the last: {reason}"
    )


class EvaluationClipSource(_ClipBatches):
  """Yields a fixed list of clips once each; raises on an unreadable one."""

  def __init__(
    self,
    items: Sequence[ClipItem],
    loader: FrameLoader,
    *,
    tokenizer: Vocabulary,
    text_length: int,
  ):
    super().__init__(loader, tokenizer=tokenizer, text_length=text_length)
    self._items = items

  def __len__(self) -> int:
    return len(self._items)

  @property
  def text_ids(self) -> np.ndarray:
    """Returns the text id of each clip without decoding pixels."""
    return np.array([item.text_id for item in self._items], np.int32)

  def __getitem__(self, index: int) -> ClipExample:
    item = self._items[index]
    return ClipExample(item, self._loader.frames(item))


def pair_metadata(items: Sequence[ClipItem], batch_size: int) -> PairMetadata:
  """Returns the metadata of clips, padded to `batch_size` rows."""

  def column(values: list, dtype: type, padding: float = 0) -> np.ndarray:
    values = values + [padding] * (batch_size - len(values))
    return np.asarray(values, dtype)

  return PairMetadata(
    text_id=column([item.text_id for item in items], np.int32, -1),
    class_id=column([item.class_id for item in items], np.int32, -1),
    video_id=column([item.record_index for item in items], np.int32, -1),
    clip_start_sec=column([item.start_sec for item in items], np.float32),
    clip_end_sec=column([item.end_sec for item in items], np.float32),
    caption_start_sec=column(
      [item.caption_start_sec for item in items], np.float32
    ),
    caption_end_sec=column(
      [item.caption_end_sec for item in items], np.float32
    ),
    is_action=column([item.is_action for item in items], np.bool_),
    has_text=column([item.has_text for item in items], np.bool_),
    generic_text=column([item.generic_text for item in items], np.bool_),
    valid=column([True] * len(items), np.bool_, False),
    action_share=column([item.action_share for item in items], np.float32),
  )
