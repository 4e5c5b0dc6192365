import os

import pytest

from clap_jax.storage import untrusted


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "received" / "inner").mkdir(parents=True)
  (tmp_path / "received" / "inner" / "a.txt").write_text("inside")
  (tmp_path / "secret.txt").write_text("outside")
  return tmp_path / "received"


def test_reads_a_file_inside_a_folder(folder):
  assert untrusted.read_text("inner/a.txt", folder=folder) == "inside"


@pytest.mark.parametrize(
  "name", ["../secret.txt", "/etc/passwd", "inner/../../secret.txt", ""]
)
def test_refuses_paths_that_leave_the_folder(folder, name):
  with pytest.raises(untrusted.UntrustedFileError):
    untrusted.read_bytes(name, folder=folder)


def test_refuses_links_below_the_folder(folder):
  (folder / "link.txt").symlink_to(folder.parent / "secret.txt")
  (folder / "linked").symlink_to(folder / "inner")
  for name in ("link.txt", "linked/a.txt"):
    with pytest.raises(untrusted.UntrustedFileError, match="symbolic link"):
      untrusted.read_bytes(name, folder=folder)


def test_refuses_pipes_devices_and_addresses(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  for path in (tmp_path / "pipe", tmp_path, "/dev/zero", "http://a/b"):
    with pytest.raises(untrusted.UntrustedFileError):
      untrusted.read_bytes(path)


def test_checks_the_size_before_it_reads(tmp_path):
  with (tmp_path / "large").open("wb") as file:
    file.truncate(12 << 40)
  with pytest.raises(untrusted.UntrustedFileError, match="at most 100 "):
    untrusted.hash_file(tmp_path / "large", max_bytes=100)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_reads_text_of_known_encodings(tmp_path, encoding):
  path = tmp_path / "a.csv"
  path.write_bytes("vidéo,跳\r\n".encode(encoding))
  assert untrusted.read_text(path) == "vidéo,跳\r\n"


def test_names_file_and_line_of_other_encodings(tmp_path):
  path = tmp_path / "a.csv"
  path.write_bytes(b"first\nsec\xe9nd\n")
  with pytest.raises(untrusted.UntrustedFileError, match=r"a\.csv, line 2"):
    untrusted.read_text(path)


@pytest.mark.parametrize(
  "text", ["[" * 100_000, "{", '{"a": 1, "a": 2}', "1" * 10_000]
)
def test_refuses_bad_json_by_name(tmp_path, text):
  path = tmp_path / "a.json"
  path.write_text(text)
  with pytest.raises(untrusted.UntrustedFileError, match=r"a\.json"):
    untrusted.read_json(path)
