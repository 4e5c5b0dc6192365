"""Counts the traffic between devices of an optimised XLA program.

The source is the program's text. Within a TPU slice devices communicate over
the inter-chip interconnect (ICI). Between slices the compiler replaces a
collective by host transfers over the data-center network (DCN): a `send` and a
`recv` of each device's part, with the kind of the collective as an attribute.
"""

import math
import re
from typing import NamedTuple

# Opcode -> bytes that leave a device per byte of the larger one of operand and
# result, among g devices; the bandwidth-optimal algorithms.
_SENT = {
  "all-gather": lambda g: (g - 1) / g,
  "reduce-scatter": lambda g: (g - 1) / g,
  "all-reduce": lambda g: 2 * (g - 1) / g,
  "all-to-all": lambda g: (g - 1) / g,
  "ragged-all-to-all": lambda g: (g - 1) / g,
  "collective-permute": lambda g: 1.0,
  "collective-broadcast": lambda g: 1.0,
}
_BITS = {"pred": 8, "bf16": 16}  # others carry their width in the name
_SHAPE = re.compile(r"\b(pred|bf16|[suf]\d+\w*|c\d+)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(
  r"\b(?:calls|body|condition|to_apply|branch_computations|"
  r"called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
OPCODE = re.compile(r"(?<=[\s)}\]])([a-z][a-z0-9\-]*)\(")
_BOUND = re.compile(r"= s32\[\][^ ]* constant\((\d+)\)")
_NAME = re.compile(r"[\w.\-]+")
_FUSION = re.compile(r" fusion\(.*?calls=%?([\w.\-]+)")
_CHANNEL_AND_ORIGIN = re.compile(
  r'channel_id=\d+|op_name="[^"]*"|stack_frame_id=\d+'
)
# Fusions of an all-reduce and a slice send as much as a reduce-scatter.
_SCATTERING = "all-reduce-scatter"
ICI, DCN = "ici", "dcn"
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="([A-Z_]+)"')
_TRANSFERS = {
  "ALL_REDUCE": "all-reduce",
  "ALL_GATHER": "all-gather",
  "REDUCE_SCATTER": "reduce-scatter",
  "ALL_TO_ALL": "all-to-all",
  "ONE_TO_ONE": "collective-permute",
}


class Collective(NamedTuple):
  """Calls of one collective and group size, per step and device."""

  kind: str
  group_size: int  # devices that take part together; over DCN: slices
  calls: int
  sent_bytes: int  # that leave one device, by the best algorithm
  network: str = ICI  # or DCN


def collectives(
  text: str, *, num_devices: int, num_slices: int = 1
) -> list[Collective]:
  """Returns the collectives of a compiled program, largest first.

  A loop's body is multiplied by its bound, an integer constant in the loop's
  condition, or by one without a bound. A collective that the TPU compiler
  spreads over several fusions occurs in each of them, with one shape, channel
  and origin, and counts once. Elsewhere channels are meaningless: all
  collectives of `shard_map` share the first.

  Args:
    text: `compiled.as_text()`.
    num_devices: devices of one slice, the group of collectives without one.
    num_slices: number of slices that the program runs on.

  Raises:
    ValueError: the text is not a program, or has an unknown DCN transfer.
  """
  bodies, entry = computations(text)
  fusions = set(_FUSION.findall(text))
  totals: dict[tuple[str, int, str], list[int]] = {}
  spread: set[tuple] = set()
  for name, times in multiplicities(bodies, entry).items():
    scatters = name.startswith(_SCATTERING)
    for line in bodies[name]:
      found = _dcn_transfer_of(line, num_slices) or _collective_of(
        line, num_devices, scatters=scatters
      )
      if found is None:
        continue
      kind, group_size, sent, network = found
      if name in fusions and times and not scatters:
        part = (kind, group_size, sent, *_CHANNEL_AND_ORIGIN.findall(line))
        if part in spread:
          continue
        spread.add(part)
      total = totals.setdefault((kind, group_size, network), [0, 0])
      total[0] += times
      total[1] += round(times * sent)
  rows = [
    Collective(kind, group_size, calls, sent_bytes, network)
    for (kind, group_size, network), (calls, sent_bytes) in totals.items()
  ]
  return sorted(rows, key=lambda row: -row.sent_bytes)


def computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Returns instruction lines by computation, and the entry's name."""
  bodies: dict[str, list[str]] = {}
  entry = current = ""
  for line in text.splitlines():
    match = _COMPUTATION.match(line)
    if match:
      current = match[2]
      bodies[current] = []
      if match[1]:
        entry = current
    elif line.startswith("}"):
      current = ""
    elif current:
      bodies[current].append(line)
  if not entry:
    raise ValueError("The text holds no HLO module: it has no ENTRY.")
  return bodies, entry


def multiplicities(bodies, entry: str) -> dict[str, int]:
  """Counts how often each computation runs in one call of the entry."""
  order: list[str] = []
  seen: set[str] = set()

  def visit(name):  # callees after all of their callers, once reversed
    if name in seen:
      return
    seen.add(name)
    for line in bodies[name]:
      for callee, _ in _calls(line, bodies):
        visit(callee)
    order.append(name)

  visit(entry)
  times = dict.fromkeys(order, 0)
  times[entry] = 1
  for name in reversed(order):
    for line in bodies[name]:
      for callee, factor in _calls(line, bodies):
        times[callee] += times[name] * factor
  return times


def _calls(line: str, bodies) -> list[tuple[str, int]]:
  """Returns the computations that an instruction runs, with counts."""
  callees = [
    name
    for group in _CALLED.findall(line)
    for name in _NAME.findall(group)
    if name in bodies
  ]
  if " while(" not in line:
    return [(name, 1) for name in callees]
  conditions = re.findall(r"condition=%?([\w.\-]+)", line)
  bounds = _BOUND.findall("\n".join(bodies[conditions[0]]))
  times = int(bounds[0]) if len(bounds) == 1 else 1
  return [(name, times) for name in callees]


def _dcn_transfer_of(line: str, num_slices: int):
  """Returns (kind, slices, bytes sent, DCN) of a host transfer, or None.

  Only `send` counts: the matching `recv` is its other end. The operand is the
  part of one device, which is smaller than the result of a gather.
  """
  _, equals, right = line.partition(" = ")
  opcode = OPCODE.search(right) if equals else None
  if opcode is None or opcode[1] != "send":
    return None
  transfer = _TRANSFER.search(line)
  if transfer is None:  # to the host alone, as a callback
    return None
  if transfer[1] not in _TRANSFERS:
    raise ValueError(
      f"Unknown DCN transfer {transfer[1]!r}; expected one of "
      f"{', '.join(_TRANSFERS)}."
    )
  kind = _TRANSFERS[transfer[1]]
  size = _num_bytes(*_SHAPE.findall(right[: opcode.start()])[0])
  if kind == "all-gather":
    size *= num_slices
  return kind, num_slices, size * _SENT[kind](num_slices), DCN


def _collective_of(line: str, num_devices: int, *, scatters: bool):
  """Returns (kind, group size, bytes sent, ICI) of an instruction, or None."""
  _, equals, right = line.partition(" = ")
  opcode = OPCODE.search(right) if equals else None
  if opcode is None:
    return None
  kind = opcode[1].removesuffix("-start")
  if kind not in _SENT:
    return None
  shapes = _SHAPE.findall(right[: opcode.start()])
  size = sum(_num_bytes(*shape) for shape in shapes if shape[1])
  group_size = _group_size(line, num_devices)
  if kind == "reduce-scatter":  # the operand is the larger one
    size *= group_size
  elif opcode[1] == "all-gather-start":  # a tuple of operand and result
    size = size * group_size // (group_size + 1)
  elif opcode[1] == "collective-permute-start":  # likewise, of one size
    size //= 2
  if scatters and kind == "all-reduce":
    kind = "reduce-scatter"
  return kind, group_size, size * _SENT[kind](group_size), ICI


def bits_of(dtype: str) -> int:
  """Returns the size of an element in bits."""
  return _BITS.get(dtype) or int(re.findall(r"\d+", dtype)[0])


def _num_bytes(dtype: str, sides: str) -> int:
  count = math.prod(int(side) for side in sides.split(",") if side)
  return count * bits_of(dtype) // 8


def _group_size(line: str, num_devices: int) -> int:
  iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
  if iota:
    return int(iota[2])
  by_axes = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line)
  if by_axes:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", by_axes[1]))
    # A part of an axis is written 'name':(size before it)size.
    axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", by_axes[2])
    return math.prod(int(part or sizes[name]) for name, part in axes)
  listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
  if listed:
    return len(listed[1].split(","))
  return num_devices
