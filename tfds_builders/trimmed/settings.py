"""Defines options of `clap build trimmed` besides videos and annotations."""

import dataclasses
import os

MIN_CLIP_SEC = 0.1  # shorter clips show no action
MAX_CLIPS = 100  # per recording: each is an open file of one process


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrimmedSettings:
  """Flags of the builder; other builders refuse them.

  Attributes:
    split_by: attribute that determines the split of a clip.
    splits: "train=S001,S007;validation=S019", or a JSON file of {split:
      [values]}; without it the values are split by their hashes.
    fold: number of the official split lists of UCF101 and HMDB51.
    background: classes to keep without a label.
    captions: JSON file of templates; see `templates`.
    join: whether to join clips into untrimmed recordings.
    constant: attributes that all clips of a recording share.
    clips_per_recording: maximum number; clips of a group are spread evenly.
    seed: seed of the order of clips.
  """

  split_by: str = ""
  splits: str = ""
  fold: int = 1
  background: tuple[str, ...] = ()
  captions: str | os.PathLike | None = None
  join: bool = False
  constant: tuple[str, ...] = ()
  clips_per_recording: int = 8
  seed: int = 0

  def __post_init__(self):
    if self.splits and not self.split_by:
      raise ValueError(
        "--splits lists values of an attribute: name it by --split_by"
      )
    if self.fold < 1:
      raise ValueError(f"--fold is {self.fold}; expected 1, 2 or 3")
    if not 1 <= self.clips_per_recording <= MAX_CLIPS:
      raise ValueError(
        f"--clips_per_recording is {self.clips_per_recording}; expected 1 to "
        f"{MAX_CLIPS}"
      )
    if self.join:
      return
    defaults = {f.name: f.default for f in dataclasses.fields(self)}
    for name in ("constant", "clips_per_recording", "seed"):
      if getattr(self, name) != defaults[name]:
        raise ValueError(f"--{name} is only for recordings: add --join")


def parse_list(text: str | None) -> tuple[str, ...]:
  """Splits a comma-separated list into its distinct names."""
  names = [name.strip() for name in (text or "").split(",")]
  return tuple(dict.fromkeys(filter(None, names)))
