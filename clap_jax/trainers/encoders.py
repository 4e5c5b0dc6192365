"""Defines the config, encoder.json and initial parameters of encoders."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from clap_jax import config as config_lib
from clap_jax.data import clip_reader
from clap_jax.models import (
  attention,
  dual_encoder,
  layers,
  text_transformer,
  variants,
  video_tower,
)
from clap_jax.public_weights import cache
from clap_jax.storage import locations
from clap_jax.storage import metadata as metadata_lib
from clap_jax.training import checkpoint, pretrained, weights
from clap_jax.training import state as state_lib

ENCODER_FILE = "encoder.json"
TOKENIZER_FILE = "tokenizer.model"
_MAX_CLIP_PIXELS = 1 << 28

Prepare = Callable[[state_lib.TrainState], state_lib.TrainState]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """Options of the towers; the data completes a DualEncoderConfig."""

  video_size: str = config_lib.choice(*variants.VIDEO_SIZES)
  text_size: str = config_lib.choice(*variants.TEXT_SIZES)
  patch: tuple[int, int, int] = config_lib.ranged(minimum=1)
  projection_width: int = config_lib.ranged(minimum=1)
  max_text_length: int = config_lib.ranged(minimum=2)  # tokens
  motion_gain: float = config_lib.ranged(minimum=0.0)  # 0: colours only
  remat: bool
  dtype: str = config_lib.choice("float32", "bfloat16")
  video_tower: str = config_lib.choice(
    *video_tower.NAMES, default=video_tower.TRANSFORMER
  )
  text_tower: str = config_lib.choice(
    *text_transformer.STYLES, default="transformer"
  )
  # Parts of the batch with normalisation statistics of their own; 1: all
  # devices share theirs; 0: the running averages.
  batch_norm_groups: int = config_lib.ranged(default=1, minimum=0)
  remat_policy: str = config_lib.choice(
    *attention.REMAT_POLICIES, default="nothing"
  )
  attention: str = config_lib.choice(*layers.ATTENTIONS, default="whole")
  query_chunk: int = config_lib.ranged(default=0, minimum=0)  # of "chunked"

  def __post_init__(self):
    if self.attention == "chunked" and not self.query_chunk:
      raise ValueError(
        "attention is chunked and query_chunk 0; give the queries of one part, "
        "such as query_chunk=128."
      )


def towers(
  model: ModelConfig,
  clip: clip_reader.ClipShape,
  *,
  vocab_size: int,
  num_classes: int,
) -> dual_encoder.DualEncoderConfig:
  """Returns the config of both towers; `num_classes` 0: no class heads."""
  return dual_encoder.DualEncoderConfig(
    **dataclasses.asdict(model),
    num_frames=clip.num_frames,
    image_size=clip.image_size,
    vocab_size=vocab_size,
    num_classes=num_classes,
  )


def described(
  facts: dict,
) -> tuple[clip_reader.ClipShape, dual_encoder.DualEncoderConfig]:
  """Returns the clip shape and the towers described by an encoder.json."""
  clip = config_lib.resolve(clip_reader.ClipShape, facts["clip"], "clip")
  towers_config = towers_of(facts["model"])
  if clip.num_frames * clip.image_size**2 > _MAX_CLIP_PIXELS:
    raise ValueError(
      f"a clip has {clip.num_frames} frames of {clip.image_size} pixels a "
      f"side; expected at most {_MAX_CLIP_PIXELS} pixels in all"
    )
  for name in ("num_frames", "image_size"):
    if getattr(clip, name) != getattr(towers_config, name):
      raise ValueError(f"clip.{name} and model.{name} differ")
  return clip, towers_config


def towers_of(model: dict) -> dual_encoder.DualEncoderConfig:
  """Returns the towers of the section "model" of an encoder.json."""
  config = config_lib.resolve(dual_encoder.DualEncoderConfig, model, "model")
  checked = {
    "vocab_size": config.vocab_size >= 1,
    "max_text_length": config.max_text_length >= 2,
    "projection_width": config.projection_width >= 1,
    "num_classes": config.num_classes >= 0,
    "patch": min(config.patch) >= 1,
    "dtype": config.dtype in ("float32", "bfloat16"),
    "remat_policy": config.remat_policy in attention.REMAT_POLICIES,
  }
  wrong = [name for name, is_right in checked.items() if not is_right]
  if wrong:
    values = {name: getattr(config, name) for name in wrong}
    raise ValueError(f"the section model has {values}, which no tower supports")
  return config


def restore_params(directory: locations.PathLike) -> dict[str, Any]:
  """Restores parameters of both towers, as evaluated by the run.

  These are the moving average if the run kept one. An encoder.json without
  "use_ema" is of a revision that evaluated the last parameters, or describes
  imported weights. An unfinished run has no encoder.json, and its evaluations
  during training used the average if there was one.

  Raises:
    FileNotFoundError: there is no complete checkpoint.
  """
  directory = locations.at(directory)
  use_ema = None
  if (directory / ENCODER_FILE).is_file():
    use_ema = metadata_lib.read(directory, ENCODER_FILE).get("use_ema", False)
  return checkpoint.restore_params(directory, use_ema=use_ema)[0]


@dataclasses.dataclass(frozen=True)
class StartConfig:
  """Initial parameters from another run or from imported weights."""

  workdir: str  # of a `clap train` run; "" starts from random parameters
  parameters: tuple[str, ...]  # regexes on their names, of that run
  # Directories of `clap import` or `clap export`, or names of `clap get`,
  # separated by commas; taken over whole, after the run's.
  imported: str = ""

  @property
  def directories(self) -> tuple[str, ...]:
    given = (part.strip() for part in self.imported.split(","))
    return tuple(str(cache.directory_of(part)) for part in given if part)


def starter(
  start: StartConfig, model: dual_encoder.DualEncoderConfig
) -> Prepare | None:
  """Returns a function that starts a state from parameters, or None.

  Raises:
    FileNotFoundError: the run has no checkpoint, or the directory no weights.
    ValueError: imported weights do not match the config's towers.
  """
  steps = []
  if start.workdir:
    params = restore_params(start.workdir)
    steps.append(
      lambda state: pretrained.start_from(
        state, params, patterns=start.parameters
      )
    )
  for directory in start.directories:
    arrays, facts = weights.read(directory)
    check_settings(directory, facts["settings"], model)
    steps.append(
      functools.partial(
        pretrained.load_parameters, source=arrays, name=directory
      )
    )
  if not steps:
    return None
  return lambda state: functools.reduce(lambda s, step: step(s), steps, state)


def check_settings(
  directory: str,
  settings: dict,
  model: dual_encoder.DualEncoderConfig,
) -> None:
  """Raises a ValueError listing config keys that imported weights need."""
  here = config_lib.as_dict(model)
  wrong = [
    f"  {flag_of(key, value, directory)} (here: {_written(here[key])})"
    for key, value in settings.items()
    if _written(here[key]) != _written(value)
  ]
  if wrong:
    raise ValueError(
      f"The weights in {directory} are of other towers; they need\n"
      + "\n".join(wrong)
    )


def flag_of(key: str, value, directory) -> str:
  """Returns the flag that sets a field of DualEncoderConfig."""
  if key == "vocab_size":
    exported = locations.at(directory, "tokenizer").is_file()
    name = "tokenizer" if exported else "tokenizer.json"  # of `clap import`
    return f"--config.data.tokenizer={directory}/{name}"
  section = "clip" if key in ("num_frames", "image_size") else "model"
  text = _written(value)
  return f"--config.{section}.{key}=" + (f"'{text}'" if "(" in text else text)


def _written(value) -> str:
  """Formats a value for the command line."""
  return repr(tuple(value)) if isinstance(value, list | tuple) else str(value)
