"""Reads whole videos as sequences of clips for end-to-end training.

Windows, segments and video order are those of frozen features: here the
"feature" of a clip is its number, from which its frames are then cut.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from clap_jax.data import clip_source, feature_sources, features, frame_cache
from clap_jax.data.feature_windows import SequenceOptions
from clap_jax.data.records import ExampleInfo, RecordSource
from clap_jax.media import decode
from clap_jax.media.errors import VideoError
from clap_jax.storage.tfrecord import CorruptRecordError
from clap_jax.types import ClipSequenceBatch

_MAX_TRIES = 20  # bad videos in a row before training gives up
_BAD_VIDEO = (CorruptRecordError, VideoError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipOptions:
  """Options of clips [i * stride_sec, + clip_sec) of equally spaced frames."""

  clip_sec: float
  stride_sec: float
  num_frames: int
  size: int  # pixels, both sides
  mode: str = "squash"  # see frames.FrameConverter

  @property
  def grid(self) -> features.FeatureGrid:
    return features.FeatureGrid(
      start_sec=0.0, stride_sec=self.stride_sec, clip_sec=self.clip_sec
    )


class ClipSequenceExample(NamedTuple):
  clips: np.ndarray  # uint8 (n, t, size, size, 3), of the valid steps only
  example: feature_sources.LocalizationExample


class ClipSequenceSource:
  """Yields training windows of videos; item i is a function of (seed, i).

  A video that cannot be decoded is replaced by the next one in order and listed
  in `bad_videos`.
  """

  def __init__(
    self,
    records: RecordSource,
    examples: Sequence[ExampleInfo],
    *,
    clips: ClipOptions,
    windows: SequenceOptions,
    cache: frame_cache.FrameCache,
  ):
    """Lists the videos; raises a FeatureError if there are none."""
    self._records = records
    self._clips = clips
    self.cache = cache
    self._max_length = windows.max_length
    numbers = {
      info.id: features.VideoFeatures(
        np.arange(self.num_clips(info), dtype=np.float32)[:, None], clips.grid
      )
      for info in examples
    }
    self._windows = feature_sources.LocalizationSource(
      examples, numbers, options=windows
    )
    self.examples = self._windows.examples
    self.bad_videos = clip_source.BadRecords()

  def __len__(self) -> int:
    return len(self.examples)

  @property
  def grid(self) -> features.FeatureGrid:
    return self._clips.grid

  @property
  def clip_shape(self) -> tuple[int, ...]:
    """Returns the shape of a clip: (t, size, size, 3)."""
    size = self._clips.size
    return (self._clips.num_frames, size, size, 3)

  def num_clips(self, info: ExampleInfo) -> int:
    return self._clips.grid.num_features(info.duration_sec)

  def item(self, index: int, *, seed: int) -> ClipSequenceExample:
    """Returns a random window of a video.

    Raises:
      VideoError: many videos in a row cannot be decoded.
    """
    for attempt in range(_MAX_TRIES):
      # A step of one epoch and one item yields another video in any order.
      number = index + attempt * (len(self) + 1)
      example = self._windows.item(number, seed=seed)
      info = self.examples[example.video_index]
      if info.id in self.bad_videos.reasons:
        continue
      numbers = example.features[example.mask, 0].astype(np.int64)
      try:
        return ClipSequenceExample(self._cut(info, numbers), example)
      except _BAD_VIDEO as error:
        self.leave_out(info, error)
    raise VideoError(
      f"{_MAX_TRIES} videos in a row cannot be decoded: "
      f"{self.bad_videos.reasons}"
    )

  def leave_out(self, info: ExampleInfo, error: Exception) -> None:
    """Records a video that cannot be used."""
    self.bad_videos.add(info.id, str(error))
    print(f"left out video {info.id}: {error}", file=sys.stderr)

  def collate(
    self, examples: Sequence[ClipSequenceExample], *, batch_size: int
  ) -> ClipSequenceBatch:
    """Pads to `batch_size` rows of `max_length` clips."""
    batch = self._windows.collate(
      [item.example for item in examples], batch_size=batch_size
    )
    shape = examples[0].clips.shape[1:]
    clips = np.zeros((batch_size, self._max_length, *shape), np.uint8)
    for row, item in enumerate(examples):
      clips[row, : len(item.clips)] = item.clips
    fields = batch._asdict()
    fields.pop("features")
    return ClipSequenceBatch(clips=clips, **fields)

  def stream(self, info: ExampleInfo) -> Iterator[np.ndarray]:
    """Yields all clips of a video in order, uint8 (t, size, size, 3) each.

    Raises:
      VideoError, CorruptRecordError: the video cannot be decoded; may be raised
        after some clips.
    """
    video = self._decoded(info)
    if video is None:
      for clip in self._iter_clips(info):
        yield clip.frames
    else:
      for number in range(self.num_clips(info)):
        yield self._cut_one(video, number)

  def _cut(self, info: ExampleInfo, numbers: np.ndarray) -> np.ndarray:
    """Cuts clips of consecutive numbers: (n, t, size, size, 3)."""
    video = self._decoded(info)
    if video is not None:
      return np.stack([self._cut_one(video, n) for n in numbers])
    wanted, chosen = set(numbers.tolist()), []
    for number, clip in enumerate(self._iter_clips(info)):
      if number in wanted:
        chosen.append(clip.frames)
      if len(chosen) == len(wanted):
        return np.stack(chosen)
    # The file is slightly shorter than its record states.
    last = chosen[-1] if chosen else clip.frames
    return np.stack([*chosen, *[last] * (len(wanted) - len(chosen))])

  def _cut_one(self, video: decode.DecodedVideo, number: int) -> np.ndarray:
    return frame_cache.cut_clip(
      video,
      start_sec=number * self._clips.stride_sec,
      clip_sec=self._clips.clip_sec,
      num_frames=self._clips.num_frames,
    )

  def _iter_clips(self, info: ExampleInfo) -> Iterator[decode.DecodedClip]:
    return decode.iter_clips(
      self._records[info.index].video,
      clip_sec=self._clips.clip_sec,
      stride_sec=self._clips.stride_sec,
      num_frames=self._clips.num_frames,
      size=self._clips.size,
      mode=self._clips.mode,
    )

  def _decoded(self, info: ExampleInfo) -> decode.DecodedVideo | None:
    """Returns the whole decoded video if the cache has room for it."""
    return self.cache.get(
      info.index,
      expected_bytes=info.num_frames * self._clips.size**2 * 3,
      decode=lambda: decode.decode_video(
        self._records[info.index].video,
        size=self._clips.size,
        mode=self._clips.mode,
      ),
    )
