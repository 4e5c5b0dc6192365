"""Plans the clips and texts of a training run, without decoding pixels.

Item i of a run is a function of (seed, i) alone. Of the first n items
floor(n * background_share) are background, for every n; each kind has its own
shuffled epochs over the segments of that kind.
"""

import dataclasses
import fractions
import hashlib
import math
import re
from collections.abc import Collection, Sequence

import numpy as np

from clap_jax import config as config_lib
from clap_jax.data import class_leakage, clip_regions, shuffle
from clap_jax.data.clip_regions import NO_CLASS_ID, Region
from clap_jax.data.records import ExampleInfo

TEXT_SOURCES = (
  "captions",
  "labels",
  "prompted_background",
  "captions_and_labels",
)
_LABEL_SHARE = 0.5  # of action clips under captions_and_labels
GENERIC_BACKGROUND_TEXT = "nothing is happening, there is only background"
LABEL_PROMPTS = (
  "{}",
  "a video of {}",
  "a clip that shows {}",
  "the action is {}",
  "this is {}",
  "an example of {}",
)
NO_TEXT_ID = -1

_ACTION_TAG, _BACKGROUND_TAG, _ITEM_TAG = 1, 2, 3
_SHARE_DENOMINATOR = 1000
# A caption with at least this IoU with an action segment describes it; if
# several actions overlap, captions of the other ones are then ignored.
_OWN_CAPTION_IOU = 0.75

Caption = tuple[float, float, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipItem:
  """A planned clip; times are seconds in its video."""

  record_index: int
  start_sec: float
  end_sec: float
  is_action: bool
  class_id: int = NO_CLASS_ID  # -1 for background
  text: str = ""
  caption_start_sec: float = 0.0
  caption_end_sec: float = 0.0
  generic_text: bool = False
  # Share of a clip across a boundary that its action covers; None: no boundary.
  crossing_share: float | None = None
  seed: int = 0  # for the random choices made with its pixels

  @property
  def action_share(self) -> float:
    if self.crossing_share is None:
      return float(self.is_action)
    return self.crossing_share

  @property
  def has_text(self) -> bool:
    return bool(self.text)

  @property
  def text_id(self) -> int:
    return text_id(self.text) if self.text else NO_TEXT_ID


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """Options of clip sampling.

  `text_source` gives a clip the caption that describes it, a sentence made of
  its class name, that and a fixed sentence for background, or one of the first
  two at random. Where no example has a label, the spans of captions are the
  actions.
  `same_video_background` takes each background clip from the video of the
  action item before it, where that video has background: the hardest negative.
  With `clips_per_video` above 1, as many items in a row come from one video,
  its actions and its background: actors and scene are then the same in most
  pairs of a batch, so only the action distinguishes them. Background is then
  always taken from the same video, or from another one if it has none, so that
  the share holds. `boundary_share` of the action clips cross the start or the
  end of their action, where no other action is adjacent. They have no text,
  since a caption is only half true of them, and record their share of action.
  """

  text_source: str = config_lib.choice(*TEXT_SOURCES, default="captions")
  background_share: float = config_lib.ranged(
    default=0.5, minimum=0.0, maximum=0.99
  )  # of all items
  action_only: bool = False
  same_video_background: bool = False
  clips_per_video: int = config_lib.ranged(default=1, minimum=1)
  stream: int = config_lib.ranged(default=0, minimum=0)  # of different clips
  hidden_classes: tuple[str, ...] = ()  # names that training must not see
  # "", or a split of data/class_splits.py to restrict to its base classes.
  class_split: str = ""
  boundary_share: float = config_lib.ranged(
    default=0.0, minimum=0.0, maximum=1.0
  )
  background_text: bool = True  # False: no background clip has a text


class ClipSampler:
  """Plans clips, balanced over segments."""

  def __init__(
    self,
    examples: Sequence[ExampleInfo],
    options: Sampling,
    *,
    clip_sec: float,
    label_names: Sequence[str],
    hidden_classes: frozenset[int] = frozenset(),
  ):
    """Lists the regions of all examples.

    Args:
      examples: videos of the training split.
      hidden_classes: classes that must not be seen (few-shot: the novel ones).
        Their segments are left out, with every clip that would overlap one of
        them in time and every caption that overlaps one or names the class.

    Raises:
      ValueError: there is nothing to draw from.
    """
    self._options = options
    self._clip_sec = clip_sec
    self._hidden_classes = hidden_classes
    limits = {"clip_sec": clip_sec, "hidden_classes": hidden_classes}
    self._label_names = tuple(label_names)
    self._hidden_names = [self._label_names[i] for i in hidden_classes]
    self._captions: dict[int, list[Caption]] = {}  # of videos drawn so far
    self._actions = clip_regions.action_regions(examples, **limits)
    if not any(len(example.labels) for example in examples):
      self._actions = self._captioned_regions(examples)
    self._backgrounds = []
    if not options.action_only:
      self._backgrounds = clip_regions.background_regions(examples, **limits)
    if not self._actions:
      raise ValueError(
        "no action segment or caption in "
        f"{len(examples)} examples after hiding "
        f"{len(hidden_classes)} classes; check the split"
      )
    share = fractions.Fraction(
      round(options.background_share * _SHARE_DENOMINATOR), _SHARE_DENOMINATOR
    )
    self._share = share if self._backgrounds else fractions.Fraction(0)
    self._backgrounds_of: dict[int, list[Region]] = {}
    for region in self._backgrounds:
      self._backgrounds_of.setdefault(region.example.index, []).append(region)
    self._actions_of: dict[int, list[Region]] = {}
    for region in self._actions:
      self._actions_of.setdefault(region.example.index, []).append(region)
    self._videos = list(self._actions_of)  # those with at least one action

  def __len__(self) -> int:
    """Returns the number of items until every action segment was seen once."""
    return math.ceil(len(self._actions) / (1 - self._share))

  def item(self, index: int, *, seed: int, attempt: int = 0) -> ClipItem:
    """Returns item `index` of the endless stream of this seed.

    `attempt` above 0 gives a substitute for an item whose video is unreadable;
    it too is a pure function of its arguments.
    """
    substitute = shuffle.mix(seed, attempt) if attempt else seed
    region = self._region(index, substitute)
    item_seed = shuffle.mix(substitute, _ITEM_TAG, index)
    rng = np.random.Generator(np.random.PCG64(item_seed))
    clip_sec = self._clip_sec
    start_sec = clip_regions.draw_start(region, clip_sec, rng.random())
    crossing = self._crossing(region, rng)
    if crossing is not None:
      start_sec = crossing.start_sec
    item = ClipItem(
      record_index=region.example.index,
      start_sec=start_sec,
      end_sec=start_sec + clip_sec,
      is_action=region.is_action,
      class_id=region.class_id,
      crossing_share=crossing and crossing.action_share,
      seed=item_seed,
    )
    return item if crossing else self._with_text(item, region, rng)

  def _crossing(
    self, region: Region, rng: np.random.Generator
  ) -> clip_regions.Crossing | None:
    """Draws a clip across a boundary of the region, for a share of actions."""
    share = self._options.boundary_share
    if not share or not region.is_action or rng.random() >= share:
      return None
    return clip_regions.draw_crossing(region, self._clip_sec, rng)

  def _region(self, index: int, seed: int) -> Region:
    """Draws a region; background where its running count increases."""
    num_before = int(index * self._share)
    is_background = int((index + 1) * self._share) > num_before
    if self._options.clips_per_video > 1:
      region = self._grouped_region(index, is_background, seed)
    elif not is_background:
      region = self._action_region(index - num_before, seed)
    else:
      region = self._same_video_background(index, num_before, seed)
    if region is not None:
      return region
    position = shuffle.shuffled(
      num_before,
      length=len(self._backgrounds),
      seed=shuffle.mix(seed, _BACKGROUND_TAG),
    )
    return self._backgrounds[position]

  def _same_video_background(
    self, index: int, num_before: int, seed: int
  ) -> Region | None:
    """Returns background of the preceding action's video, if configured."""
    if not self._options.same_video_background:
      return None
    action = self._action_region(max(0, index - num_before - 1), seed)
    regions = self._backgrounds_of.get(action.example.index)
    if not regions:
      return None
    return regions[shuffle.mix(seed, _BACKGROUND_TAG, index) % len(regions)]

  def _grouped_region(
    self, index: int, is_background: bool, seed: int
  ) -> Region | None:
    """Returns the region of a group's item, in shuffled epochs of videos.

    Returns None for background of a video without background.
    """
    group, place = divmod(index, self._options.clips_per_video)
    video = self._videos[
      shuffle.shuffled(group, length=len(self._videos), seed=seed)
    ]
    # Within this group, before this position.
    number = int(index * self._share) - int((index - place) * self._share)
    regions, tag = self._backgrounds_of.get(video), _BACKGROUND_TAG
    if not is_background:
      regions, tag, number = (
        self._actions_of[video],
        _ACTION_TAG,
        place - number,
      )
    if not regions:
      return None
    return regions[
      shuffle.shuffled(
        number, length=len(regions), seed=shuffle.mix(seed, tag, group)
      )
    ]

  def _action_region(self, number: int, seed: int) -> Region:
    position = shuffle.shuffled(
      number, length=len(self._actions), seed=shuffle.mix(seed, _ACTION_TAG)
    )
    return self._actions[position]

  def _captioned_regions(self, examples: Sequence[ExampleInfo]) -> list[Region]:
    """Returns caption spans as regions, for a dataset without labels."""
    return [
      Region(example, start_sec, end_sec, NO_CLASS_ID, is_captioned=True)
      for example in examples
      for start_sec, end_sec, _ in self._visible_captions(example)
    ]

  def _visible_captions(self, example: ExampleInfo) -> list[Caption]:
    """Returns visible captions, lazily: a run may have a million videos."""
    if example.index not in self._captions:
      self._captions[example.index] = visible_captions(
        example, self._hidden_classes, hidden_names=self._hidden_names
      )
    return self._captions[example.index]

  def _with_text(
    self, item: ClipItem, region: Region, rng: np.random.Generator
  ) -> ClipItem:
    options = self._options
    if not (region.is_action or options.background_text):
      return item
    source = options.text_source
    if source == "captions_and_labels":
      is_labelled = region.has_class and rng.random() < _LABEL_SHARE
      source = "labels" if is_labelled else "captions"
    if source == "captions":
      captions = self._visible_captions(region.example)
      found = matching_captions(item, captions, region=region.span)
      if not found:
        return item
      start_sec, end_sec, text = found[rng.integers(len(found))]
      return _describe(item, start_sec, end_sec, text)
    if region.has_class:
      prompt = LABEL_PROMPTS[rng.integers(len(LABEL_PROMPTS))]
      text = prompt.format(readable_label(self._label_names[region.class_id]))
      return _describe(item, *region.span, text)
    if source == "prompted_background" and not region.is_action:
      item = _describe(item, *region.span, GENERIC_BACKGROUND_TEXT)
      return dataclasses.replace(item, generic_text=True)
    return item


def normalize_text(text: str) -> str:
  """Normalizes a text: lower case, single spaces, no full stop."""
  return re.sub(r"\s+", " ", text).strip().rstrip(".").rstrip().lower()


def text_id(text: str) -> int:
  """Returns a stable int32 >= 0 that equal normalised texts share."""
  digest = hashlib.blake2b(normalize_text(text).encode(), digest_size=4)
  return int.from_bytes(digest.digest(), "little") & 0x7FFFFFFF


def readable_label(name: str) -> str:
  """Returns 'CleanAndJerk' or 'clean_and_jerk' as 'clean and jerk'."""
  spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
  return re.sub(r"[_\s]+", " ", spaced).strip().lower()


def visible_captions(
  example: ExampleInfo,
  hidden_classes: frozenset[int],
  *,
  hidden_names: Collection[str] = (),
) -> list[Caption]:
  """Returns the captions that neither overlap nor name a hidden class."""
  hidden = class_leakage.hidden_spans(example, hidden_classes)
  return [
    caption
    for caption in example.captions
    if normalize_text(caption[2])
    and all(
      clip_regions.overlap_sec(caption, segment) <= 0 for segment in hidden
    )
    and not class_leakage.names_a_class(caption[2], hidden_names)
  ]


def matching_captions(
  item: ClipItem,
  captions: Sequence[Caption],
  *,
  region: tuple[float, float],
) -> list[Caption]:
  """Returns the captions that describe a clip.

  A caption describes a clip if it covers at least half of it. For an action
  clip, half of a caption shorter than the clip is enough, and captions of the
  segment itself, if any, take precedence over those of other segments.
  """
  clip = (item.start_sec, item.end_sec)
  found = []
  for caption in captions:
    needed_sec = item.end_sec - item.start_sec
    if item.is_action:
      needed_sec = min(needed_sec, caption[1] - caption[0])
    overlap_sec = clip_regions.overlap_sec(caption, clip)
    if overlap_sec > 0 and overlap_sec >= needed_sec / 2:
      found.append(caption)
  if not item.is_action:
    return found
  own = [
    caption
    for caption in found
    if _temporal_iou(caption, region) >= _OWN_CAPTION_IOU
  ]
  return own or found


def _describe(
  item: ClipItem, start_sec: float, end_sec: float, text: str
) -> ClipItem:
  return dataclasses.replace(
    item,
    text=text,
    caption_start_sec=float(start_sec),
    caption_end_sec=float(end_sec),
  )


def _temporal_iou(first: Sequence, second: Sequence) -> float:
  overlap_sec = max(0.0, clip_regions.overlap_sec(first, second))
  union_sec = first[1] - first[0] + second[1] - second[0] - overlap_sec
  return overlap_sec / union_sec if union_sec > 0 else 0.0


def caption_clips(
  examples: Sequence[ExampleInfo],
  *,
  clip_sec: float,
  hidden_classes: frozenset[int] = frozenset(),
  hidden_names: Collection[str] = (),
) -> list[ClipItem]:
  """Returns one clip with text at the middle of each caption.

  The class is that of the segment with the largest overlap, -1 if none.
  """
  items = []
  for example in examples:
    for start_sec, end_sec, text in visible_captions(
      example, hidden_classes, hidden_names=hidden_names
    ):
      clip_start_sec = _centre(start_sec, end_sec, clip_sec, example)
      label = _dominant_label(example, start_sec, end_sec)
      items.append(
        ClipItem(
          record_index=example.index,
          start_sec=clip_start_sec,
          end_sec=clip_start_sec + clip_sec,
          is_action=label != NO_CLASS_ID,
          class_id=label,
          text=text,
          caption_start_sec=start_sec,
          caption_end_sec=end_sec,
        )
      )
  return items


def _centre(
  start_sec: float, end_sec: float, clip_sec: float, example: ExampleInfo
) -> float:
  latest_sec = max(0.0, example.duration_sec - clip_sec)
  return min(max(0.0, (start_sec + end_sec - clip_sec) / 2), latest_sec)


def _dominant_label(
  example: ExampleInfo, start_sec: float, end_sec: float
) -> int:
  if not len(example.segments):
    return NO_CLASS_ID
  starts, ends = example.segments[:, 0], example.segments[:, 1]
  overlaps = np.minimum(ends, end_sec) - np.maximum(starts, start_sec)
  best = int(np.argmax(overlaps))
  return int(example.labels[best]) if overlaps[best] > 0 else NO_CLASS_ID
