import io
import os
import zipfile

import numpy as np
import pytest

from clap_jax.storage import arrays
from clap_jax.storage.untrusted import UntrustedFileError

GOOD = {
  "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
  "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
  "big-endian": np.arange(3, dtype=">f8"),
  "scalar": np.float64(3),
  "empty": np.zeros((0, 3), np.int8),
  "half": np.ones(4, np.float16),
  "bool": np.array([True, False]),
  "texts": np.array(["a", "länger"]),
  "bytes": np.array([b"ab", b"c"]),
  "complex": np.array([1j]),
}


def equal(found, expected):
  np.testing.assert_array_equal(found, expected)
  assert found.dtype == np.asarray(expected).dtype


@pytest.mark.parametrize("name", GOOD)
def test_reads_what_numpy_writes(tmp_path, name):
  np.save(tmp_path / "a.npy", GOOD[name])
  equal(arrays.read_npy(tmp_path / "a.npy"), GOOD[name])
  equal(arrays.map_npy(tmp_path / "a.npy"), GOOD[name])
  np.savez_compressed(tmp_path / "a.npz", x=GOOD[name], y=1)
  equal(arrays.read_npz(tmp_path / "a.npz")["x"], GOOD[name])


def test_numpy_reads_what_is_written(tmp_path):
  arrays.write_npy(tmp_path / "a.npy", GOOD["fortran"])
  equal(np.load(tmp_path / "a.npy"), GOOD["fortran"])
  arrays.write_npz(tmp_path / "a.npz", GOOD)
  with np.load(tmp_path / "a.npz") as archive:
    assert sorted(archive.files) == sorted(GOOD)
  with arrays.open_npz(tmp_path / "a.npz") as archive:
    assert sorted(archive) == sorted(GOOD)
    equal(archive["texts"], GOOD["texts"])


def npy(header, body=b"", *, version=(1, 0)):
  header = header.encode() if isinstance(header, str) else header
  width = 2 if version[0] == 1 else 4
  length = len(header).to_bytes(width, "little")
  return b"\x93NUMPY" + bytes(version) + length + header + body


def described(shape="(3,)", descr="'<f4'", order="False"):
  return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


BAD = {
  "16 TiB": npy(described("(4398046511104,)"), bytes(12)),
  "a header of 16 TiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(99),
  "2^63 elements": npy(described("(9223372036854775808,)"), bytes(12)),
  "2^63 and none": npy(described("(9223372036854775807, 0)"), bytes(12)),
  "2^48 and none": npy(described("(281474976710656, 281474976710656, 0)")),
  "shape of 200,000 numbers": npy(
    described("(" + "1," * 200_000 + ")"), bytes(12), version=(2, 0)
  ),
  "shape of 1,000 numbers": npy(
    described("(" + "1," * 1000 + ")"), bytes(12), version=(2, 0)
  ),
  "negative": npy(described("(-3,)"), bytes(12)),
  "nested": npy("(" * 9000, bytes(12)),
  "nested minus": npy(described("-" * 9000 + "1"), bytes(12)),
  "nested dictionaries": npy("{'descr':" * 900, bytes(12)),
  "a call": npy(described("__import__('os').system('true')"), bytes(12)),
  "objects": npy(described(descr="'|O'"), bytes(24)),
  "fields": npy(described(descr="[('a', '<f4')]"), bytes(12)),
  "dates": npy(described(descr="'<M8[s]'"), bytes(24)),
  "no such type": npy(described(descr="'<q9'"), bytes(12)),
  "wide texts": npy(described("(1,)", "'<U999999999'"), bytes(12)),
  "texts of no width": npy(described("(999999999999,)", "'<U0'")),
  "one key twice": npy("{'descr': '<f4', 'descr': '<f4', 'shape': (3,)}"),
  "another version": npy(described(), bytes(12), version=(9, 0)),
  "cut short": npy(described(), bytes(11)),
  "cut in the header": npy(described())[:30],
  "a pickle": b"\x80\x02K\x01.",
  "nothing": b"",
  "a pointer": b"version https://git-lfs.github.com/spec/v1\n",
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("how", ["npy", "map", "npz"])
def test_refuses_what_does_not_fit(tmp_path, name, how):
  path = tmp_path / f"bad.{how}"
  if how == "npz":
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("x.npy", BAD[name])
    read = arrays.read_npz
  else:
    path.write_bytes(BAD[name])
    read = arrays.map_npy if how == "map" else arrays.read_npy
  with pytest.raises(UntrustedFileError, match=r"bad\."):
    read(path)


def zipped(*members, how=zipfile.ZIP_STORED):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", how) as archive:
    for name, content in members:
      archive.writestr(name, content)
  return buffer.getvalue()


GOOD_NPY = npy(described(), bytes(12))
BAD_ARCHIVES = {
  "no archive": b"hello",
  "cut short": zipped(("x.npy", GOOD_NPY))[:-30],
  "damaged": zipped(("x.npy", GOOD_NPY)).replace(bytes(12), bytes(11) + b"1"),
  "bzip2": zipped(("x.npy", GOOD_NPY), how=zipfile.ZIP_BZIP2),
  "LZMA": zipped(("x.npy", GOOD_NPY), how=zipfile.ZIP_LZMA),
  "encrypted": zipped(("x.npy", GOOD_NPY)).replace(
    b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
  ),
}


PACKED = zipped(
  ("x.npy", GOOD_NPY + bytes(range(256)) * 4), how=zipfile.ZIP_DEFLATED
)
BAD_ARCHIVES["damaged deflate"] = PACKED[:36] + bytes(30) + PACKED[66:]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", [*BAD_ARCHIVES, "one name twice"])
def test_refuses_damaged_archives(tmp_path, name):
  path = tmp_path / "bad.npz"
  content = BAD_ARCHIVES.get(name) or zipped(
    ("x.npy", GOOD_NPY), ("x.npy", GOOD_NPY)
  )
  path.write_bytes(content)
  with pytest.raises(UntrustedFileError, match=r"bad\.npz"):
    arrays.read_npz(path)


def test_refuses_many_arrays_that_unpack_to_too_much(tmp_path):
  """Each is small enough on its own."""
  zeros = npy(described(f"({8 << 18},)"), bytes(8 << 20))
  path = tmp_path / "bad.npz"
  path.write_bytes(
    zipped(*((f"{i}.npy", zeros) for i in range(9)), how=zipfile.ZIP_DEFLATED)
  )
  assert path.stat().st_size < 100_000
  with arrays.open_npz(path) as archive:
    assert not archive["0"].any()
    with pytest.raises(UntrustedFileError, match="would decompress to"):
      dict(archive)


def test_refuses_a_long_list_of_members(tmp_path):
  path = tmp_path / "bad.npz"
  path.write_bytes(zipped(*((f"{i:0200}.npy", b"") for i in range(20_000))))
  with pytest.raises(UntrustedFileError, match="list of its members"):
    arrays.read_npz(path)


def test_refuses_pipes_links_and_sizes(tmp_path):
  os.mkfifo(tmp_path / "pipe.npy")
  np.save(tmp_path / "a.npy", np.ones(3))
  (tmp_path / "link.npy").symlink_to("a.npy")
  for name in ("pipe.npy", "link.npy", "../a.npy"):
    for read in (arrays.read_npy, arrays.map_npy, arrays.read_npz):
      with pytest.raises(UntrustedFileError):
        read(name, folder=tmp_path)
  with pytest.raises(UntrustedFileError, match="at most 10"):
    arrays.read_npy(tmp_path / "a.npy", max_bytes=10)
