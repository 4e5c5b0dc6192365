"""Unwraps the containers, averages and states that training programs save.

A training checkpoint contains the weights under a name ("state_dict",
"model", ...), sometimes also their moving average, and the states of optimizers
and random generators. Compilers and distributed trainers add prefixes to every
key.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable

import numpy as np

Tensors = dict[str, np.ndarray]

MODEL, EMA = "model", "ema"
WEIGHTS = (MODEL, EMA)

_CONTAINERS = (
  "state_dict",
  "model_state_dict",
  "model_state",
  "model_weights",
  "model_dict",
  "model",
  "net",
  "net_state_dict",
  "network",
  "network_state_dict",
  "module",
  "weights",
  "online_model",
)
_AVERAGES = (
  "ema",
  "ema_model",
  "ema_net",
  "ema_state_dict",
  "ema_model_state_dict",
  "ema_weights",
  "averaged_model",
  "model_averaged",
  "model_ema",
  "model_ema_state_dict",
  "module_ema",
  "net_ema",
  "shadow",
  "shadow_params",
  "state_dict_ema",
  "swa_model",
  "swa_state_dict",
)
# Anywhere in a key.
_TRANSPARENT = re.compile(
  r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# First parts of keys of training states, unless the source has such keys.
_STATES = re.compile(
  r"(?:.*_)?(?:optim|optimizers?|scheduler|lr_schedulers?|scaler|amp|rng|"
  r"random|rngs?|generator)(?:_.*)?|"
  r"epochs?|step|steps|global_step|iters?|iterations?|lr|decay|"
  r"best(?:_.*)?|n_averaged|num_updates|updates|initted|"
  r"args|cfg|configs?|hparams|hyper_parameters|callbacks|loops|loss|"
  r"criterion|metrics?|history|logs?"
)
# End of the reason why another copy of the weights is left out.
TAKEN_INSTEAD = "are taken instead"
_STATE_REASON = "state of the training"


@dataclasses.dataclass(frozen=True)
class Unwrapped:
  """Weights without containers and training states.

  Attributes:
    tensors: maps the model's own keys to arrays.
    left_out: maps keys of the file to reasons.
    removed: messages on what was removed.
  """

  tensors: Tensors
  left_out: dict[str, str]
  removed: tuple[str, ...]


def unwrap(
  tensors: Tensors, *, is_known: Callable[[str], bool], weights: str = MODEL
) -> Unwrapped:
  """Removes containers, prefixes and states of the training.

  Args:
    tensors: arrays by the keys of the file, nested ones joined by dots.
    is_known: returns True if the source has a rule for a key.
    weights: one of WEIGHTS, the weights to use if there is a moving average.

  Raises:
    ValueError: if there are several possible containers, two keys become one,
      or a requested moving average is missing.
  """
  work = _Work(tensors)
  work.rename_all(lambda key: _TRANSPARENT.sub("", key))
  took_average = False
  while work.keys:
    first = {key.partition(".")[0] for key in work.keys}
    models = sorted(first.intersection(_CONTAINERS))
    averages = sorted(first.intersection(_AVERAGES))
    work.leave_states(is_known)
    chosen = models
    if averages and (weights == EMA or not models):
      chosen, took_average = averages, True
    if len(chosen) > 1:
      raise ValueError(
        f"there are weights under each of {', '.join(chosen)}; save one of "
        "them alone"
      )
    if not chosen:
      chosen = work.common_prefix(is_known)
      if not chosen:
        break
    work.take(chosen[0], instead_of=[*models, *averages])
  if weights == EMA and not took_average:
    raise ValueError(
      "the weights contain no moving average (expected one of "
      f"{', '.join(_AVERAGES)}); omit --weights ema"
    )
  return Unwrapped(
    {new: tensors[old] for new, old in work.keys.items()},
    work.left_out,
    tuple(work.removed),
  )


class _Work:
  """The mapping of the model's keys to those of the file, step by step."""

  def __init__(self, keys: Iterable[str]):
    self.keys: dict[str, str] = {key: key for key in keys}  # new -> old
    self.left_out: dict[str, str] = {}
    self.removed: list[str] = []

  def rename_all(self, rename: Callable[[str], str]) -> None:
    renamed: dict[str, str] = {}
    for key, old in self.keys.items():
      new = rename(key)
      if new in renamed:
        raise ValueError(f"{old} and {renamed[new]} both become {new}")
      renamed[new] = old
    changed = sum(new not in self.keys for new in renamed)
    if changed:
      self.removed.append(
        f"removed the parts that compilers put into {changed} keys (_orig_mod "
        "and its like)"
      )
    self.keys = renamed

  def leave_states(self, is_known: Callable[[str], bool]) -> None:
    """Leaves out the states of a training program."""
    for key, old in list(self.keys.items()):
      if _STATES.fullmatch(key.partition(".")[0]) and not is_known(key):
        del self.keys[key]
        self.left_out[old] = _STATE_REASON

  def common_prefix(self, is_known: Callable[[str], bool]) -> list[str]:
    """Returns the common first part of all keys, unless the source has it."""
    first = {key.partition(".")[0] for key in self.keys}
    rest = [key.partition(".")[2] for key in self.keys]
    if (
      len(first) == 1
      and all(rest)
      and not any(map(is_known, self.keys))
      and any(map(is_known, rest))
    ):
      return list(first)
    return []

  def take(self, part: str, *, instead_of: list[str]) -> None:
    """Removes a container's name and leaves out its alternatives."""
    others = [name for name in instead_of if name != part]
    kept: dict[str, str] = {}
    num_taken = 0
    for key, old in self.keys.items():
      first, _, rest = key.partition(".")
      if first in others:
        self.left_out[old] = f"the weights under {part} {TAKEN_INSTEAD}"
        continue
      if first == part and rest:
        num_taken += 1
        key = rest  # noqa: PLW2901
      if key in kept:
        raise ValueError(f"{old} and {kept[key]} both become {key}")
      kept[key] = old
    if not num_taken:  # a tensor of this very name
      raise ValueError(
        f"{part} is a tensor, expected named weights; save a state_dict"
      )
    self.keys = kept
    line = f"took the {num_taken} tensors under {part}"
    if others:
      line += f", not those under {', '.join(others)} (choose with --weights)"
    self.removed.append(line)
