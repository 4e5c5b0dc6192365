import json
import struct

import numpy as np
import pytest
import safetensors.numpy

from clap_jax.storage import tensors
from clap_jax.storage.untrusted import UntrustedFileError


def test_reads_what_the_library_writes(tmp_path):
  written = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.ones(3, np.float16),
    "count": np.array(3, np.int64),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float64),
    "bytes": np.arange(5, dtype=np.uint8),
  }
  path = tmp_path / "a.safetensors"
  safetensors.numpy.save_file(written, path, metadata={"format": "pt"})
  found = tensors.read(path)
  assert found.keys() == written.keys()
  for name, array in written.items():
    np.testing.assert_array_equal(found[name], array)
    assert found[name].dtype == array.dtype


def file_of(header, body=bytes(16), length=None):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return (
    struct.pack("<Q", len(text) if length is None else length) + text + body
  )


def entry(dtype="F32", shape=(4,), offsets=(0, 16)):
  return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_bfloat16_becomes_float32(tmp_path):
  path = tmp_path / "a.safetensors"
  upper = (np.array([1.5, -2], np.float32).view(np.uint32) >> 16).astype("<u2")
  header = {"a": entry("BF16", (2,), (0, 4))}
  path.write_bytes(file_of(header, upper.tobytes()))
  np.testing.assert_array_equal(tensors.read(path)["a"], [1.5, -2])


BAD = {
  "nothing": b"",
  "a header of 2^64": file_of({}, length=(1 << 64) - 1),
  "cut in the header": file_of({"a": entry()})[:20],
  "no JSON": file_of(b"{", b""),
  "nested deeply": file_of(b"[" * 100_000, b""),
  "a list": file_of([], b""),
  "one key twice": file_of(b'{"a":{},"a":{}}'),
  "no offsets": file_of({"a": {"dtype": "F32", "shape": [4]}}),
  "an entry of text": file_of({"a": "F32"}),
  "three offsets": file_of({"a": entry(offsets=(0, 8, 16))}),
  "an unknown type": file_of({"a": entry("F8_E4M3", (16,))}),
  "a type that is a list": file_of({"a": entry(["F32"])}),
  "cut short": file_of({"a": entry()}, bytes(15)),
  "bytes left over": file_of({"a": entry()}, bytes(17)),
  "no tensors but bytes": file_of({}),
  "overlapping": file_of({"a": entry(), "b": entry()}),
  "a gap": file_of({"a": entry(offsets=(4, 20))}, bytes(20)),
  "negative": file_of({"a": entry(shape=(-4,))}),
  "backwards": file_of({"a": entry(offsets=(16, 0))}),
  "a truth value": file_of({"a": entry(shape=(True, 4))}),
  "a fraction": file_of({"a": entry(shape=(4.0,))}),
  "16 TiB": file_of({"a": entry(shape=(1 << 42,), offsets=(0, 1 << 44))}),
  "200,000 sides": file_of({"a": entry(shape=[1] * 200_000 + [4])}),
  "a pointer": b"version https://git-lfs.github.com/spec/v1\n",
}


@pytest.mark.parametrize("name", BAD)
def test_refuses_what_does_not_fit(tmp_path, name):
  path = tmp_path / "bad.safetensors"
  path.write_bytes(BAD[name])
  with pytest.raises(UntrustedFileError, match=r"bad\.safetensors"):
    tensors.read(path)
