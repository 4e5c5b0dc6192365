"""Unwraps the containers, averages and states that training programs save.

A checkpoint of a trainer holds the weights under a name ("state_dict",
"model", ...), perhaps twice (a moving average beside them), with the states of
optimizers and random generators beside them; compilers and trainers of many
devices put further names in front of every key.
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
# First parts of keys beside the weights, where the source has no such keys.
_STATES = re.compile(
  r"(?:.*_)?(?:optim|optimizers?|scheduler|lr_schedulers?|scaler|amp|rng|"
  r"random|rngs?|generator)(?:_.*)?|"
  r"epochs?|step|steps|global_step|iters?|iterations?|lr|decay|"
  r"best(?:_.*)?|n_averaged|num_updates|updates|initted|"
  r"args|cfg|configs?|hparams|hyper_parameters|callbacks|loops|loss|"
  r"criterion|metrics?|history|logs?"
)
# How the reason ends why another copy of the weights is left out.
TAKEN_INSTEAD = "are taken instead"
_STATE_REASON = "state of the training"


@dataclasses.dataclass(frozen=True)
class Unwrapped:
  """Weights without what was around them.

  Attributes:
    tensors: key, as the model's own program names it -> array.
    left_out: key of the file -> reason.
    removed: what was removed, one line each, for the user.
  """

  tensors: Tensors
  left_out: dict[str, str]
  removed: tuple[str, ...]


def unwrap(
  tensors: Tensors, *, is_known: Callable[[str], bool], weights: str = MODEL
) -> Unwrapped:
  """Removes containers, prefixes and states of the training.

  Args:
    tensors: by the keys of the file, nested ones joined by dots.
    is_known: whether the source has a rule for a key.
    weights: one of WEIGHTS: which to take where a moving average lies beside
      the weights.

  Raises:
    ValueError: several containers may be meant, two keys become one, or there
      is no moving average and one is asked for.
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
        f"the weights lie under each of {', '.join(chosen)}; save the one that "
        "is meant alone"
      )
    if not chosen:
      chosen = work.common_prefix(is_known)
      if not chosen:
        break
    work.take(chosen[0], instead_of=[*models, *averages])
  if weights == EMA and not took_average:
    raise ValueError(
      "the weights hold no moving average (looked for "
      f"{', '.join(_AVERAGES)}); leave --weights ema out"
    )
  return Unwrapped(
    {new: tensors[old] for new, old in work.keys.items()},
    work.left_out,
    tuple(work.removed),
  )


class _Work:
  """Keys on their way from those of the file to those of the model."""

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
    """Leaves out what a training program keeps beside the weights."""
    for key, old in list(self.keys.items()):
      if _STATES.fullmatch(key.partition(".")[0]) and not is_known(key):
        del self.keys[key]
        self.left_out[old] = _STATE_REASON

  def common_prefix(self, is_known: Callable[[str], bool]) -> list[str]:
    """The one first part of all keys, where the source has no such keys."""
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
    """Removes a container's name; leaves out the others of its kind."""
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
        f"{part} is a tensor, expected the weights below it; save a state_dict"
      )
    self.keys = kept
    line = f"took the {num_taken} tensors under {part}"
    if others:
      line += f", not those under {', '.join(others)} (choose with --weights)"
    self.removed.append(line)
