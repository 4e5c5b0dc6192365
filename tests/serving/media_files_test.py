"""Only videos that are what was indexed are sent, whole or in parts."""

import hashlib
import os
import pathlib

import pytest

from clap_jax.inference import index as index_lib
from clap_jax.serving import media_files
from tests.data import built_dataset
from tests.serving import toy_server

VIDEO = built_dataset.encode_mp4(24)


def sha256(content):
  return hashlib.sha256(content).hexdigest()


def plain(folder):
  path = folder / "a.mp4"
  path.write_bytes(VIDEO)
  return path


def linked(folder):
  path = folder / "link.mp4"
  path.symlink_to(plain(folder))
  return path


def web_page(folder):
  path = folder / "a.html"
  path.write_bytes(b"<script>alert(1)</script>" + b" " * 400)
  return path


def pipe(folder):
  path = folder / "pipe.mp4"
  os.mkfifo(path)
  return path


@pytest.mark.parametrize(
  "make",
  [
    linked,
    web_page,
    pipe,
    lambda _: pathlib.Path("/etc/passwd"),
    lambda _: pathlib.Path("/dev/zero"),
    lambda folder: folder,
    lambda folder: folder / "missing.mp4",
    lambda _: pathlib.Path("https://evil.example/a.mp4"),
    lambda _: pathlib.Path(""),
  ],
)
def test_only_regular_videos_are_opened(tmp_path, make):
  path = make(tmp_path)
  content = (
    path.read_bytes()
    if path.suffix in (".html", "") and (path.is_file())
    else VIDEO
  )
  with pytest.raises(media_files.NotAVideoError) as caught:
    media_files.IndexedFiles().open(str(path), sha256=sha256(content))
  assert str(tmp_path) not in str(caught.value)


def test_a_changed_video_is_not_opened(tmp_path):
  path = plain(tmp_path)
  files = media_files.IndexedFiles()
  files.open(str(path), sha256=sha256(VIDEO)).file.close()
  other = built_dataset.encode_mp4(24, seed=1)
  path.write_bytes(other)
  with pytest.raises(media_files.NotAVideoError, match="changed"):
    files.open(str(path), sha256=sha256(VIDEO))
  path.unlink()  # another file under the same name
  path.write_bytes(other)
  with pytest.raises(media_files.NotAVideoError, match="changed"):
    files.open(str(path), sha256=sha256(VIDEO))


def test_a_video_is_hashed_once(tmp_path, monkeypatch):
  path, calls = plain(tmp_path), []
  digest = hashlib.file_digest
  monkeypatch.setattr(
    hashlib, "file_digest", lambda *a: (calls.append(a), digest(*a))[1]
  )
  files = media_files.IndexedFiles()
  for _ in range(3):
    opened = files.open(str(path), sha256=sha256(VIDEO))
    assert opened.file.read() == VIDEO or opened.file.tell() == len(VIDEO)
    opened.file.close()
  assert len(calls) == 1


@pytest.mark.parametrize(
  ("head", "expected"),
  [
    (VIDEO[:400], "video/mp4"),
    (b"\x1aE\xdf\xa3" + b"\0" * 20 + b"webm", "video/webm"),
    (b"\x1aE\xdf\xa3" + b"\0" * 20 + b"matroska", "video/x-matroska"),
    (b"RIFF\0\0\0\0AVI LIST", "video/x-msvideo"),
    (b"\x47" + b"\0" * 187 + b"\x47", "video/mp2t"),
    (b"FLV\x01", "video/x-flv"),
    (b"OggS", "video/ogg"),
    (b"\x00\x00\x01\xba", "video/mpeg"),
    (b"\x30\x26\xb2\x75", "video/x-ms-asf"),
    (b"GIF89a", "image/gif"),
    (b"RIFF\0\0\0\0WAVE", None),
    (b"#EXTM3U", None),
    (b"<svg", None),
    (b"", None),
  ],
)
def test_media_types_come_from_the_first_bytes(head, expected):
  if expected is None:
    with pytest.raises(media_files.NotAVideoError):
      media_files.media_type(head)
  else:
    assert media_files.media_type(head) == expected


@pytest.fixture(scope="module")
def served(tmp_path_factory, encoder, model):
  """Serves an index whose second entry was forged."""
  root = tmp_path_factory.mktemp("served")
  video = plain(root)
  index = index_lib.build(encoder, [video], out=root / "index", stride_sec=1.0)
  page = web_page(root)
  forged = [
    index_lib.IndexedVideo(str(path), sha256(path.read_bytes()), 1.0, 0, 0)
    for path in (page, pathlib.Path("/etc/passwd"))
  ]
  object.__setattr__(index, "videos", (*index.videos, *forged))
  app = toy_server.make_app(model, index=index)
  with toy_server.client(app) as client:
    yield client


@pytest.mark.parametrize(
  ("header", "status", "part"),
  [
    (None, 200, slice(None)),
    ("bytes=4-7", 206, slice(4, 8)),
    ("bytes=4-", 206, slice(4, None)),
    ("bytes=-5", 206, slice(-5, None)),
    (f"bytes=-{10**17}", 206, slice(None)),
    (f"bytes=0-{10**17}", 206, slice(None)),
    ("bytes=7-4", 200, slice(None)),
    ("bytes=-", 200, slice(None)),
    ("bytes=0-1,4-5", 200, slice(None)),
    ("lines=1-2", 200, slice(None)),
    (f"bytes={10**9}-", 416, None),
    ("bytes=-0", 416, None),
    (f"bytes={10**9}-{10**9 + 1}", 416, None),
  ],
)
def test_parts_are_those_asked_for(served, header, status, part):
  uploaded = served.post("/api/videos", content=VIDEO).json()["video"]
  headers = {"range": header} if header else {}
  for path in ("/api/index/0/file", f"/api/videos/{uploaded}/file"):
    response = served.get(path, headers=headers)
    assert response.status_code == status
    if part is None:
      assert response.headers["content-range"] == f"bytes */{len(VIDEO)}"
      continue
    assert response.content == VIDEO[part]
    assert response.headers["content-type"] == "video/mp4"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-length"] == str(len(VIDEO[part]))
    assert response.headers["accept-ranges"] == "bytes"
    if status == 206:
      first = range(len(VIDEO))[part].start
      last = first + len(VIDEO[part]) - 1
      expected = f"bytes {first}-{last}/{len(VIDEO)}"
      assert response.headers["content-range"] == expected


@pytest.mark.parametrize("number", [1, 2])
def test_a_forged_index_shows_no_other_file(served, number):
  response = served.get(f"/api/index/{number}/file")
  assert response.status_code == 404
  assert response.headers["content-type"] == "application/json"
  assert "script" not in response.text and "root:" not in response.text


def test_a_deleted_upload_is_missing_not_a_failure(model):
  kept = []

  def keep(source, target):
    target.write_bytes(source.read_bytes())
    kept.append(target)

  app = toy_server.make_app(model, make_playable=keep)
  with toy_server.client(app) as client:
    key = client.post("/api/videos", content=VIDEO).json()["video"]
    kept[0].unlink()
    assert client.get(f"/api/videos/{key}/file").status_code == 404
    asked = {"video": key, "queries": ["spins"]}
    response = client.post("/api/find", json=asked)
    assert response.status_code == 400
    assert str(kept[0].parent) not in response.text
