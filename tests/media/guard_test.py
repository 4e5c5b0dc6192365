"""The guarded process: its limits hold, and only its video is lost."""

import dataclasses
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from clap_jax.media import decode, errors, guard, video_reader
from clap_jax.media.limits import DEFAULT_LIMITS, VideoLimits
from tests.data import built_dataset
from tests.media import odd_videos

SHAPE = decode.ClipShape(clip_sec=2.0, stride_sec=0.5, num_frames=8, size=24)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
  path = tmp_path_factory.mktemp("videos") / "video.mp4"
  path.write_bytes(built_dataset.encode_mp4(160))
  return path


@pytest.mark.parametrize("mode", ["squash", "crop", "tsp"])
def test_clips_equal_those_decoded_here(video, mode):
  shape = dataclasses.replace(SHAPE, mode=mode)
  expected = list(decode.iter_clips(video, **dataclasses.asdict(shape)))
  for source in (video, video.read_bytes()):
    stream = guard.ClipStream(source, shape)
    clips = list(stream)
    assert [c.start_sec for c in clips] == [c.start_sec for c in expected]
    for clip, other in zip(clips, expected, strict=True):
      np.testing.assert_array_equal(clip.frames, other.frames)
    assert stream.duration_sec == 20.0
    assert stream.info == video_reader.probe(video) == guard.probe(source)


def _is_decoder(pid: int) -> bool:
  """Whether a process is there and decodes; another may get its number."""
  try:
    command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
  except OSError:
    return False
  return b"media.decoder" in command


def test_a_killed_child_costs_its_video_only(video):
  # A limit of its own, so that no other test's child is taken.
  limits = VideoLimits(max_frames=1_000_001)
  stream = guard.ClipStream(video, SHAPE, limits=limits)
  next(stream)
  os.kill(stream.child_pid, signal.SIGSEGV)
  with pytest.raises(errors.VideoError, match=r"died.*SIGSEGV"):
    list(stream)
  assert not _is_decoder(stream.child_pid)
  assert len(list(guard.ClipStream(video, SHAPE, limits=limits))) == 37


def test_a_child_serves_several_videos(video, tmp_path):
  limits = VideoLimits(max_frames=1_000_002)
  (tmp_path / "broken.mp4").write_bytes(video.read_bytes()[:5000])
  children = set()
  for _ in range(3):
    stream = guard.ClipStream(video, SHAPE, limits=limits)
    list(stream)
    children.add(stream.child_pid)
    with pytest.raises(errors.VideoError):
      guard.probe(tmp_path / "broken.mp4", limits=limits)
  assert len(children) == 1


def test_a_stream_that_is_left_ends_its_child(video):
  stream = guard.ClipStream(video, SHAPE)
  next(stream)
  assert _is_decoder(stream.child_pid)
  stream.close()
  assert not _is_decoder(stream.child_pid)


def test_the_child_dies_with_its_parent(video):
  program = (
    "import os, signal, sys\n"
    "from clap_jax.media import decode, guard\n"
    "shape = decode.ClipShape(2.0, 0.5, 8, 24)\n"
    "stream = guard.ClipStream(sys.argv[1], shape)\n"
    "next(stream)\n"
    "print(stream.child_pid, flush=True)\n"
    "os.kill(os.getpid(), signal.SIGKILL)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", program, str(video)],
    capture_output=True,
    check=False,
    text=True,
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  child, deadline = int(done.stdout), time.monotonic() + 30
  while _is_decoder(child):
    assert time.monotonic() < deadline
    time.sleep(0.05)


def _claim_samples(path, count: int) -> None:
  """A whole video whose table claims many more samples, all of one size."""
  odd_videos.encode(path)
  content = bytearray(path.read_bytes())
  for box, offset, value in (
    (b"stsz", 8, struct.pack(">II", 1, count)),
    (b"stts", 12, struct.pack(">II", count, 1)),
    (b"stsc", 12, struct.pack(">III", 1, count, 1)),
  ):
    place = content.index(box, content.index(b"moov")) + offset
    content[place : place + len(value)] = value
  path.write_bytes(bytes(content))


@pytest.mark.parametrize(
  ("limits", "reason"),
  [
    ({"max_pixels": 1000}, "limit is 1000"),
    ({"max_frames": 100}, "limit is 100"),
    ({"max_duration_sec": 10.0}, "limit is 10"),
    ({"max_gap_sec": 0.01}, "limit"),
    ({"max_bytes": 1000}, "at most 1000"),
    ({"max_decode_sec": 1e-3}, "longer than"),
    ({"max_memory_bytes": 1 << 20}, "memory|died"),
  ],
)
def test_every_limit_holds(video, limits, reason):
  limits = dataclasses.replace(DEFAULT_LIMITS, **limits)
  with pytest.raises(errors.VideoError, match=reason):
    list(guard.ClipStream(video, SHAPE, limits=limits))


def test_claims_and_gaps_cost_little(tmp_path):
  """Opened under the default limits, each within seconds."""
  claims, day = tmp_path / "claims.mp4", tmp_path / "day.mp4"
  _claim_samples(claims, 80_000_000)
  odd_videos.encode(day, frames=2, pts=lambda index: index * 800_000)
  start = time.process_time(), time.monotonic()
  for path in (claims, day):
    with pytest.raises(errors.VideoError, match=r"limit|memory|died"):
      list(guard.ClipStream(path, SHAPE))
  assert time.process_time() - start[0] < 2
  assert time.monotonic() - start[1] < 60


def _sparse(path, num_bytes: int) -> None:
  path.touch()
  os.truncate(path, num_bytes)


@pytest.mark.parametrize(
  ("make", "reason"),
  [
    (os.mkfifo, "regular"),
    (lambda path: path.mkdir(), "folder"),
    (lambda path: path.symlink_to("/dev/zero"), "regular"),
    (lambda path: _sparse(path, 12 << 40), "at most"),
    (lambda path: None, "No such file"),
  ],
)
def test_special_files_are_refused_at_once(tmp_path, make, reason):
  path = tmp_path / "a.mp4"
  make(path)
  with pytest.raises(errors.VideoError, match=reason):
    guard.probe(path)


@pytest.mark.parametrize(
  "answer",
  [
    "no JSON",
    "[]",
    "{}",
    '{"slot": -1, "start_sec": 0.0}',
    '{"slot": 4, "start_sec": 0.0}',
    '{"slot": 0}',
    '{"info": {}}',
    '{"duration_sec": "1"}',
    '{"reason": 1, "is_last": true}',
  ],
)
def test_wrong_answers_of_a_child_lose_its_video_only(
  video, tmp_path, monkeypatch, answer
):
  program = (
    f"#!{sys.executable}\n"
    "import socket, sys\n"
    "connection = socket.socket(fileno=int(sys.argv[3]))\n"
    f"connection.send({answer!r}.encode())\n"
    "connection.recv(100)\n"
  )
  path = tmp_path / "decoder"
  path.write_text(program)
  path.chmod(0o755)
  monkeypatch.setattr(sys, "executable", str(path))
  limits = VideoLimits(max_frames=1_000_004)
  with pytest.raises(errors.VideoError, match="malformed"):
    list(guard.ClipStream(video, SHAPE, limits=limits))
