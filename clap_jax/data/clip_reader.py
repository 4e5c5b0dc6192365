"""Reads clips and texts of a built dataset for pre-training."""

import dataclasses
import functools

from clap_jax import config as config_lib
from clap_jax.data import (
  augment,
  class_splits,
  clip_source,
  clips,
  decoding,
  frame_cache,
  records,
  vocabulary,
)


@dataclasses.dataclass(frozen=True)
class ClipData:
  """The dataset of clips and texts."""

  dataset: str  # as `clap build` names it
  data_dir: str
  tokenizer: str  # a model file of `clap tokenizer`
  train_split: str
  selection_split: str  # evaluated during training
  eval_split: str  # evaluated once, at the end
  batch_size: int = config_lib.ranged(minimum=1)  # clips, over all devices
  cache_mib: float = config_lib.ranged(minimum=0.0)  # decoded videos; 0: none
  num_threads: int = config_lib.ranged(minimum=0)  # decoding ahead
  # Decoding processes, if more than one; None: by the number of cores.
  num_processes: int | None = config_lib.ranged(default=None, minimum=0)

  def __post_init__(self):
    if self.cache_mib and (self.num_processes or 0) > 1:
      raise ValueError(
        f"num_processes is {self.num_processes} and cache_mib "
        f"{self.cache_mib:g}: processes do not share decoded videos. Set "
        "cache_mib to 0, or num_processes to 0 for threads."
      )

  @property
  def decoding_processes(self) -> int:
    """Returns the number of processes; 0 (threads) if there is a cache."""
    if self.num_processes is None and not self.cache_mib:
      return decoding.default_number()
    return self.num_processes or 0


@dataclasses.dataclass(frozen=True)
class ClipShape:
  """Length, frames and size of a clip, shared by all stages of a tower."""

  clip_sec: float = config_lib.ranged(above=0.0)
  num_frames: int = config_lib.ranged(minimum=1)
  image_size: int = config_lib.ranged(minimum=8)  # pixels, both sides
  # How frames are resized; see frames.FrameConverter.
  resize: str = config_lib.choice("squash", "crop", "tsp", default="squash")


@dataclasses.dataclass(frozen=True)
class ClipReader:
  """Reads clips and tokens of a dataset."""

  data: ClipData
  clip: ClipShape
  sampling: clips.Sampling
  augment: augment.AugmentOptions
  max_text_length: int  # tokens

  @functools.cached_property
  def dataset(self) -> records.Dataset:
    return records.open_dataset(self.data.data_dir, self.data.dataset)

  @functools.cached_property
  def tokenizer(self) -> vocabulary.Vocabulary:
    path = self.data.tokenizer
    try:
      return vocabulary.load(path)
    except FileNotFoundError as error:
      raise FileNotFoundError(
        f"data.tokenizer: found no file {path!r}; write it with `clap "
        f"tokenizer --data {self.data.dataset} --data_dir "
        f"{self.data.data_dir} --out {path}`"
      ) from error

  def training_source(self) -> clip_source.ClipSource:
    records_of = self.dataset.split(self.data.train_split)
    infos = self.dataset.examples(self.data.train_split)
    sampler = clips.ClipSampler(
      infos,
      self.sampling,
      clip_sec=self.clip.clip_sec,
      label_names=self.dataset.label_names,
      hidden_classes=self.dataset.class_ids(self.hidden_names),
    )
    return clip_source.ClipSource(
      sampler,
      self._loader(records_of, infos, is_training=True),
      tokenizer=self.tokenizer,
      text_length=self.max_text_length,
      place=clip_source.RecordsLocation(
        str(self.dataset.directory), self.dataset.name, self.data.train_split
      ),
    )

  def num_captions(self, split: str) -> int:
    """Returns the number of captions in the retrieval evaluation of a split."""
    infos = self.dataset.examples(split)
    return len(self._caption_clips(infos))

  def captioned_clips(self, split: str) -> clip_source.EvaluationClipSource:
    """Returns one clip per caption of a split, for retrieval."""
    records_of = self.dataset.split(split)
    infos = self.dataset.examples(split)
    return clip_source.EvaluationClipSource(
      self._caption_clips(infos),
      self._loader(records_of, infos),
      tokenizer=self.tokenizer,
      text_length=self.max_text_length,
    )

  def _caption_clips(self, infos) -> list[clips.ClipItem]:
    return clips.caption_clips(
      infos,
      clip_sec=self.clip.clip_sec,
      hidden_classes=self.dataset.class_ids(self.hidden_names),
      hidden_names=self.hidden_names,
    )

  @functools.cached_property
  def hidden_names(self) -> tuple[str, ...]:
    """Returns the names of the classes that training must not see."""
    sampling = self.sampling
    hidden = sampling.hidden_classes
    if sampling.class_split:
      hidden += class_splits.class_split(
        sampling.class_split, label_names=self.dataset.label_names
      ).hidden
    return tuple(sorted(set(hidden)))

  def _loader(
    self, records_of, infos, *, is_training: bool = False
  ) -> clip_source.FrameLoader:
    cache = frame_cache.FrameCache(self.data.cache_mib)
    clip = self.clip
    options = clip_source.FrameOptions(
      num_frames=clip.num_frames,
      size=clip.image_size,
      mode=clip.resize,
      random_cut=is_training,
    )
    return clip_source.FrameLoader(
      records_of,
      options,
      augment=self.augment if is_training else augment.AugmentOptions(),
      cache=cache,
      infos=infos,
    )
