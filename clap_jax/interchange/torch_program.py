"""Interprets the pickle opcodes of PyTorch files without execution.

The standard library's disassembler reads the instructions, and a stack machine
of our own interprets them. It supports numbers, texts, containers and tensors,
and cannot import or call anything: other names are refused.
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

# Maps storage classes to the type of their numbers in the file.
_STORAGES = {
  "DoubleStorage": np.dtype("<f8"),
  "FloatStorage": np.dtype("<f4"),
  "HalfStorage": np.dtype("<f2"),
  "BFloat16Storage": np.dtype("<u2"),  # the upper half of a float32
  "LongStorage": np.dtype("<i8"),
  "IntStorage": np.dtype("<i4"),
  "ShortStorage": np.dtype("<i2"),
  "CharStorage": np.dtype("i1"),
  "ByteStorage": np.dtype("u1"),
  "BoolStorage": np.dtype("?"),
}
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_ORDERED_DICT = "collections OrderedDict"
# TorchScript's classes and its wrappers of typed lists.
_SCRIPTED = "__torch__."
_SCRIPTED_LISTS = tuple(
  f"torch.jit._pickle build_{kind}list"
  for kind in ("int", "double", "bool", "tensor")
)
# Other objects in training checkpoints; read as empty and dropped.
_INERT = (
  "argparse Namespace",
  # Hyper-parameters of Lightning's checkpoints.
  "pytorch_lightning.utilities.parsing AttributeDict",
  "lightning.fabric.utilities.data AttributeDict",
  "lightning_fabric.utilities.data AttributeDict",
  "collections Counter",  # milestones of a MultiStepLR
  "pathlib PosixPath",
  "torch Size",
  "torch device",
  # A number of NumPy's.
  "numpy dtype",
  "numpy.core.multiarray scalar",
  "numpy._core.multiarray scalar",
  "_codecs encode",
)
_TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "bool")
_ADMITTED = (
  _TENSOR,
  _PARAMETER,
  _ORDERED_DICT,
  *_INERT,
  *(f"torch {name}" for name in (*_STORAGES, *_TYPES)),
)


# Programs of published weights have up to a few hundred thousand.
_MAX_INSTRUCTIONS = 1 << 22
# Items copied from earlier containers; a program can copy one container any
# number of times.
_MAX_COPIED_ITEMS = 1 << 19
_MAX_PROGRAM_BYTES = 64 << 20
MAX_DIMENSIONS = 64  # PyTorch's limit
# Enough for any number of bytes or elements; wider integers could be made to
# collide as dictionary keys.
_MAX_INTEGER_BITS = 96


class TorchFileError(ValueError):
  """Raised if a file is damaged, of another kind, or uses more than tensors."""


class Global(NamedTuple):
  name: str  # "module name", as in the file


class Inert(NamedTuple):
  name: str


class Scripted(dict):
  """The attributes of a TorchScript module, without its class."""


class Storage(NamedTuple):
  key: str
  dtype: np.dtype
  is_bfloat16: bool
  count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def run(
  file: BinaryIO, *, scripted: bool = False
) -> tuple[Any, dict[str, Storage]]:
  """Runs one program.

  Args:
    file: file at the start of the program.
    scripted: whether the archive is TorchScript's; objects of its own classes
      are then read as dictionaries of their attributes.

  Returns:
    The result, and the storages that it refers to.
  """
  machine = _Machine(scripted=scripted)
  program, num_instructions = _Program(file), 0
  try:
    # It reads and reads lines, no more.
    for opcode, argument, _ in pickletools.genops(program):  # pyright: ignore[reportArgumentType]
      if opcode.name == "STOP":
        return machine.pop(), machine.storages
      num_instructions += 1
      if num_instructions > _MAX_INSTRUCTIONS:
        raise TorchFileError(
          f"its program has more than {_MAX_INSTRUCTIONS} instructions."
        )
      machine.step(opcode.name, argument)
  except (ValueError, TypeError, UnicodeError) as error:
    if isinstance(error, TorchFileError):
      raise
    raise TorchFileError(f"not a PyTorch file: {error}") from error
  raise TorchFileError("the program has no end.")


class _Program:
  """The bytes of one program, with bounded reads.

  A text may claim any length, and a line may extend to the end of the file.
  """

  def __init__(self, file: BinaryIO):
    self._file = file
    self._left = _MAX_PROGRAM_BYTES

  def read(self, size: int) -> bytes:
    return self._counted(self._file.read, size)

  def readline(self) -> bytes:
    return self._counted(self._file.readline, self._left + 1)

  def _counted(self, read: Callable[[int], bytes], size: int) -> bytes:
    content = read(min(size, self._left + 1))
    self._left -= len(content)
    if self._left < 0:
      raise TorchFileError(
        f"its program has more than {_MAX_PROGRAM_BYTES} bytes."
      )
    return content


_MARK = object()
_CONSTANTS = {
  "NONE": lambda: None,
  "NEWTRUE": lambda: True,
  "NEWFALSE": lambda: False,
  "EMPTY_DICT": dict,
  "EMPTY_LIST": list,
  "EMPTY_TUPLE": tuple,
  "EMPTY_SET": list,
}
_LITERALS = (
  "INT",
  "BININT",
  "BININT1",
  "BININT2",
  "LONG",
  "LONG1",
  "LONG4",
  "FLOAT",
  "BINFLOAT",
  "STRING",
  "BINSTRING",
  "SHORT_BINSTRING",
  "UNICODE",
  "SHORT_BINUNICODE",
  "BINUNICODE",
  "BINUNICODE8",
  "BINBYTES",
  "SHORT_BINBYTES",
  "BINBYTES8",
)


class _Machine:
  """A stack machine that cannot call anything."""

  def __init__(self, *, scripted: bool):
    self._scripted = scripted
    self.storages: dict[str, Storage] = {}
    self._stack: list[Any] = []
    self._memo: dict[int, Any] = {}
    self._num_copied_items = 0
    self._steps: dict[str, Callable] = {
      "MARK": lambda _: self._stack.append(_MARK),
      "POP": lambda _: self.pop(),
      "POP_MARK": lambda _: self._pop_to_mark(),
      "DUP": lambda _: self._stack.append(self._stack[-1]),
      "TUPLE": lambda _: self._stack.append(tuple(self._pop_to_mark())),
      "TUPLE1": lambda _: self._tuple(1),
      "TUPLE2": lambda _: self._tuple(2),
      "TUPLE3": lambda _: self._tuple(3),
      "LIST": lambda _: self._stack.append(self._pop_to_mark()),
      "DICT": lambda _: self._stack.append(_pairs(self._pop_to_mark())),
      "APPEND": lambda _: self._extend([self.pop()]),
      "APPENDS": lambda _: self._extend(self._pop_to_mark()),
      "ADDITEMS": lambda _: self._extend(self._pop_to_mark()),
      "SETITEM": lambda _: self._update([self.pop(), self.pop()][::-1]),
      "SETITEMS": lambda _: self._update(self._pop_to_mark()),
      "MEMOIZE": lambda _: self._remember(len(self._memo)),
      "GLOBAL": self._global,
      "STACK_GLOBAL": lambda _: self._stack_global(),
      "REDUCE": lambda _: self._reduce(),
      "NEWOBJ": lambda _: self._reduce(),
      "BUILD": lambda _: self._build(),
      "BINPERSID": lambda _: self._stack.append(self._storage(self.pop())),
    }
    for name in ("PUT", "BINPUT", "LONG_BINPUT"):
      self._steps[name] = self._remember
    for name in ("GET", "BINGET", "LONG_BINGET"):
      self._steps[name] = lambda key: self._stack.append(self._memo[key])
    for name in ("PROTO", "FRAME"):
      self._steps[name] = lambda _: None

  def step(self, name: str, argument: Any) -> None:
    if name in _CONSTANTS:
      self._stack.append(_CONSTANTS[name]())
    elif name in _LITERALS:
      if isinstance(argument, int):
        _check_width(argument)
      self._stack.append(argument)
    elif name in self._steps:
      self._steps[name](argument)
    else:
      raise TorchFileError(
        f"asks for the instruction {name}, which is refused."
      )

  def pop(self) -> Any:
    return self._stack.pop()

  def _pop_to_mark(self) -> list[Any]:
    start = len(self._stack) - 1
    while self._stack[start] is not _MARK:
      start -= 1
      if start < 0:
        raise TorchFileError("a container has no beginning.")
    items = self._stack[start + 1 :]
    del self._stack[start:]
    return items

  def _tuple(self, count: int) -> None:
    items = tuple(self._stack[-count:])
    del self._stack[-count:]
    self._stack.append(items)

  def _extend(self, items: list[Any]) -> None:
    if not isinstance(self._stack[-1], list):
      raise TorchFileError("appends to what is not a list.")
    self._stack[-1].extend(items)

  def _update(self, items: list[Any]) -> None:
    if isinstance(self._stack[-1], Inert):
      return
    if not isinstance(self._stack[-1], dict):
      raise TorchFileError("sets items of what is not a dictionary.")
    self._stack[-1].update(_pairs(items))

  def _remember(self, key: int) -> None:
    _check_width(key)
    self._memo[key] = self._stack[-1]

  def _global(self, name: str) -> None:
    admitted = name in _ADMITTED or (
      self._scripted and (_is_scripted(name) or name in _SCRIPTED_LISTS)
    )
    if not admitted:
      raise TorchFileError(
        f"asks for {name[:200].replace(' ', '.')!r}. Only tensors are "
        "admitted; nothing was run. If you trust the file, load it with "
        "PyTorch and save its state_dict as safetensors."
      )
    self._stack.append(Global(name))

  def _stack_global(self) -> None:
    name, module = self.pop(), self.pop()
    if not isinstance(name, str) or not isinstance(module, str):
      raise TorchFileError("names what is not a text.")
    self._global(f"{module} {name}")

  def _reduce(self) -> None:
    arguments, function = self.pop(), self.pop()
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
      raise TorchFileError("calls a name that is not admitted.")
    if function.name == _ORDERED_DICT:
      self._stack.append(self._ordered(arguments))
    elif function.name == _PARAMETER:
      self._stack.append(arguments[0])
    elif function.name == _TENSOR:
      self._stack.append(_tensor(*arguments[:4]))
    elif function.name in _INERT:
      self._stack.append(Inert(function.name))
    elif _is_scripted(function.name) and not arguments:
      self._stack.append(Scripted())
    elif function.name in _SCRIPTED_LISTS and len(arguments) == 1:
      self._stack.append(arguments[0])
    else:
      raise TorchFileError(f"calls {function.name.replace(' ', '.')!r}.")

  def _build(self) -> None:
    """Attributes of an object: those of a dictionary are PyTorch's metadata."""
    attributes = self.pop()
    if isinstance(self._stack[-1], Scripted):
      if not isinstance(attributes, dict):
        raise TorchFileError("a TorchScript object of no named attributes.")
      self._count_copied(len(attributes))
      self._stack[-1].update(attributes)
    elif not isinstance(self._stack[-1], dict | Inert | Tensor):
      raise TorchFileError("sets attributes of what is not an object.")

  def _storage(self, reference: Any) -> Storage:
    # ("storage", class, key, device, count[, view metadata of old files])
    # The value is not shown, because nested containers may be endless.
    if not isinstance(reference, tuple) or len(reference) < 5:
      raise TorchFileError("an unknown reference.")
    kind, storage_class, key, _, count = reference[:5]
    if kind != "storage" or not isinstance(storage_class, Global):
      raise TorchFileError("an unknown reference.")
    _check_sizes((count,))
    if len(reference) > 5 and reference[5] is not None:
      raise TorchFileError("a view of a storage: save the file again.")
    name = storage_class.name.removeprefix("torch ")
    if name not in _STORAGES or not isinstance(key, str):
      raise TorchFileError(f"an unknown storage {storage_class.name!r:.80}.")
    storage = Storage(key, _STORAGES[name], name == "BFloat16Storage", count)
    if self.storages.setdefault(key, storage) != storage:
      raise TorchFileError(f"storage {key!r:.40} is described in two ways.")
    return storage

  def _ordered(self, arguments: tuple) -> dict:
    """Reads the arguments of an OrderedDict: nothing, or a list of pairs."""
    pairs = arguments[0] if arguments else []
    if not isinstance(pairs, list | tuple):
      raise TorchFileError("a dictionary is made of what are not pairs.")
    self._count_copied(len(pairs))
    flat = []
    for pair in pairs:
      if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise TorchFileError("a dictionary is made of what are not pairs.")
      flat += pair
    return _pairs(flat)

  def _count_copied(self, count: int) -> None:
    self._num_copied_items += count
    if self._num_copied_items > _MAX_COPIED_ITEMS:
      raise TorchFileError("its containers are copied too often.")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
  if not isinstance(storage, Storage):
    raise TorchFileError("a tensor without a storage.")
  for sizes in (shape, strides):
    if not isinstance(sizes, tuple | list):
      raise TorchFileError("a tensor whose shape is not a list of numbers.")
    if len(sizes) > MAX_DIMENSIONS:
      raise TorchFileError(
        f"a tensor of {len(sizes)} dimensions; at most {MAX_DIMENSIONS} are "
        "read."
      )
    _check_sizes(sizes)
  _check_sizes((offset,))
  if len(shape) != len(strides):
    raise TorchFileError("a tensor with other strides than sides.")
  return Tensor(storage, offset, tuple(shape), tuple(strides))


def _check_sizes(numbers: tuple | list) -> None:
  if not all(type(n) is int and abs(n) < 1 << 63 for n in numbers):
    raise TorchFileError("a tensor whose sizes are not numbers of 64 bits.")


def _check_width(number: int) -> None:
  if number.bit_length() > _MAX_INTEGER_BITS:
    raise TorchFileError(
      f"an integer of {number.bit_length()} bits; at most {_MAX_INTEGER_BITS} "
      "are read."
    )


def _is_scripted(name: str) -> bool:
  return name.replace(" ", ".").startswith(_SCRIPTED)


def _pairs(items: list[Any]) -> dict:
  # Hashing nested values would recurse as deep as the file says.
  for key in items[::2]:
    if not isinstance(key, str | int | float | bytes | None):
      kind = "tuple" if isinstance(key, tuple) else type(key).__name__
      raise TorchFileError(f"a dictionary's key is a {kind}.")
  return dict(zip(items[::2], items[1::2], strict=True))
