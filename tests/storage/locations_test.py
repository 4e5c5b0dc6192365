"""Paths in a bucket, and that local ones stay pathlib's."""

import os
import pathlib

import pytest

from clap_jax.storage import locations, objects, output, untrusted
from clap_jax.storage.locations import ObjectPath


@pytest.mark.parametrize(
  "text", ["a/b", "/a", "gs:", "a:b", "./gs:/x", "gs:/b"]
)
def test_local_texts_are_paths_of_the_system(text):
  assert locations.at(text) == pathlib.Path(text)
  assert locations.at(text, "c") == pathlib.Path(text, "c")


@pytest.mark.parametrize("scheme", objects.SCHEMES)
def test_addresses_are_taken_apart(scheme):
  path = locations.at(f"{scheme}://bucket/a/b.tar.gz/")
  assert str(path) == f"{scheme}://bucket/a/b.tar.gz"
  assert (path.bucket, path.key) == ("bucket", "bucket/a/b.tar.gz")
  assert (path.name, path.stem, path.suffix) == ("b.tar.gz", "b.tar", ".gz")
  assert path.parent == locations.at(f"{scheme}://bucket/a")
  assert path.parent.parent.parent == locations.at(f"{scheme}://bucket")
  assert path.parent / "x" / "y" == locations.at(f"{scheme}://bucket/a", "x/y")
  assert path.with_name("c").name == "c"


@pytest.mark.parametrize("folder", ["gs://bucket", "gs://bucket/c", ".", "/c"])
def test_name_below_a_folder(folder):
  path = locations.at(folder)
  assert locations.name_below(path / "a" / "b.gz", path) == "a/b.gz"
  with pytest.raises(ValueError, match="a/b"):
    locations.name_below(path / "a" / "b", path / "d")


@pytest.mark.parametrize(
  "text",
  [
    "http://bucket/x",
    "az://bucket/x",
    "gs://",
    "gs:///x",
    "gs://bucket//x",
    "gs://bucket/../x",
    "gs://bucket/x#1",
    "gs://bucket/x?y",
    "gs://bucket/x\n",
    "file:///etc/passwd",
  ],
)
def test_other_addresses_are_refused(text):
  with pytest.raises(locations.AddressError):
    locations.at(text)


@pytest.mark.parametrize("name", ["/etc", "../x", "a/../../x", "gs://bucket/x"])
def test_no_name_leads_out_of_its_folder(name):
  folder = locations.at("gs://bucket/a")
  with pytest.raises(locations.AddressError):
    _ = folder / name
  with pytest.raises(ValueError, match=r"leads out|address"):
    untrusted.open_file(name, folder=folder)


def test_an_address_is_never_the_name_of_a_local_file(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = locations.at("gs://bucket/a")
  with pytest.raises(TypeError):
    os.fspath(path)
  with pytest.raises(TypeError):
    pathlib.Path(path)
  with pytest.raises(untrusted.UntrustedFileError, match="address"):
    untrusted.read_bytes("gs://bucket/a")  # such as a received document names
  assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
  monkeypatch.setattr(objects.importlib.util, "find_spec", lambda name: None)
  objects.file_system.cache_clear()
  with pytest.raises(locations.AddressError, match=r"gcsfs.*clap_jax\[gcs\]"):
    locations.at("gs://bucket/a").exists()


def test_objects_are_written_read_and_listed(bucket, tmp_path):
  root = locations.at(bucket.url, "run")
  assert not root.exists()
  output.write_json(root / "a.json", {"a": 1})
  output.write_text(root / "b" / "c.txt", "text\r\n")
  output.write_bytes(root / "b" / "[d].bin", b"\0" * 10)
  assert root.is_dir() and not root.is_file()
  assert (root / "a.json").is_file() and not (root / "a.json").is_dir()
  assert untrusted.read_json("a.json", folder=root) == {"a": 1}
  assert untrusted.read_bytes(root / "b/c.txt") == b"text\r\n"
  assert [path.name for path in root.iterdir()] == ["a.json", "b"]
  assert root.folders() == [root / "b"]
  assert list(root.glob("b/*.txt")) == [root / "b/c.txt"]
  assert list(root.rglob("*.bin")) == [root / "b/[d].bin"]
  assert (root / "b/[d].bin").stat().st_size == 10
  output.copy(root / "a.json", tmp_path / "a.json")
  output.copy(tmp_path / "a.json", root / "e.json")
  assert untrusted.hash_file(root / "e.json") == untrusted.hash_file(
    tmp_path / "a.json"
  )
  (root / "e.json").unlink()
  with pytest.raises(FileNotFoundError):
    (root / "e.json").unlink()
  with pytest.raises(FileNotFoundError):
    untrusted.read_bytes(root / "e.json")
  output.remove_tree(root / "b")
  assert [path.name for path in root.iterdir()] == ["a.json"]


def test_objects_are_written_whole_or_not_at_all(bucket):
  path = locations.at(bucket.url, "a.txt")
  output.write_text(path, "old")
  with pytest.raises(RuntimeError), output.writing(path) as file:
    file.write(b"new")
    raise RuntimeError
  assert untrusted.read_text(path) == "old"
  with pytest.raises(output.OutputError, match="exists"):
    output.write_text(path, "new", overwrite=False)
  with (
    pytest.raises(FileExistsError),
    output.writing(path.with_name("b"), overwrite=False) as file,
  ):
    file.write(b"late")
    output.write_text(path.with_name("b"), "early")
  assert untrusted.read_text(path.with_name("b")) == "early"
  with pytest.raises(output.OutputError, match="append"):
    output.open_appending(path)


def test_received_objects_are_bounded(bucket):
  path = locations.at(bucket.url, "a.txt")
  output.write_bytes(path, b"x" * 100)
  with pytest.raises(untrusted.UntrustedFileError, match="100 bytes"):
    untrusted.read_bytes(path, max_bytes=99)


def test_who_may_not_ask_for_the_bucket_may_write(bucket, monkeypatch):
  path = locations.at(bucket.url, "a.json")

  def refused(key):
    raise PermissionError(key)

  monkeypatch.setattr(objects.file_system("gs"), "info", refused)
  output.check_writable(path)
  output.write_json(path, {})


def test_a_bucket_that_is_not_there_is_found_before_the_work(bucket):
  del bucket
  with pytest.raises(locations.AddressError, match="no such bucket"):
    output.check_writable(ObjectPath("gs://not-there/a.json"))


@pytest.mark.parametrize("num_bytes", [0, 10, 6 << 20])
def test_passing_faults_are_waited_out(bucket, num_bytes):
  """5 % of requests are refused and 5 % of answers are cut."""
  content = bytes(range(256)) * (num_bytes // 256) + b"y" * (num_bytes % 256)
  root = locations.at(bucket.url)
  with bucket.failing(share_of_503=0.05, share_cut=0.05):
    for number in range(6):
      output.write_bytes(root / f"{number}.bin", content)
    for number in range(6):
      assert untrusted.read_bytes(root / f"{number}.bin") == content
    assert len(list(root.iterdir())) == 6


def test_a_store_that_stays_away_ends_the_wait(bucket, monkeypatch):
  monkeypatch.setattr(objects, "_FIRST_WAIT_SEC", 0.0)
  calls = []

  def refused():
    calls.append(1)
    raise ConnectionResetError("gone")

  with pytest.raises(objects.ObjectStorageError, match=r"gs://bucket/x.*gone"):
    objects._retried("gs://bucket/x", refused)
  assert len(calls) == objects._NUM_ATTEMPTS


def test_what_another_made_is_not_replaced(bucket):
  key = f"{bucket.url.removeprefix('gs://')}/lease"
  objects.create("gs", key, b"mine")
  objects.create("gs", key, b"mine")  # an answer was lost and the try repeated
  with pytest.raises(FileExistsError):
    objects.create("gs", key, b"another's")
  assert objects.read("gs", key) == b"mine"
