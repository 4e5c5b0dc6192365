"""Evaluates end-to-end localization on whole videos."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from clap_jax.data import (
  clip_reader,
  clip_sequences,
  feature_reader,
  feature_windows,
  features,
  frame_cache,
  records,
)
from clap_jax.evaluation import localization
from clap_jax.evaluation import predictor as predictor_lib
from clap_jax.media import errors
from clap_jax.models import long_video
from clap_jax.storage import tfrecord
from clap_jax.training import mesh as mesh_lib

_LENGTH_MULTIPLE = 16
# Placeholders of a video number in rows without a clip.
_NO_VIDEO = -1  # padding
_FAILED = -2  # minus the number of an undecodable video


@dataclasses.dataclass(frozen=True)
class EncodedVideos(feature_reader.FeatureReader):
  """Features of the current tower, in place of feature files."""

  encoded: Mapping[str, Mapping[str, features.VideoFeatures]]  # split -> id
  metadata: Mapping[str, Any]  # as `clap extract` writes it

  @property
  def extraction(self):
    return dict(self.metadata)

  def features(self, split: str):
    return self.encoded[split]


@dataclasses.dataclass(frozen=True)
class Videos:
  """Opens the videos that the config names, split by split."""

  config: Any  # EndToEndConfig
  metadata: dict  # encoder.json: the shape of a clip

  @functools.cached_property
  def dataset(self) -> records.Dataset:
    return records.open_dataset(
      self.config.data.data_dir, self.config.data.dataset
    )

  @functools.cached_property
  def _cache(self) -> dict[str, frame_cache.FrameCache]:
    data = self.config.data
    # A split that is used twice gets two shares of the memory.
    shares = collections.Counter()
    for split in (data.train_split, data.selection_split, data.eval_split):
      shares[split] += 1
    return {
      split: frame_cache.FrameCache(data.cache_mib * share / 3)
      for split, share in shares.items()
    }

  def source(self, split: str) -> clip_sequences.ClipSequenceSource:
    data = self.config.data
    clip = clip_reader.ClipShape(**self.metadata["clip"])
    # `clap eval` can open another split.
    cache = self._cache.get(split, frame_cache.FrameCache(0.0))
    return clip_sequences.ClipSequenceSource(
      self.dataset.split(split),
      self.dataset.examples(split),
      clips=clip_sequences.ClipOptions(
        clip_sec=clip.clip_sec,
        stride_sec=data.stride_sec,
        num_frames=clip.num_frames,
        size=clip.image_size,
        mode=clip.resize,
      ),
      windows=feature_windows.SequenceOptions(
        max_length=data.max_length, crop_probability=data.crop_probability
      ),
      cache=cache,
    )


class Evaluator(localization.Evaluator):
  """Computes the mAP of parameters on a split; encodes every clip."""

  def __init__(self, config, metadata, videos: Videos, task):
    super().__init__(config, videos, task.localizer, videos.dataset.label_names)
    self._metadata = metadata
    self._videos = videos
    self._sources: dict[str, clip_sequences.ClipSequenceSource] = {}
    self._padded_length = None  # every video is as long as the longest
    mesh = mesh_lib.make_mesh(config.mesh)
    self._encode = predictor_lib.Predictor(
      lambda tower, batch: {
        "features": task.encode(tower, batch["clips"]),
        "video": batch["video"],
      },
      mesh=mesh,
      batch_size=long_video.clips_per_device() * mesh.size,
    )

  def __call__(self, params, split: str):
    """Returns metrics and the detections that they score."""
    self._reader = self._read(params["tower"], split)
    return super().__call__(params["localizer"], split)

  def card_facts(self) -> dict[str, Any]:
    config = self._config
    frozen = [pattern for pattern, rate in config.optimizer.groups if not rate]
    note = (
      "end to end: the video tower is trained with the localizer, "
      + (f"frozen {', '.join(frozen)}" if frozen else "nothing frozen")
      + ("; from a trained head" if config.tower.localizer_workdir else "")
    )
    return super().card_facts() | {"notes": (note,)}

  def _read(self, tower, split: str) -> EncodedVideos:
    if split not in self._sources:
      self._sources[split] = self._videos.source(split)
    source, data = self._sources[split], self._config.data
    encoded = encode_all(source, self._encode, tower)
    longest = max(len(video.features) for video in encoded.values())
    return EncodedVideos(
      config=feature_reader.FeatureData(
        dataset=data.dataset,
        data_dir=data.data_dir,
        features_dir="",
        train_split=data.train_split,
        selection_split=data.selection_split,
        eval_split=data.eval_split,
        batch_size=data.batch_size,
        max_length=max(
          data.max_length, -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
        ),
        crop_probability=0.0,
        num_threads=data.num_threads,
      ),
      encoded={split: encoded},
      metadata={
        "encoder": self._metadata["encoder"],
        "seed": self._metadata["seed"],
        "dataset": data.dataset,
        "stride_sec": data.stride_sec,
        "parameters": "trained with the localizer",
      },
    )


def encode_all(
  source: clip_sequences.ClipSequenceSource,
  encode: predictor_lib.Predictor,
  tower,
) -> dict[str, features.VideoFeatures]:
  """Encodes every decodable video, a few clips at a time.

  Each process decodes its share of the videos and gets the features of all.
  Every row of a batch carries the number of its video, so that no process reads
  the videos of another.

  Args:
    encode: (tower, {"clips", "video"}) -> {"features", "video"}.
  """
  tower = encode.place(tower)
  share, num_shares = encode.share
  clips = _numbered_clips(
    source, range(share, len(source.examples), num_shares)
  )
  rows: dict[int, list[np.ndarray]] = {}
  while True:
    waiting = list(itertools.islice(clips, len(encode.rows)))
    if num_shares == 1 and not waiting:
      break
    output = encode.of_rows(tower, _batch(waiting, source, len(encode.rows)))
    for number, row in zip(output["video"], output["features"], strict=True):
      if number >= 0:
        rows.setdefault(int(number), []).append(row)
      elif number != _NO_VIDEO:
        _leave_out(source, source.examples[_FAILED - int(number)])
    if (output["video"] == _NO_VIDEO).all():  # all processes are done
      break
  return {
    source.examples[number].id: features.VideoFeatures(
      np.stack(rows[number]), source.grid
    )
    for number in sorted(rows)
    if source.examples[number].id not in source.bad_videos.reasons
  }


def _numbered_clips(
  source: clip_sequences.ClipSequenceSource, numbers: Iterable[int]
) -> Iterator[tuple[int, np.ndarray | None]]:
  """Yields (video number, clip); (_FAILED - number, None) on failure."""
  for number in numbers:
    info = source.examples[number]
    try:
      for clip in source.stream(info):
        yield number, clip
    except (errors.VideoError, tfrecord.CorruptRecordError) as error:
      source.leave_out(info, error)
      yield _FAILED - number, None


def _batch(waiting, source: clip_sequences.ClipSequenceSource, size: int):
  """Stacks clips and their video numbers, padded to `size` rows."""
  clips = np.zeros((size, *source.clip_shape), np.uint8)
  video = np.full(size, _NO_VIDEO, np.int32)
  for row, (number, clip) in enumerate(waiting):
    video[row] = number
    if clip is not None:
      clips[row] = clip
  return {"clips": clips, "video": video}


def _leave_out(source: clip_sequences.ClipSequenceSource, info) -> None:
  """Records videos that another process could not decode."""
  if info.id not in source.bad_videos.reasons:
    source.leave_out(
      info, errors.VideoError("another process cannot decode it")
    )
