"""Starts training from the parameters of another run."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from clap_jax.training import paths
from clap_jax.training.state import TrainState


def start_from(
  state: TrainState, source: Mapping[str, Any], *, patterns: tuple[str, ...]
) -> TrainState:
  """Copies the parameters of `source` that match a pattern into a state.

  Parameters that only one of the two has are ignored: a new head stays random,
  an old one is dropped. The optimizer starts from zero.

  Args:
    state: initial state, on its devices.
    source: nested parameters, as `checkpoint.restore_params` gives them.
    patterns: regexes on parameter names, searched anywhere in the name.

  Raises:
    ValueError: lists parameters of another shape, or no parameter matches.
  """
  flat = paths.flatten(source)
  wanted = {
    name: leaf
    for name, leaf in flat.items()
    if any(re.search(pattern, name) for pattern in patterns)
  }
  target = paths.flatten(state.params)
  shared = sorted(set(wanted) & set(target))
  wrong = [
    f"{name}: {np.shape(wanted[name])} there, {target[name].shape} here"
    for name in shared
    if np.shape(wanted[name]) != target[name].shape
  ]
  if wrong:
    raise ValueError(
      "The run to start from has other shapes:\n  " + "\n  ".join(wrong)
    )
  if not shared:
    raise ValueError(
      f"No parameter of the run to start from matches {patterns} and exists "
      f"here; it has {', '.join(sorted(flat)[:5])}, ..."
    )

  return _replaced(state, {name: wanted[name] for name in shared})


def load_parameters(
  state: TrainState, *, source: Mapping[str, Any], name: str
) -> TrainState:
  """Copies all of `source`, which must match completely, into a state.

  Args:
    state: initial state, on its devices.
    source: arrays by parameter name.
    name: origin of the parameters, for messages.

  Raises:
    ValueError: lists parameters that are unknown or of another shape.
  """
  target = paths.flatten(state.params)
  wrong = [
    f"{key}: {np.shape(leaf)} there, "
    f"{target[key].shape if key in target else 'absent'} here"
    for key, leaf in source.items()
    if key not in target or np.shape(leaf) != target[key].shape
  ]
  if wrong:
    raise ValueError(
      f"The weights in {name} do not match:\n  " + "\n  ".join(wrong)
    )
  return _replaced(state, source)


def check_fits(
  params: Mapping[str, Any],
  init: Callable[[jax.Array], Any],
  *,
  name: str,
  whole: bool = False,
) -> None:
  """Checks that parameters match a model.

  Args:
    params: nested parameters, as `checkpoint.restore_params` gives them.
    init: initializes the model's parameters; it is only traced.
    name: the file that describes the model, for messages.
    whole: whether a missing parameter is an error.

  Raises:
    ValueError: the model cannot be built, or a parameter has another shape.
  """
  try:
    expected = paths.flatten(jax.eval_shape(init, jax.random.key(0)))
  except Exception as error:  # wrong sizes raise many types
    reason = str(error).partition("\n")[0]
    raise ValueError(
      f"{name} describes a model that cannot be built "
      f"({type(error).__name__}: {reason})"
    ) from error
  found = paths.flatten(params)
  wrong = [
    f"{key}: {np.shape(leaf)} in the checkpoint, {expected[key].shape} there"
    for key, leaf in found.items()
    if key in expected and np.shape(leaf) != expected[key].shape
  ]
  if whole:
    wrong += [f"{key} is missing" for key in expected if key not in found]
  if wrong:
    raise ValueError(
      f"{name} describes other parameters than the checkpoint holds:\n  "
      + "\n  ".join(wrong[:5])
    )


def _replaced(state: TrainState, values: Mapping[str, Any]) -> TrainState:
  def replaced(tree):
    def pick(key_path, leaf):
      name = paths.name_of(key_path)
      if name not in values:
        return leaf
      return jax.device_put(np.asarray(values[name], leaf.dtype), leaf.sharding)

    return jax.tree_util.tree_map_with_path(pick, tree)

  return dataclasses.replace(
    state,
    params=replaced(state.params),
    ema=None if state.ema is None else replaced(state.ema),
  )
