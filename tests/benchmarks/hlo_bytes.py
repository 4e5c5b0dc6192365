"""Bytes that a compiled TPU program moves to and from its memory (HBM).

Every instruction outside of a fusion reads its operands and writes its results,
a loop's as often as the loop runs. Of an array that a fusion only slices or
updates, the slice counts. Arrays in the chip's own vector memory, S(1) of a
layout, do not. Sizes are those of the layout, whose tiles pad the last axes.
"""

import collections
import math
import re
from typing import NamedTuple

from clap_jax.training import hlo

_SHAPE = re.compile(r"\b(pred|bf16|[suf]\d+\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_CALLS = re.compile(r"\bcalls=%?([\w.\-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="(\w+)"')
# These move nothing; what they call counts for itself.
_FREE = re.compile(
  "parameter|constant|tuple|get-tuple-element|bitcast|while|call|conditional|"
  "async-start|after-all|partition-id|.*-done"
)
_FREE_TARGETS = frozenset(("AllocateBuffer", "ConcatBitcast", "SliceBitcast"))


class Array(NamedTuple):
  sides: tuple[int, ...]
  exact: int  # bytes of its values
  padded: int  # bytes of its layout
  in_hbm: bool


class Instruction(NamedTuple):
  name: str
  opcode: str
  arrays: list[Array]  # of the result
  operands: list[str]
  line: str


class Traffic(NamedTuple):
  """Of one call of the program on one device."""

  moved: int  # bytes
  exact: int  # of these, the values'
  cycles: int  # the compiler's estimates, one instruction after the other
  by_side: dict[int, tuple[int, int]]  # arrays with such a side: moved, exact
  largest: list[tuple[int, str]]  # bytes and text of single instructions


def measure(text: str) -> Traffic:
  """Adds up a program, `compiled.as_text()`."""
  bodies, entry = hlo.computations(text)
  parsed = {
    name: [_parse(line) for line in lines if " = " in line]
    for name, lines in bodies.items()
  }
  fused = {
    name
    for lines in bodies.values()
    for line in lines
    if " fusion(" in line
    for name in _CALLS.findall(line)
  }
  totals = collections.Counter()
  by_side = collections.defaultdict(lambda: [0, 0])
  largest = []
  for name, times in hlo.multiplicities(bodies, entry).items():
    if name in fused:
      continue
    arrays = {one.name: one.arrays for one in parsed[name]}
    for one in parsed[name]:
      cycles = _CYCLES.search(one.line)
      totals["cycles"] += times * int(cycles[1]) if cycles else 0
      moved = list(_moved(one, arrays, parsed))
      for array in moved:
        totals["moved"] += times * array.padded
        totals["exact"] += times * array.exact
        for side in set(array.sides):
          by_side[side][0] += times * array.padded
          by_side[side][1] += times * array.exact
      size = times * sum(array.padded for array in moved)
      largest.append((size, f"{times} x {one.line.strip()[:400]}"))
  return Traffic(
    totals["moved"],
    totals["exact"],
    totals["cycles"],
    {side: tuple(pair) for side, pair in by_side.items()},
    sorted(largest, reverse=True)[:40],
  )


def _moved(one: Instruction, arrays, parsed):
  """Yields the arrays in HBM that an instruction reads and writes."""
  target = _TARGET.search(one.line)
  if _FREE.fullmatch(one.opcode):
    return
  if target and target[1] in _FREE_TARGETS:
    return
  operands = [arrays.get(name, []) for name in one.operands]
  called = _CALLS.search(one.line)
  if one.opcode == "fusion" and called:
    read, written = _of_fusion(parsed[called[1]], operands, one, parsed)
  else:
    read, written = _of_plain(one, operands, parsed)
  yield from (array for array in (*read, *written) if array.in_hbm)


def _of_plain(one, operands, parsed):
  """Returns the arrays that an instruction reads and those that it writes."""
  if one.opcode == "slice-start":  # ((operand), result, ...)
    source, result = one.arrays[:2]
    return [result._replace(in_hbm=source.in_hbm)], [result]
  read, written = [], one.arrays
  for name, whole in zip(one.operands, operands, strict=True):
    parts = _reads([one], name, parsed)
    read += whole if parts is None else parts
  if one.opcode.endswith("-start"):  # (result, operand, ...)
    written = one.arrays[:1]
  if one.opcode == "dynamic-update-slice":
    written = operands[1]
  return read, written


def _of_fusion(body, operands, one, parsed):
  """Returns the arrays that a fusion reads and those that it writes."""
  by_name = {inner.name: inner for inner in body}
  read = []
  for inner in body:
    if inner.opcode == "parameter":
      index = int(re.search(r"parameter\((\d+)\)", inner.line)[1])
      whole = operands[index] if index < len(operands) else []
      parts = _reads(body, inner.name, parsed)
      in_memory = any(array.in_hbm for array in whole)
      read += [] if not in_memory else whole if parts is None else parts
  root = next(inner for inner in body if "ROOT" in inner.line[:12])
  roots = [root]
  if root.opcode == "tuple":
    roots = [by_name[name] for name in root.operands]
  written = []
  for inner, array in zip(roots, one.arrays, strict=False):
    source = inner
    while source.opcode == "bitcast":
      source = by_name[source.operands[0]]
    part = source.opcode == "dynamic-update-slice" and array.in_hbm
    written += by_name[source.operands[1]].arrays if part else [array]
  return read, written


def _reads(body, name, parsed) -> list[Array] | None:
  """Returns the slices that a fusion takes of a parameter; None for all."""
  parts: list[Array] = []
  for user in body:
    if name not in user.operands:
      continue
    position = user.operands.index(name)
    called = _CALLS.search(user.line)
    if user.opcode in ("dynamic-slice", "slice") and position == 0:
      found = user.arrays
    elif user.opcode == "dynamic-update-slice" and position == 0:
      found = []
    elif user.opcode == "bitcast":
      found = _reads(body, user.name, parsed)
    elif user.opcode == "fusion" and called:
      inner = parsed[called[1]]
      (parameter,) = (
        one.name
        for one in inner
        if f"parameter({position})" in one.line and one.opcode == "parameter"
      )
      found = _reads(inner, parameter, parsed)
    else:
      return None
    if found is None:
      return None
    parts += found
  return parts


def _parse(line: str) -> Instruction:
  name, right = _INSTRUCTION.match(line).groups()
  opcode = hlo.OPCODE.search(right)
  arrays = [_array(*found) for found in _SHAPE.findall(right[: opcode.start()])]
  inside = _inside(right[opcode.end() :])
  operands = re.findall(r"%([\w.\-]+)", inside)
  return Instruction(name, opcode[1], arrays, operands, line)


def _inside(text: str) -> str:
  """Cuts the text off at the parenthesis that closes it."""
  depth = 1
  for index, character in enumerate(text):
    depth += {"(": 1, ")": -1}.get(character, 0)
    if not depth:
      return text[:index]
  return text


def _array(dtype: str, sides: str, layout: str) -> Array:
  shape = tuple(int(side) for side in sides.split(",") if side)
  bits = hlo.bits_of(dtype)
  exact = math.prod(shape) * bits // 8
  order, _, tiling = layout.partition(":")
  padded = [shape[int(axis)] for axis in order.split(",") if axis]  # last first
  tile = re.match(r"T\(([\d,]+)\)", tiling)
  sides = reversed(tile[1].split(",")) if tile else ()
  for position, side in zip(range(len(padded)), map(int, sides), strict=False):
    padded[position] = -(-padded[position] // side) * side
  size = math.prod(padded) if padded else math.prod(shape)
  return Array(shape, exact, size * bits // 8, "S(" not in layout)
