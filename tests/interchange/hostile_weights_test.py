"""Small files of weights that would take all memory, or minutes."""

import os
import re
import resource
import struct
import time
import zipfile

import numpy as np
import pytest

from clap_jax import main
from clap_jax.interchange import torch_file, weight_files
from tests.interchange import torch_writer

MAX_SEC, MAX_BYTES = 10.0, 256 << 20
_MODULUS = (1 << 61) - 1  # of the hash of an integer


def archive(path, body, members=(), *, order=b"little", how=None):
  with zipfile.ZipFile(path, "w") as file:
    file.writestr("a/data.pkl", torch_writer.program(body))
    file.writestr("a/byteorder", order, how or zipfile.ZIP_STORED)
    for name, content in members:
      file.writestr(f"a/{name}", content)
  return path


def list_holding_itself():
  return b"]q\x00(" + b"h\x00" * 20_000 + b"e"


def colliding_keys():
  pairs = b"".join(
    b"\x8a\x18" + (k * _MODULUS).to_bytes(24, "little") + b"N"
    for k in range(1 << 40, (1 << 40) + 60_000)
  )
  return b"}(" + pairs + b"u"


def colliding_memo():
  return b"N" + b"".join(
    b"p%d\n" % (k * _MODULUS) for k in range(1 << 70, (1 << 70) + 60_000)
  )


def tensor(shape, strides, count=1):
  def numbers(values):
    return b"(" + b"".join(map(torch_writer.number, values)) + b"t"

  return (
    b"ctorch._utils\n_rebuild_tensor_v2\n(("
    + torch_writer.text("storage")
    + b"ctorch\nFloatStorage\n"
    + torch_writer.text("0")
    + torch_writer.text("cpu")
    + torch_writer.number(count)
    + b"tQ"
    + torch_writer.number(0)
    + numbers(shape)
    + numbers(strides)
    + b"\x89ccollections\nOrderedDict\n)RtR"
  )


def doubled_lists(depth=40):
  return b"]q\x00" + b"".join(
    b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(depth)
  )


def copied_dictionaries():
  """One list of 10,000 pairs, made a dictionary 10,000 times."""
  pairs = b"](" + b"(K\x00K\x01t" * 10_000 + b"e"
  made = b"ccollections\nOrderedDict\n(h\x00tR"
  return pairs + b"q\x00(" + made * 10_000 + b"l"


def copied_attributes():
  """One dictionary of 10,000 attributes, set on 10,000 objects."""
  names = b"".join(
    torch_writer.text(f"n{number}") + b"N" for number in range(10_000)
  )
  made = b"c__torch__.M\nM\n)\x81h\x00b"
  return b"}(" + names + b"uq\x00(" + made * 10_000 + b"l"


ATTACKS = {
  "list holding itself": (list_holding_itself(), "more than .* parts"),
  "colliding keys": (colliding_keys(), "integer of"),
  "colliding memo": (colliding_memo(), "integer of"),
  "shape of 200,000 numbers": (
    tensor([1] * 200_000, [1] * 200_000),
    "200000 dimensions",
  ),
  "copied dictionaries": (copied_dictionaries(), "copied too often"),
  "copied attributes": (copied_attributes(), "copied too often"),
  "reference of nested lists": (doubled_lists() + b"Q", "unknown reference"),
  "storage of nested lists": (
    b"("
    + torch_writer.text("storage")
    + b"ctorch\nFloatStorage\n"
    + torch_writer.text("0")
    + torch_writer.text("cpu")
    + doubled_lists()
    + b"tQ",
    "sizes are not numbers",
  ),
  "text of 1 TiB": (b"\x8d" + struct.pack("<Q", 1 << 40), "expected .* bytes"),
  "integer of 5,000 digits": (b"L" + b"1" * 5000 + b"L\n", "not a PyTorch"),
  "keys of lists": (b"}]Ns", "key is a list"),
}


def measured(call):
  """(error, seconds, bytes of growth) of a call that must be refused."""
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  start = time.monotonic()
  with pytest.raises(ValueError) as info:
    call()
  seconds = time.monotonic() - start
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return str(info.value), seconds, (after - before) << 10


@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize("name", ATTACKS)
def test_small_programs_take_little(tmp_path, name, layout):
  body, message = ATTACKS[name]
  path = tmp_path / "a.pth"
  if layout == "zip":
    members = [("data/0", bytes(4)), ("code/a.py", b"")]
    archive(path, body, members)
  elif name == "copied attributes":
    pytest.skip("TorchScript has the zip layout only")
  else:
    path.write_bytes(legacy(body))
  error, seconds, peak = measured(lambda: torch_file.read(path))
  assert str(path) in error
  assert re.search(message, error)
  assert seconds < MAX_SEC
  assert peak < MAX_BYTES


def legacy(body):
  magic = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
  system = b"}" + torch_writer.text("little_endian") + b"\x88s"
  head = (b"\x8a\x0a" + magic, b"M\xe9\x03", system)
  return b"".join(map(torch_writer.program, (*head, body, b"]")))


def test_a_packed_member_beside_the_program(tmp_path):
  """8 GiB of zeros in a few kilobytes; a stand-in of 32 MiB here."""
  path = archive(
    tmp_path / "a.pth", b"N", order=bytes(32 << 20), how=zipfile.ZIP_BZIP2
  )
  assert path.stat().st_size < 10_000
  error, _, peak = measured(lambda: torch_file.read(path))
  assert "byteorder" in error and "compressed" in error
  assert peak < 16 << 20


def test_a_line_without_an_end(tmp_path):
  path = tmp_path / "a.pth"
  with path.open("wb") as file:
    file.write(b"\x80\x02c")
    file.truncate(8 << 30)  # takes no room on the disk
  error, seconds, peak = measured(lambda: torch_file.read(path))
  assert "program has more than" in error
  assert seconds < MAX_SEC
  assert peak < MAX_BYTES


def test_storages_that_share_their_place(tmp_path):
  """More numbers than the archive has bytes."""
  path = archive(tmp_path / "a.pth", tensor([1 << 20], [1], 1 << 20))
  with pytest.raises(ValueError, match=r"a\.pth"):
    torch_file.read(path)


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_arrays_that_unpack_to_too_much(tmp_path, how):
  path = tmp_path / "a.npz"
  header = (
    b"\x93NUMPY\x01\x00v\x00"
    + (
      b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }" % (17 << 20)
    ).ljust(117)
    + b"\n"
  )
  with (
    zipfile.ZipFile(path, "w", how) as file,
    file.open("a.npy", "w") as member,
  ):
    member.write(header)
    for _ in range(17 * 4):
      member.write(bytes(1 << 20))
  assert path.stat().st_size < 400_000
  error, _, peak = measured(lambda: weight_files.read(path))
  assert "a.npz" in error
  assert peak < 64 << 20


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_pipes_are_not_weights(tmp_path, suffix, capsys):
  os.mkfifo(tmp_path / f"a{suffix}")
  code = main.main(
    [
      "import",
      str(tmp_path / f"a{suffix}"),
      "--source=clip",
      f"--out={tmp_path / 'out'}",
    ]
  )
  assert code == 2
  assert f"a{suffix} is not a regular file" in capsys.readouterr().err


def test_a_config_beside_the_weights_nested_deeply(tmp_path, capsys):
  np.savez(tmp_path / "a.npz", x=np.ones(2))
  for depth in (900, 100_000):
    text = '{"a":' * depth + "1" + "}" * depth
    (tmp_path / "config.json").write_text(text)
    code = main.main(
      [
        "import",
        str(tmp_path / "a.npz"),
        "--source=clip",
        f"--out={tmp_path / 'out'}",
      ]
    )
    assert code == 2
  assert "config.json" in capsys.readouterr().err
