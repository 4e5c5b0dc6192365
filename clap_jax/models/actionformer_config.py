"""Defines ActionFormer's hyper-parameters and sequence lengths."""

import dataclasses
import math

_MAX_LEVELS = 16


@dataclasses.dataclass(frozen=True)
class ActionFormerConfig:
  """Hyper-parameters of ActionFormer.

  Attributes:
    width: channels of every level.
    stream_widths: channels of the feature streams joined in the input, if each
      has its own projection; () for none.
    projected_widths: output channels of these projections; their sum is the
      width.
    num_stem_convs: number of convolutions at stride 1 before the first block.
    stem_kernel_size: kernel size of these convolutions; odd.
    stem_norm: whether a LayerNorm follows each of them.
    num_stem_blocks: number of blocks at stride 1; each coarser level has one.
    windows: steps that a query sees at each level, odd; -1 for all.
    ranges: (minimum, maximum) reach of the segments of each level, in grid
      units.
    num_heads: number of attention heads; must divide the width.
    dropout_rate: dropout rate of attention outputs and MLPs.
    drop_path_rate: drop rate of residual branches; above 0 they have learned
      scales.
    absolute_positions: whether to add sine codes of the time.
    relative_positions: whether windowed attention learns a bias per distance.
    level_norm: whether each level ends with a LayerNorm.
    head_width: channels of the heads.
    head_kernel_size: kernel size of the heads' convolutions; odd.
    num_convs: number of hidden convolutions of each head.
    head_norm: whether a LayerNorm follows each of them.
    prior_probability: probability of each class at the first step, in (0, 1).
    empty_classes: numbers of classes without training examples.
  """

  width: int = 512
  stream_widths: tuple[int, ...] = ()
  projected_widths: tuple[int, ...] = ()
  num_stem_convs: int = 2
  stem_kernel_size: int = 3
  stem_norm: bool = True
  num_stem_blocks: int = 2
  windows: tuple[int, ...] = (19, 19, 19, 19, 19, 19)
  ranges: tuple[tuple[float, float], ...] = (
    (0.0, 4.0),
    (4.0, 8.0),
    (8.0, 16.0),
    (16.0, 32.0),
    (32.0, 64.0),
    (64.0, 10000.0),
  )
  num_heads: int = 4
  dropout_rate: float = 0.0
  drop_path_rate: float = 0.1
  absolute_positions: bool = False
  relative_positions: bool = False
  level_norm: bool = True
  head_width: int = 512
  head_kernel_size: int = 3
  num_convs: int = 2
  head_norm: bool = True
  prior_probability: float = 0.01
  empty_classes: tuple[int, ...] = ()

  def __post_init__(self):
    if not 1 <= len(self.windows) <= _MAX_LEVELS:
      raise ValueError(
        f"windows must be 1 to {_MAX_LEVELS} numbers, one per level, got "
        f"{len(self.windows)}."
      )
    if len(self.ranges) != len(self.windows):
      raise ValueError(
        f"windows and ranges must have one entry per level, got "
        f"{len(self.windows)} and {len(self.ranges)}."
      )
    wrong = [w for w in self.windows if w > 1 and w % 2 == 0]
    if wrong:
      raise ValueError(f"windows must be odd, or -1 for all, got {wrong}.")
    for name in ("stem_kernel_size", "head_kernel_size"):
      if getattr(self, name) < 1 or getattr(self, name) % 2 == 0:
        raise ValueError(f"{name} must be odd, got {getattr(self, name)}.")
    if min(self.width, self.head_width, self.num_heads) < 1:
      raise ValueError("width, head_width and num_heads must be at least 1.")
    if self.width % self.num_heads or self.width % 2:
      raise ValueError(
        f"width must be even and a multiple of num_heads, got {self.width} and "
        f"{self.num_heads}."
      )
    if len(self.stream_widths) != len(self.projected_widths) or (
      self.stream_widths and sum(self.projected_widths) != self.width
    ):
      raise ValueError(
        "projected_widths must have one entry per stream and the sum width, "
        f"got {self.projected_widths} for {self.stream_widths} and "
        f"{self.width}."
      )
    if not 0 < self.prior_probability < 1:
      raise ValueError(
        f"prior_probability must be in (0, 1), got {self.prior_probability}."
      )

  @property
  def length_multiple(self) -> int:
    """Returns the number that must divide the length of every sequence."""
    # A window of w steps takes blocks of 2 * (w // 2) steps of its level.
    spans = [w // 2 * 2 if w > 1 else 1 for w in self.windows]
    return max(span << level for level, span in enumerate(spans))

  @property
  def coarsest_stride(self) -> int:
    """Returns the stride of the last level, in steps of the sequence."""
    return 1 << (len(self.windows) - 1)


def padded_length(
  num_steps: int, config: ActionFormerConfig, *, max_length: int
) -> int:
  """Returns the number of steps to which public inference pads a video.

  Args:
    num_steps: number of features of the video.
    config: hyper-parameters of the model.
    max_length: steps of a training sequence; shorter videos are padded to it,
      longer ones to the next multiple of the longest window.
  """
  if num_steps <= max_length:
    return max_length
  # Levels after the longest window need whole strides too.
  multiple = math.lcm(config.length_multiple, config.coarsest_stride)
  return -(-num_steps // multiple) * multiple


def check_length(config: ActionFormerConfig, max_length: int) -> None:
  """Raises a ValueError if the levels do not divide the training length."""
  multiple = math.lcm(config.length_multiple, config.coarsest_stride)
  if max_length % multiple:
    raise ValueError(
      f"max_length must be a multiple of {multiple} (the largest stride times "
      f"its window), got {max_length}."
    )
