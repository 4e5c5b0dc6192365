"""S3, on moto: objects, leases and datasets are those of a disk."""

import pytest

from clap_jax.data import records as records_lib
from clap_jax.storage import (
  leases,
  line_parts,
  locations,
  objects,
  output,
  ranges,
  untrusted,
)
from tests import object_store
from tests.data import bucket_test


@pytest.fixture(scope="module")
def root():
  with object_store.emulated_s3() as url:
    yield locations.at(url, "run")


def test_objects_are_written_read_listed_and_removed(root):
  assert not root.exists()
  output.write_json(root / "a.json", {"a": 1})
  output.write_bytes(root / "b" / "c.bin", b"x" * 1000)
  output.write_bytes(root / "empty", b"")
  assert root.is_dir() and (root / "a.json").is_file()
  assert untrusted.read_json("a.json", folder=root) == {"a": 1}
  assert untrusted.read_bytes(root / "empty") == b""
  assert root.folders() == [root / "b"]
  assert ranges.read(root / "b" / "c.bin", 990, 10) == b"x" * 10
  md5 = {info.fingerprint[0] for info in root.infos_below().values()}
  assert md5 == {"md5"}
  with pytest.raises(output.OutputError, match="exists"):
    output.write_text(root / "a.json", "x", overwrite=False)
  with pytest.raises(untrusted.UntrustedFileError, match="1000 bytes"):
    untrusted.read_bytes(root / "b" / "c.bin", max_bytes=999)
  (root / "a.json").unlink()
  output.remove_tree(root / "b")
  assert [path.name for path in root.iterdir()] == ["empty"]
  with pytest.raises(FileNotFoundError):
    untrusted.read_bytes(root / "a.json")
  with pytest.raises(locations.AddressError, match="no such bucket"):
    output.check_writable(locations.at("s3://not-there/a.json"))


def test_one_alone_makes_an_object_or_holds_a_lease(root):
  key = (root / "made").key
  objects.create("s3", key, b"mine")
  with pytest.raises(FileExistsError):
    objects.create("s3", key, b"another's")
  with leases.held(root / ".lease", duration_sec=4.0) as check:
    check()
    with (
      pytest.raises(leases.LeaseHeldError),
      leases.held(root / ".lease", duration_sec=4.0),
    ):
      pass
  with leases.held(root / ".lease", duration_sec=4.0) as check:
    check()


def test_lines_are_joined_from_parts(root):
  lines = line_parts.LineParts(root / "lines", keep=lambda line: True)
  for number in range(4):
    lines.append(b"%d\n" % number)
    lines.flush()
  lines = line_parts.LineParts(root / "lines", keep=lambda line: line < b"2")
  assert line_parts.read(root / "lines") == b"0\n1\n"


def test_examples_are_those_of_the_local_dataset(root, data_dir, records):
  for path in sorted(data_dir.rglob("*")):
    if path.is_file():
      output.copy(path, root / path.relative_to(data_dir).as_posix())
  source = records_lib.open_dataset(str(root), "toy/small").split("train")
  for index in range(len(records)):
    bucket_test.same(source[index], records[index])
