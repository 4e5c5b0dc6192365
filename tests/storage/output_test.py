import pytest

from clap_jax.storage import output


def test_writes_and_replaces(tmp_path):
  path = tmp_path / "a.json"
  output.write_json(path, {"a": 1})
  output.write_text(path, "second\r\n")
  assert path.read_bytes() == b"second\r\n"
  assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_keeps_the_old_file_when_the_block_raises(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("old")
  with pytest.raises(RuntimeError), output.writing(path) as file:
    file.write(b"new")
    raise RuntimeError
  assert path.read_text() == "old"
  assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_writes_through_no_link(tmp_path):
  victim = tmp_path / "victim"
  victim.write_text("precious")
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "a.json").symlink_to(victim)
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "out" / "inner").symlink_to(tmp_path / "elsewhere")
  with pytest.raises(output.OutputError, match="symbolic link"):
    output.write_json(tmp_path / "out" / "a.json", {})
  with pytest.raises(output.OutputError, match="symbolic link"):
    output.write_json(
      tmp_path / "out" / "inner" / "b.json", {}, folder=tmp_path / "out"
    )
  with pytest.raises(output.OutputError, match="symbolic link"):
    output.make_folder(
      tmp_path / "out" / "inner" / "made", folder=tmp_path / "out"
    )
  assert victim.read_text() == "precious"
  assert not list((tmp_path / "elsewhere").iterdir())


def test_replaces_nothing_where_that_is_not_wanted(tmp_path):
  path = tmp_path / "a.txt"
  output.write_text(path, "first", overwrite=False)
  with pytest.raises(output.OutputError, match="exists"):
    output.write_text(path, "second", overwrite=False)
  with (
    pytest.raises(FileExistsError),
    output.writing(tmp_path / "b.txt", overwrite=False) as file,
  ):
    file.write(b"late")
    (tmp_path / "b.txt").write_text("early")
  assert path.read_text() == "first"
  assert (tmp_path / "b.txt").read_text() == "early"
  assert len(list(tmp_path.iterdir())) == 2


def test_checks_the_place_before_the_work(tmp_path):
  with pytest.raises(output.OutputError, match="missing is missing"):
    output.check_writable(tmp_path / "missing" / "a.txt")
  with pytest.raises(output.OutputError, match="not a regular file"):
    output.check_writable(tmp_path)
