"""Ordered rules that map another program's names and layouts to ours.

The first rule whose regex matches the whole key applies. Its targets are our
names, with the regex's groups filled in; "name[3]" is layer 3 of a parameter
that stacks its layers along its first axis. A rule without targets leaves the
key out on purpose and gives the reason.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rule:
  """A rule that maps the source's keys that fully match a pattern."""

  pattern: str
  targets: tuple[str, ...] = ()
  transform: str = "same"  # a key of TRANSFORMS
  reason: str = ""  # why there is no target


def same(pattern: str, target: str) -> Rule:
  return Rule(pattern, (target,))


def transposed(pattern: str, target: str) -> Rule:
  """Returns the rule of a linear layer: (out, in) -> (in, out)."""
  return Rule(pattern, (target,), "transpose")


def left_out(pattern: str, reason: str) -> Rule:
  return Rule(pattern, reason=reason)


@dataclasses.dataclass(frozen=True)
class Filling:
  """A parameter that the source lacks, and its initial value."""

  pattern: str  # matches our whole name
  value: float
  reason: str


@dataclasses.dataclass(frozen=True)
class Conversion:
  """Weights under our names, and the keys that were left out or filled."""

  weights: dict[str, np.ndarray]
  left_out: dict[str, str]  # key -> reason
  filled: dict[str, str]  # our name -> reason


@dataclasses.dataclass(frozen=True)
class Context:
  """Arguments of a transform besides its array."""

  tensors: Tensors
  patch: tuple[int, int, int] = (1, 1, 1)  # of the video tower
  max_text_length: int = 0  # tokens


def _thirds(array: np.ndarray, _: Context) -> tuple[np.ndarray, ...]:
  return tuple(np.split(array, 3, axis=0))


def _thirds_transposed(array, context):
  return tuple(part.T for part in _thirds(array, context))


def _convolution(array, _):
  """Transposes (out, in, t, y, x) to (t, y, x, in, out)."""
  return (array.transpose(2, 3, 4, 1, 0),)


def _tubelet(array, _):
  """Reshapes patch weights (out, in, t, y, x) to (t * y * x * in, out)."""
  return (array.transpose(2, 3, 4, 1, 0).reshape(-1, array.shape[0]),)


def _inflated_tubelet(array, context):
  """Spreads an image patch convolution (out, in, y, x) over `patch[0]` frames.

  Each frame of a tubelet gets an equal share, so that the output for a still
  tubelet equals that for its image.
  """
  frames = context.patch[0]
  spread = np.repeat(array[:, :, None] / frames, frames, axis=2)
  return _tubelet(spread.astype(array.dtype), context)


def _convolution_1d(array, _):
  """Reshapes (out, in, t) to (t * in, out), a product of shifted copies."""
  return (array.transpose(2, 1, 0).reshape(-1, array.shape[0]),)


def _depthwise_convolution_1d(array, _):
  """Transposes (width, 1, t) to (t, width)."""
  if array.ndim != 3 or array.shape[1] != 1:
    raise ValueError("expected (width, 1, time)")
  return (array[:, 0].T,)


def _twice(function):
  def transform(array, context):
    return 2 * function(array, context)

  return transform


def _positions(array, context):
  """Returns the first positions, up to the maximum text length."""
  return (array[: context.max_text_length],)


def _positions_with_first_token_type(array, context):
  """Adds the embedding of token type 0, the only one used, to positions."""
  name = "embeddings.token_type_embeddings.weight"
  found = [
    tensor for key, tensor in context.tensors.items() if key.endswith(name)
  ]
  if len(found) != 1:
    raise ValueError(f"expected one {name} beside it, found {len(found)}")
  return _positions(array + found[0][0], context)


def _heads_in(array, _):
  """Reshapes layers of (in, heads, width) to layers of (in, heads * width)."""
  return (array.reshape(*array.shape[:2], -1),)


def _heads_bias(array, _):
  """Reshapes layers of (heads, width) to layers of (heads * width)."""
  return (array.reshape(array.shape[0], -1),)


def _heads_out(array, context):
  """Reshapes layers of (out, heads, width) to (heads * width, out)."""
  return (_heads_in(array, context)[0].transpose(0, 2, 1),)


def _same(array: np.ndarray, _: Context) -> tuple[np.ndarray, ...]:
  return (array,)


def _transpose(array: np.ndarray, _: Context) -> tuple[np.ndarray, ...]:
  return (array.T,)


TRANSFORMS: dict[str, Callable[[np.ndarray, Context], tuple]] = {
  "same": _same,
  "twice": _twice(_same),
  "transpose": _transpose,
  "transpose_twice": _twice(_transpose),
  "thirds": _thirds,
  "thirds_twice": _twice(_thirds),
  "thirds_transposed": _thirds_transposed,
  "thirds_transposed_twice": _twice(_thirds_transposed),
  "convolution": _convolution,
  "convolution_1d": _convolution_1d,
  "depthwise_convolution_1d": _depthwise_convolution_1d,
  "flat": lambda array, _: (array.reshape(-1),),
  "last_two_axes": lambda array, _: (array.reshape(array.shape[-2:]),),
  "tubelet": _tubelet,
  "inflated_tubelet": _inflated_tubelet,
  "heads_in": _heads_in,
  "heads_bias": _heads_bias,
  "heads_out": _heads_out,
  "plus_one": lambda array, _: (array + 1.0,),
  "positions": _positions,
  "positions_with_first_token_type": _positions_with_first_token_type,
}


def convert(
  tensors: Tensors,
  *,
  rules: tuple[Rule, ...],
  fillings: tuple[Filling, ...] = (),
  expected: Mapping[str, Any],
  context: Context,
) -> Conversion:
  """Applies the rules and checks the result against the parameters here.

  Args:
    tensors: tensors of the source by key.
    rules: ordered rules; every key must match one.
    fillings: values of parameters that the source lacks.
    expected: maps our names to objects with the expected shape.

  Raises:
    ValueError: if keys have no rule, parameters no value, or names or shapes
      do not match; all of them are listed.
  """
  placed, left, problems = _place(tensors, rules, context)
  weights = {}
  for name, layers in placed.items():
    numbers = sorted(layer for layer in layers if layer is not None)
    if None not in layers and numbers != list(range(len(layers))):
      problems.append(f"{name} has layers {numbers} only")
    elif name not in expected:
      problems.append(f"there is no parameter {name} here")
    elif len({np.shape(layer) for layer in layers.values()}) > 1:
      shapes = {index: np.shape(layer) for index, layer in layers.items()}
      problems.append(f"the layers of {name} have different shapes: {shapes}")
    else:
      weights[name] = _stacked(layers)
  filled = _fill(weights, fillings, expected)
  for name, leaf in expected.items():
    if name not in weights:
      problems.append(f"nothing gives {name} {tuple(leaf.shape)}")
    elif weights[name].shape != tuple(leaf.shape):
      problems.append(
        f"{name} would have shape {weights[name].shape}, expected "
        f"{tuple(leaf.shape)}"
      )
  if problems:
    raise ValueError(
      f"{len(problems)} problem(s) with the weights:\n  "
      + "\n  ".join(problems)
    )
  return Conversion(weights, left, filled)


def _place(tensors, rules, context):
  """Returns (arrays by name and layer, reasons by omitted key, problems)."""
  placed: dict[str, dict[int | None, np.ndarray]] = {}
  left, problems = {}, []
  for key in sorted(tensors):
    rule, match = _first_match(rules, key)
    if rule is None or match is None:
      problems.append(f"no rule for {key} {tensors[key].shape}")
      continue
    if not rule.targets:
      left[key] = rule.reason
      continue
    if tensors[key].dtype.kind != "f":
      problems.append(f"{key} holds {tensors[key].dtype}, expected floats")
      continue
    if not np.isfinite(tensors[key]).all():
      problems.append(f"{key} holds numbers that are not finite")
      continue
    try:
      parts = TRANSFORMS[rule.transform](tensors[key], context)
    except (ValueError, IndexError) as error:
      problems.append(f"{key} {tensors[key].shape}: {error}")
      continue
    for target, part in zip(rule.targets, parts, strict=True):
      name, layer = _split_layer(match.expand(target))
      if layer in placed.setdefault(name, {}):
        problems.append(f"a second key, {key}, becomes {name}")
      placed[name][layer] = part
  return placed, left, problems


def _fill(weights, fillings, expected) -> dict[str, str]:
  """Adds parameters that the source lacks; returns reasons by name."""
  filled = {}
  for name, leaf in expected.items():
    for filling in fillings:
      if name not in weights and re.fullmatch(filling.pattern, name):
        weights[name] = np.full(leaf.shape, filling.value, np.float32)
        filled[name] = filling.reason
  return filled


def _first_match(rules, key):
  for rule in rules:
    match = re.fullmatch(rule.pattern, key)
    if match:
      return rule, match
  return None, None


def _split_layer(target: str) -> tuple[str, int | None]:
  match = re.fullmatch(r"(.*)\[(\d+)\]", target)
  return (match[1], int(match[2])) if match else (target, None)


def _stacked(layers: dict[int | None, np.ndarray]) -> np.ndarray:
  if None in layers:
    array = layers[None]
  else:
    array = np.stack([layers[i] for i in range(len(layers))])
  return np.asarray(array, np.float32, order="C")
