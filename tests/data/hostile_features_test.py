"""Feature files that name other files, or claim what they do not hold."""

import os
import resource
import time
import zlib

import h5py
import numpy as np
import pytest

from clap_jax.data import feature_files, features
from clap_jax.data.features import FeatureError

ARRAY = np.arange(24, dtype=np.float32).reshape(8, 3)


def read(path, key="v"):
  return features.read_features(path, key=key)


def write(tmp_path, make):
  (tmp_path / "secret").write_bytes(b"secret" * 100)
  with h5py.File(tmp_path / "other.h5", "w") as file:
    file["v"] = ARRAY
  path = tmp_path / "bad.h5"
  with h5py.File(path, "w") as file:
    make(file, tmp_path)
  return path


def external(file, folder):
  file.create_dataset(
    "v", (1, 64), "u1", external=[(str(folder / "secret"), 0, 64)]
  )


def external_link(file, folder):
  file["v"] = h5py.ExternalLink(str(folder / "other.h5"), "v")


def external_group(file, folder):
  file["v"] = h5py.ExternalLink(str(folder / "other.h5"), "/")


def soft_to_external(file, folder):
  file["x"] = h5py.ExternalLink(str(folder / "other.h5"), "v")
  file["w"] = h5py.SoftLink("/x")
  file["v"] = h5py.SoftLink("/w")


def soft_loop(file, _):
  file["v"] = h5py.SoftLink("/w")
  file["w"] = h5py.SoftLink("/v")


def virtual(file, folder):
  layout = h5py.VirtualLayout((8, 3), "f4")
  layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "v", (8, 3))
  file.create_virtual_dataset("v", layout)


def fill_value(file, _):
  file.create_dataset("v", (1 << 20, 2048), "f4", fillvalue=1.0)


def fill_value_in_chunks(file, _):
  made = file.create_dataset(
    "v", (1 << 20, 2048), "f4", chunks=(64, 64), fillvalue=1.0
  )
  made[:64, :64] = 1


def never_written(file, _):
  file.create_dataset("v", (8, 3), "f4")


def zeros(file, _):
  data = np.zeros((1 << 14, 2048), np.float32)
  file.create_dataset("v", data=data, compression="gzip", chunks=(1024, 2048))


def hidden_stream(file, _):
  """A chunk of 96 bytes whose stream unpacks to 4 MiB."""
  made = file.create_dataset(
    "v", (8, 3), "f4", chunks=(8, 3), compression="gzip"
  )
  made.id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 20)))


def filters(file, _):
  file.create_dataset(
    "v", data=ARRAY.astype("i4"), chunks=(8, 3), scaleoffset=True
  )


def unknown_filter(file, _):
  file.create_dataset(
    "v",
    (8, 3),
    "f4",
    chunks=(8, 3),
    compression=32015,
    allow_unknown_filter=True,
  )


def texts(file, _):
  file["v"] = "no numbers"


def compound(file, _):
  file["v"] = np.zeros(3, [("a", "f4")])


def empty(file, _):
  file["v"] = h5py.Empty("f4")


ATTACKS = {
  external: "other files",
  external_link: "leads out of the file",
  external_group: "leads out of the file",
  soft_to_external: "leads out of the file",
  soft_loop: "leads out of the file",
  virtual: "other files",
  fill_value: "claims",
  fill_value_in_chunks: "claims",
  never_written: "no numbers",
  zeros: "claims",
  hidden_stream: "chunk",
  filters: "filters",
  unknown_filter: "filters|no numbers",
  texts: "expected numbers",
  compound: "expected numbers",
  empty: "holds nothing",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda made: made.__name__)
def test_hdf5_files_that_ask_for_more(tmp_path, attack):
  path = write(tmp_path, attack)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  start = time.monotonic()
  with pytest.raises(FeatureError, match=rf"bad\.h5.*(?:{ATTACKS[attack]})"):
    read(path)
  assert time.monotonic() - start < 10
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  assert grown < 256 << 10


@pytest.mark.parametrize("userblock_size", [0, 512])
@pytest.mark.parametrize(
  "options",
  [
    {},
    {"chunks": (3, 2)},
    {"compression": "gzip"},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
    {"compression": "lzf", "shuffle": True},
    {"maxshape": (None, 3)},
    {"chunks": (3, 2), "fletcher32": True},
    {"compression": "lzf", "chunks": (5, 2), "dtype": ">f8"},
  ],
)
def test_hdf5_files_as_others_write_them(tmp_path, options, userblock_size):
  size = {"userblock_size": userblock_size}
  with h5py.File(tmp_path / "a.h5", "w", **size) as file:
    file.create_dataset("v", data=ARRAY, **options)
    file["alias"] = h5py.SoftLink("/v")
    file["group/inner"] = h5py.SoftLink("/v")
  for key in ("v", "alias", "group", "group/inner", "/v"):
    np.testing.assert_array_equal(read(tmp_path / "a.h5", key), ARRAY)


@pytest.mark.parametrize(
  ("compression", "fletcher32"), [("lzf", False), ("gzip", False), (None, True)]
)
def test_damaged_chunks_are_found(tmp_path, compression, fletcher32):
  """The library itself ends the process on some of them."""
  rng = np.random.default_rng(0)
  data = np.repeat(rng.normal(size=(64, 4)).astype(np.float32), 3, axis=1)
  with h5py.File(tmp_path / "a.h5", "w") as file:
    made = file.create_dataset(
      "v",
      data=data,
      chunks=(32, 12),
      compression=compression,
      fletcher32=fletcher32,
    )
    places = []
    made.id.chunk_iter(places.append)
  whole = (tmp_path / "a.h5").read_bytes()
  for place in rng.integers(0, places[0].size, 40).tolist():
    changed = bytearray(whole)
    changed[places[0].byte_offset + place] ^= 0xFF
    (tmp_path / "a.h5").write_bytes(changed)
    try:
      found = read(tmp_path / "a.h5")
    except FeatureError:
      continue
    # LZF has no checksum of its own.
    assert compression == "lzf" and found.shape == data.shape


def test_ids_do_not_open_other_files(tmp_path):
  path = write(tmp_path, external_link)
  with pytest.raises(FeatureError, match="leads out"):
    feature_files.hdf5_ids(path, ["v"], key="{id}")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".h5"])
def test_pipes_devices_and_pointers(tmp_path, suffix):
  os.mkfifo(tmp_path / f"pipe{suffix}")
  (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
  (tmp_path / f"page{suffix}").write_text("<!DOCTYPE html><html></html>")
  for name in ("pipe", "zero", "page"):
    with pytest.raises(FeatureError, match=rf"{name}\{suffix}"):
      read(tmp_path / f"{name}{suffix}")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_of_any_editor(tmp_path, encoding, end, delimiter):
  rows = [delimiter.join(map(str, row)) for row in ARRAY.tolist()]
  content = (end.join(rows) + end).encode(encoding)
  (tmp_path / "a.csv").write_bytes(content)
  np.testing.assert_array_equal(read(tmp_path / "a.csv", None), ARRAY)


@pytest.mark.parametrize(
  ("header", "first", "width"),
  [
    (",a,b,c", "index", 3),
    ("Unnamed: 0,a,b,c", "index", 3),
    ("t,a,b,c", "index", 4),
    (",a,b,c", "other", 4),
    (",0,1,2", "index", 3),
    ("t,0,1,2", "index", 4),
  ],
)
def test_the_index_of_a_table_is_not_a_feature(tmp_path, header, first, width):
  rows = [
    ",".join(map(str, [i if first == "index" else i / 3, *row]))
    for i, row in enumerate(ARRAY.tolist())
  ]
  (tmp_path / "a.csv").write_text("\n".join([header, *rows]))
  found = read(tmp_path / "a.csv", None)
  np.testing.assert_array_equal(found[:, -3:], ARRAY)
  assert found.shape[1] == width


def test_a_left_out_index_is_noted_and_a_nameless_one_refused(tmp_path):
  rows = [f"{i},{i / 3},{i / 7}" for i in range(6)]
  (tmp_path / "a.csv").write_text("\n".join([",x,y", *rows]))
  with pytest.warns(UserWarning, match="first column"):
    assert read(tmp_path / "a.csv", None).shape == (6, 2)
  (tmp_path / "a.csv").write_text("\n".join(rows))
  with pytest.raises(FeatureError, match=r"a\.csv.*counts the rows"):
    read(tmp_path / "a.csv", None)


@pytest.mark.parametrize(
  "text",
  [
    "0,1,2,3\n1.5,2,3,4\n5,6,7,8\n",  # pandas' names of columns
    "sep=;\n1,5;2;3;4\n5;6;7;8\n",
    '"a","b","c","d"\n"1.5","2","3","4"\n5,6,7,8\n\n',
    "1,5\t2\t3\t4\r\n\r\n5\t6\t7\t8\r\n",
  ],
)
def test_tables_of_spreadsheets(tmp_path, text):
  (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
  found = read(tmp_path / "a.csv", None)
  np.testing.assert_array_equal(found, [[1.5, 2, 3, 4], [5, 6, 7, 8]])


@pytest.mark.parametrize("row", ["0.5,x,1", "\ufeff\ufeff0.5,1,2", "a,1,2"])
def test_a_damaged_first_row_is_not_a_header(tmp_path, row):
  (tmp_path / "a.csv").write_text(f"{row}\n1,2,3\n", encoding="utf-8")
  with pytest.raises(FeatureError, match=r"a\.csv: its first row"):
    read(tmp_path / "a.csv", None)


@pytest.mark.parametrize("key", ["start_sec", "stride_sec", "clip_sec"])
def test_the_grid_of_stored_features_is_numbers(tmp_path, key):
  grid = {"start_sec": 0.0, "stride_sec": 1.0, "clip_sec": 1.0}
  for value in (np.ones(3), np.array("x"), np.array([])):
    np.savez(tmp_path / "a.npz", features=ARRAY, **(grid | {key: value}))
    with pytest.raises(FeatureError, match=rf"a\.npz, {key}"):
      features.load_features(tmp_path, "a")
