"""Initial parameters of pre-training: random, from a run, or imported."""

import dataclasses
import functools
from collections.abc import Callable

from clap_jax import config as config_lib
from clap_jax.models import dual_encoder
from clap_jax.public_weights import cache
from clap_jax.storage import locations
from clap_jax.trainers import encoders
from clap_jax.training import pretrained, weights
from clap_jax.training import state as state_lib

Prepare = Callable[[state_lib.TrainState], state_lib.TrainState]


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
  """Returns the function that starts a state from parameters, or None.

  Raises:
    FileNotFoundError: if that run has no checkpoint, or a directory no weights.
    ValueError: if imported weights are of other towers than the config's.
  """
  steps = []
  if start.workdir:
    params = encoders.restore_params(start.workdir)
    steps.append(
      lambda state: pretrained.start_from(
        state, params, patterns=start.parameters
      )
    )
  for directory in start.directories:
    arrays, facts = weights.read(directory)
    check_settings(directory, facts["settings"], model)
    steps.append(
      functools.partial(pretrained.take_over, source=arrays, name=directory)
    )
  if not steps:
    return None
  return lambda state: functools.reduce(lambda s, step: step(s), steps, state)


def check_settings(
  directory: str,
  settings: dict,
  model: dual_encoder.DualEncoderConfig,
) -> None:
  """Raises a ValueError that lists the config keys imported weights need."""
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
  """A value as it is written on the command line."""
  return repr(tuple(value)) if isinstance(value, list | tuple) else str(value)
