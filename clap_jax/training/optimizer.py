"""Makes Optax transformations from an OptimizerConfig."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from clap_jax import config as config_lib
from clap_jax.training import paths
from clap_jax.training import task as task_lib

_TRAINED, _FROZEN = "trained", "frozen"
# The last part of a decayed parameter's path.
_DECAYED_NAMES = frozenset({"kernel", "embedding"})


class Optimizer(NamedTuple):
  """An Optax transformation with its schedule and parameter groups."""

  init: Callable
  update: Callable
  learning_rate: Callable  # updates done -> learning rate, before multipliers
  multipliers: Any  # a float per parameter; 0 is frozen

  def stop_frozen(self, params):
    """Stops gradients of the frozen parameters."""
    return jax.tree.map(
      lambda p, m: p if m > 0 else jax.lax.stop_gradient(p),
      params,
      self.multipliers,
    )


def make_optimizer(
  config: config_lib.OptimizerConfig,
  params: Any,
  *,
  total_steps: int,
  steps_per_epoch: int | None = None,
) -> Optimizer:
  """Makes an optimizer: clip, adapt, decay, scale.

  Weight decay applies to `decayed`, with "adam" to every parameter. Frozen
  parameters have no moments and are excluded from the norm.

  Args:
    config: see the comments of OptimizerConfig.
    params: the parameters or their shapes.
    total_steps: the length of the run, to which a cosine decays.
    steps_per_epoch: steps of an epoch, for a warm-up in epochs.

  Raises:
    ValueError: a group's regex matches no parameter, or all are frozen.
  """
  schedule = make_schedule(
    config, total_steps=total_steps, steps_per_epoch=steps_per_epoch
  )
  multipliers = group_multipliers(config, params)
  labels = jax.tree.map(lambda m: _TRAINED if m > 0 else _FROZEN, multipliers)
  if _TRAINED not in jax.tree.leaves(labels):
    raise ValueError("All parameters are frozen: loosen optimizer.groups.")
  parts = []
  if config.gradient_clip is not None:
    parts.append(optax.clip_by_global_norm(config.gradient_clip))
  decay, adam = [], optax.scale_by_adam(b1=config.b1, b2=config.b2)
  if config.weight_decay:
    mask = None if config.name == "adam" else decayed
    decay.append(optax.add_decayed_weights(config.weight_decay, mask=mask))
  if config.name == "adamw":
    parts += [adam, *decay]
  elif config.name == "adam":
    parts += [*decay, adam]
  else:  # decay goes through the momentum, as where SGD's recipes come from
    parts += [*decay, optax.trace(decay=config.b1)]
  parts += [_scale_by(multipliers), optax.scale_by_learning_rate(schedule)]
  transform = optax.multi_transform(
    {_TRAINED: optax.chain(*parts), _FROZEN: optax.set_to_zero()}, labels
  )
  return Optimizer(transform.init, transform.update, schedule, multipliers)


def decayed(params: Any) -> Any:
  """Returns a mask of the parameters that weight decay applies to.

  These are the weights of linear maps and convolutions, "kernel", and the
  vectors of tokens, "embedding". Everything else is excluded: biases, scales of
  norms, learned positions, class tokens and pooling queries, temperatures and
  other scalars. The criterion is the name and not the number of axes, because
  layers under a scan are stacked: their biases have two axes.
  """

  def is_decayed(name):
    return name.rpartition(paths.SEPARATOR)[2] in _DECAYED_NAMES

  return jax.tree.map(is_decayed, paths.names(params))


def make_schedule(
  config: config_lib.OptimizerConfig,
  *,
  total_steps: int,
  steps_per_epoch: int | None = None,
) -> Callable:
  """Makes a schedule: linear warm-up, then cosine to 0, steps or constant.

  "step" is constant between its drops.
  """
  warmup_steps = config.warmup.in_steps(
    total_steps=total_steps, steps_per_epoch=steps_per_epoch
  )
  if warmup_steps > total_steps:
    raise ValueError(
      f"The warm-up of {warmup_steps} steps is longer than the run of "
      f"{total_steps}: shorten optimizer.warmup_*."
    )
  peak = config.learning_rate
  if not total_steps:
    return optax.constant_schedule(peak)
  if config.schedule == "cosine":
    after = optax.cosine_decay_schedule(
      peak, max(total_steps - warmup_steps, 1)
    )
  elif config.schedule == "step":
    falls = [
      config_lib.Duration(percent, "percent").in_steps(total_steps=total_steps)
      for percent in config.decay_percents
    ]
    if falls[0] < warmup_steps or len(set(falls)) < len(falls):
      raise ValueError(
        f"The learning rate falls after steps {falls} of {total_steps}; they "
        f"must differ and come after the warm-up of {warmup_steps} steps: "
        "change optimizer.decay_percents, or warmup_*, or train for longer."
      )
    after = optax.piecewise_constant_schedule(
      peak, {fall - warmup_steps: config.decay_factor for fall in falls}
    )
  else:
    after = optax.constant_schedule(peak)
  if not warmup_steps:
    return after

  # From peak / n rather than 0, so that the first step has an effect.
  def warmup(count):
    return peak * (count + 1) / warmup_steps

  return optax.join_schedules([warmup, after], [warmup_steps])


def group_multipliers(config: config_lib.OptimizerConfig, params: Any) -> Any:
  """Returns learning-rate multipliers of parameters, 1 outside groups.

  Tracked collections belong to no group and have 0.

  Raises:
    ValueError: a regex matches no parameter; lists all such.
  """
  names = paths.names(params)
  matched = set()

  def multiplier(name):
    if task_lib.is_tracked(name):
      return 0.0
    for index, (pattern, value) in enumerate(config.groups):
      if re.search(pattern, name):
        matched.add(index)
        return float(value)
    return 1.0

  result = jax.tree.map(multiplier, names)
  unmatched = [
    pattern
    for index, (pattern, _) in enumerate(config.groups)
    if index not in matched
  ]
  if unmatched:
    known = "\n  ".join(jax.tree.leaves(names))
    raise ValueError(
      f"optimizer.groups {unmatched} match no parameter that an earlier group "
      f"has not taken. The parameters are:\n  {known}"
    )
  return result


def _scale_by(multipliers: Any) -> optax.GradientTransformation:
  """Scales each update by a constant; frozen leaves are absent."""

  def update(updates, state, params=None):
    del params
    is_masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
    scaled = jax.tree.map(
      lambda u, m: u if is_masked(u) or m == 1.0 else u * m,
      updates,
      multipliers,
      is_leaf=is_masked,
    )
    return scaled, state

  init = optax.identity().init
  return optax.GradientTransformation(init, update)
