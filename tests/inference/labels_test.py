"""Files of class names for `clap predict --labels`."""

import pytest

from clap_jax.commands import applying


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_names_of_every_editor(tmp_path, encoding, end):
  path = tmp_path / "labels.txt"
  path.write_bytes(
    end.join(["slides", " ジャンプ ", "", "sit/stand"]).encode(encoding)
  )
  assert applying.read_labels(str(path)) == ["slides", "ジャンプ", "sit/stand"]


@pytest.mark.parametrize(
  ("content", "word"),
  [(b"", "one per line"), (b"a\nz\xfcr\n", "line 2"), (b"PK\x03\x04", "Excel")],
)
def test_malformed_label_files(tmp_path, content, word):
  path = tmp_path / "labels.txt"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=rf"labels\.txt.*{word}"):
    applying.read_labels(str(path))
