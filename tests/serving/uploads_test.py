"""Tests the limits of uploads, and that they leave no files."""

import collections
import concurrent.futures
import os
import shutil
import socket
import stat
import threading
import time

import pytest

from clap_jax.serving import private_folder
from clap_jax.serving import uploads as uploads_lib
from tests.data import built_dataset
from tests.serving import toy_server

VIDEO = built_dataset.encode_mp4(24)
MIB = 1 << 20
Usage = collections.namedtuple("Usage", "total used free")


class Decoder:
  """Copies the upload, and keeps where; waits while it is told to."""

  def __init__(self):
    self.targets = []
    self.go_on = threading.Event()
    self.go_on.set()

  def __call__(self, source, target):
    self.targets.append(target)
    content = source.read_bytes()
    assert self.go_on.wait(60)
    target.write_bytes(content)

  @property
  def folder(self):
    return self.targets[0].parent


def served(model, decoder=shutil.copyfile, **uploads):
  app = toy_server.make_app(model, make_playable=decoder, uploads=uploads)
  return toy_server.client(app)


def test_files_are_private_and_leave_with_the_server(model):
  decoder = Decoder()
  with served(model, decoder) as client:
    assert client.post("/api/videos", content=VIDEO).status_code == 200
    (kept,) = decoder.folder.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    for folder in (decoder.folder, decoder.folder.parent):
      assert stat.S_IMODE(folder.stat().st_mode) == 0o700
  assert not decoder.folder.parent.exists()


@pytest.mark.parametrize(
  ("content", "status", "reason"),
  [
    (b"<html>not a video</html>", 400, "container"),
    (b"", 400, "container"),
    (b"#EXTM3U\n" + b"x" * 1000, 400, "container"),
    (b"x" * (MIB + 1), 413, "larger"),
  ],
)
def test_other_bodies_are_refused(model, content, status, reason):
  with served(model, max_upload_bytes=MIB) as client:
    response = client.post("/api/videos", content=content)
    assert response.status_code == status
    assert reason in response.json()["detail"] and "/tmp" not in response.text


def test_oldest_upload_goes_first(model):
  decoder = Decoder()
  with served(model, decoder, max_videos=2) as client:
    keys = [
      client.post("/api/videos", content=VIDEO).json()["video"]
      for _ in range(3)
    ]
    found = [client.get(f"/api/videos/{k}/file").status_code for k in keys]
    assert found == [404, 200, 200]
    assert len(list(decoder.folder.iterdir())) == 2


def test_kept_videos_make_room_within_the_budget(model):
  decoder = Decoder()
  with served(model, decoder, max_stored_bytes=4 * MIB + 100) as client:
    for _ in range(3):
      assert client.post("/api/videos", content=VIDEO).status_code == 200
      assert len(list(decoder.folder.iterdir())) == 1


def test_an_exhausted_budget_refuses(model):
  with served(model, max_stored_bytes=MIB) as client:
    response = client.post("/api/videos", content=VIDEO)
    assert response.status_code == 503 and response.headers["retry-after"]


def test_a_full_disk_refuses_before_the_body(model, monkeypatch):
  with served(model) as client:
    monkeypatch.setattr(
      shutil, "disk_usage", lambda _: Usage(1 << 40, 1 << 40, 100 * MIB)
    )
    assert client.post("/api/videos", content=VIDEO).status_code == 507
    monkeypatch.undo()
    assert client.post("/api/videos", content=VIDEO).status_code == 200


def test_uploads_are_limited_and_slow_ones_are_removed(model):
  decoder = Decoder()
  with served(model, decoder, max_at_once=1, decode_sec=1.0) as client:
    decoder.go_on.clear()
    assert client.post("/api/videos", content=VIDEO).status_code == 504
    # Its decoder still runs, and so holds its place.
    response = client.post("/api/videos", content=VIDEO)
    assert response.status_code == 503 and response.headers["retry-after"]
    decoder.go_on.set()
    deadline_sec = time.monotonic() + 30
    while list(decoder.folder.iterdir()) and time.monotonic() < deadline_sec:
      time.sleep(0.05)
    assert not list(decoder.folder.iterdir())
    response = client.post("/api/videos", content=VIDEO)
    kept = [path.stem for path in decoder.folder.iterdir()]
    assert kept == [response.json()["video"]]


@pytest.fixture
def slow_server(model):
  decoder = Decoder()

  def make(port):
    return toy_server.make_app(
      model,
      port=port,
      make_playable=decoder,
      uploads={
        "max_at_once": 2,
        "idle_sec": 0.5,
        "receive_sec": 2.0,
        "max_upload_bytes": MIB,
      },
    )

  with toy_server.running(make) as port:
    yield port, decoder


def send(port, *, length=None, blocks=(), pause_sec=0.0, read_sec=20.0):
  """Sends a raw upload and returns the first bytes of the answer."""
  head = (
    f"POST /api/videos HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    f"Cookie: clap_{port}={toy_server.TOKEN}\r\n"
  )
  if length is None:
    head += "Transfer-Encoding: chunked\r\n\r\n"
  else:
    head += f"Content-Length: {length}\r\n\r\n"
  with socket.create_connection(("127.0.0.1", port), timeout=read_sec) as sock:
    sock.sendall(head.encode())
    try:
      for block in blocks:
        if length is None:
          sock.sendall(b"%x\r\n%s\r\n" % (len(block), block))
        else:
          sock.sendall(block)
        time.sleep(pause_sec)
    except OSError:
      pass  # the server has closed: the answer is there
    answer = sock.recv(200)
    return int(answer.split()[1]) if answer else None


def test_a_stated_length_is_refused_before_the_body(slow_server):
  port, decoder = slow_server
  assert send(port, length=1 << 40) == 413
  assert send(port, length=10**400) in (400, 413)
  assert not decoder.targets


def test_stalled_and_slow_bodies_are_cut(slow_server):
  """Ten stalled uploads once filled the disk and stayed for ever."""
  port, _ = slow_server
  with concurrent.futures.ThreadPoolExecutor(10) as pool:
    jobs = [pool.submit(send, port, blocks=[VIDEO[:1000]]) for _ in range(10)]
    statuses = collections.Counter(job.result() for job in jobs)
  assert statuses == {408: 2, 503: 8}
  # A byte now and then is no idling, but takes too long.
  dripped = [VIDEO[:600], *([b"x"] * 40)]
  assert send(port, blocks=dripped, pause_sec=0.2) == 408
  assert send(port, length=len(VIDEO), blocks=[VIDEO]) == 200


def test_other_files_are_rejected_by_their_first_bytes(slow_server):
  port, _ = slow_server
  assert send(port, blocks=[b"<html>" * 100]) == 400  # the body does not end


def test_a_client_that_leaves_frees_its_place(slow_server):
  port, decoder = slow_server
  for _ in range(4):
    with socket.create_connection(("127.0.0.1", port)) as sock:
      sock.sendall(
        (
          f"POST /api/videos HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
          f"Cookie: clap_{port}={toy_server.TOKEN}\r\n"
          "Content-Length: 1000\r\n\r\n"
        ).encode()
        + VIDEO[:600]
      )
    time.sleep(0.1)
  assert send(port, length=len(VIDEO), blocks=[VIDEO]) == 200
  assert len(list(decoder.folder.iterdir())) == 1


def make_leftover(root, name, *, mode=0o700, has_lock=True):
  folder = root / f"clap_serve_{name}"
  (folder / "files").mkdir(parents=True)
  folder.chmod(mode)
  (folder / "files" / "a.upload").write_bytes(b"x")
  if has_lock:
    (folder / "lock").touch()
  return folder


def test_leftovers_of_killed_servers_alone_are_removed(tmp_path, monkeypatch):
  monkeypatch.setattr(private_folder.tempfile, "tempdir", str(tmp_path))
  victim = tmp_path / "victim"
  victim.mkdir()
  (victim / "precious").touch()
  left = make_leftover(tmp_path, "left")
  (left / "files" / "link").symlink_to(victim)
  kept = [
    make_leftover(tmp_path, "no_lock", has_lock=False),
    make_leftover(tmp_path, "not_private", mode=0o755),
  ]
  link = tmp_path / "clap_serve_link"
  link.symlink_to(make_leftover(tmp_path, "x").rename(tmp_path / "elsewhere"))
  if os.getuid() == 0:
    kept.append(make_leftover(tmp_path, "of_another_user"))
    os.chown(kept[-1], 65534, 65534)
  with private_folder.private_folder() as living:
    assert not left.exists()
    assert private_folder.remove_leftovers() == []
    assert living.is_dir()
  assert not living.parent.exists()
  assert all((folder / "files" / "a.upload").exists() for folder in kept)
  assert (victim / "precious").exists() and link.is_symlink()
  assert (tmp_path / "elsewhere" / "files" / "a.upload").exists()


def test_an_existing_file_is_not_overwritten(tmp_path):
  victim = tmp_path / "victim"
  victim.write_text("mine")
  (tmp_path / "a.upload").symlink_to(victim)
  with pytest.raises(FileExistsError):
    private_folder.create_file(tmp_path / "a.upload")
  assert victim.read_text() == "mine"


@pytest.mark.parametrize(
  "limits",
  [
    {"max_upload_bytes": 0},
    {"idle_sec": float("nan")},
    {"decode_sec": -1.0},
    {"receive_sec": float("inf")},
  ],
)
def test_limits_that_limit_nothing_are_refused(limits):
  with pytest.raises(ValueError, match=next(iter(limits))):
    uploads_lib.UploadLimits(**limits)
