"""Describes TPU slices for ahead-of-time compilation.

The TPU compiler comes with the package `libtpu` (extra `tpu-compile`) and needs
no TPU. Figures of the chips: Google Cloud's documentation of TPU v4, v5e, v5p,
v6e and TPU7x; bandwidth into the data-center network is that of a host or pod
divided by its chips. The usable memory is as stated by the compiler.
"""

import importlib.util
import math
import os
import pathlib
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from clap_jax.types import Device


class Chip(NamedTuple):
  """Peaks and limits of one chip."""

  flops_per_sec: float  # bfloat16
  hbm_bytes_per_sec: float
  ici_bytes_per_sec: float  # out of the chip, over all of its links
  dcn_bytes_per_sec: float  # out of the chip's host, its share
  limit_bytes: int  # of HBM, for one program
  host_bounds: tuple[int, int, int]  # chips of one host
  num_devices: int = 1  # that the compiler and JAX make of it


_GIB = 2**30
CHIPS = {
  "v4": Chip(275e12, 1228e9, 300e9, 6.25e9, int(31.25 * _GIB), (2, 2, 1)),
  "v5e": Chip(197e12, 819e9, 200e9, 3.125e9, int(15.75 * _GIB), (2, 2, 1)),
  "v6e": Chip(918e12, 1638e9, 400e9, 12.5e9, int(31.25 * _GIB), (2, 2, 1)),
  "v5p": Chip(459e12, 2765e9, 600e9, 6.25e9, int(95.74 * _GIB), (2, 2, 1)),
  "tpu7x": Chip(
    2307e12, 7380e9, 600e9, 12.5e9, int(2 * 94.75 * _GIB), (2, 2, 1), 2
  ),
}
_ALIASES = {"v7x": "tpu7x"}  # Ironwood

_FLAT = ("v5e", "v6e")  # slices of these are rectangles of chips

# Both cores of a chip make one device, as on the machines themselves.
_MEGACORE = ("v4", "v5p")

# Slices that can be rented, in order of their size.
# Source: Google Cloud's documentation of TPU v5e.
SLICES = {
  "v5e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
}


class Name(NamedTuple):
  """The parts of a topology's name."""

  generation: str
  sides: tuple[int, ...]  # chips of one slice along each axis
  num_slices: int

  @property
  def chip(self) -> Chip:
    return CHIPS[self.generation]

  @property
  def one_slice(self) -> str:
    """Returns the compiler's name of one of the slices."""
    return f"{self.generation}:{'x'.join(map(str, self.sides))}"

  @property
  def num_chips(self) -> int:
    return self.num_slices * math.prod(self.sides)

  @property
  def num_devices(self) -> int:
    return self.num_chips * self.chip.num_devices


class Topology(NamedTuple):
  """Equal slices by their name, and their devices."""

  name: str
  chip: Chip
  devices: tuple[Device, ...]
  num_slices: int = 1


def parse_name(name: str) -> Name:
  """Parses a name like "v5e:16x16", or "2xv5e:16x16" for two such slices.

  Raises:
    ValueError: the name is malformed or has an unknown generation.
  """
  match = re.fullmatch(r"(?:(\d+)x)?(\w+):(\d+(?:x\d+){1,2})", name)
  generation = _ALIASES.get(match[2], match[2]) if match else None
  if match is None or generation not in CHIPS:
    raise ValueError(
      f"topology: got {name!r}; expected [SLICESx]GENERATION:AxB or AxBxC "
      f"with a generation of {', '.join(CHIPS)}, for example v5e:16x16 or "
      "2xv5e:16x16."
    )
  parsed = Name(
    generation=generation,
    sides=tuple(int(side) for side in match[3].split("x")),
    num_slices=int(match[1] or 1),
  )
  if not parsed.num_chips:
    raise ValueError(f"topology: {name!r} has no chips.")
  if parsed.generation in _FLAT and math.prod(parsed.sides[2:]) > 1:
    raise ValueError(
      f"topology: {name!r} has three sides; a slice of {parsed.generation} is "
      f"AxB, for example {parsed.generation}:4x4."
    )
  return parsed


def library_path() -> str | None:
  """Returns the path of libtpu.so without importing it, or None."""
  path = os.environ.get("TPU_LIBRARY_PATH")
  if path:
    return path
  found = importlib.util.find_spec("libtpu")
  if found is None or not found.submodule_search_locations:
    return None
  return str(pathlib.Path(found.submodule_search_locations[0], "libtpu.so"))


def describe(name: str) -> Topology:
  """Describes the devices of slices, which need not exist.

  Raises:
    ValueError: the name is malformed or refused by the compiler.
    FileNotFoundError: libtpu is not installed.
  """
  parsed = parse_name(name)
  chip, sides = parsed.chip, parsed.sides
  path = library_path()
  if path is None or not pathlib.Path(path).is_file():
    raise FileNotFoundError(
      "The TPU compiler is not installed; install it with "
      "`pip install -e .[tpu-compile]` in the checkout (the package libtpu)."
    )
  # Read when the library is loaded: no search for a cloud machine's metadata,
  # and no lock on chips that this process never touches.
  settings = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LIBRARY_PATH": path,
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # of the machine, which has none
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
  }
  for key, value in settings.items():
    os.environ.setdefault(key, value)
  options = {}
  if parsed.num_slices > 1:
    options["num_slices"] = parsed.num_slices
  if parsed.generation in _MEGACORE:
    options["chip_config_name"] = "megacore"
  if math.prod(sides) < math.prod(chip.host_bounds):  # a part of one host
    padded = (*sides, 1)[:3]
    options["chips_per_host_bounds"] = list(padded)
  try:
    description = topologies.get_topology_desc(
      platform="tpu", topology_name=parsed.one_slice, **options
    )
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(f"topology: {name!r} is refused: {error}") from error
  return Topology(name, chip, tuple(description.devices), parsed.num_slices)
