"""Local videos of any form reach the store, or are refused with a reason."""

import dataclasses
import http.server
import threading
from fractions import Fraction

import av
import numpy as np
import pytest

from clap_jax.media import formats
from clap_jax.media.errors import VideoError
from clap_jax.media.limits import VideoLimits
from tests.tfds_builders import video_corpus
from tfds_builders import encoding, transcoding

LIMITS = transcoding.StoreLimits(source=VideoLimits(max_decode_sec=60.0))


def make_video(
  path,
  *,
  seconds=2.0,
  fps=30,
  size=(96, 64),
  codec="mpeg4",
  container=None,
  bitrate=None,
):
  """A video whose brightness tells the time: 100 levels per second."""
  with av.open(str(path), "w", format=container) as out:
    stream = out.add_stream(codec, rate=Fraction(fps))
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.bit_rate = bitrate or 2_000_000
    for index in range(round(seconds * fps)):
      level = min(250, 20 + int(100 * index / fps))
      image = np.full((size[1], size[0], 3), level, np.uint8)
      image[: size[1] // 2] += np.uint8(5)
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  return path


def _frames(path):
  with av.open(str(path)) as container:
    return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]


@pytest.mark.parametrize(
  "name,codec",
  [
    ("a.mp4", "mpeg4"),
    ("a.avi", "mpeg4"),
    ("a.mkv", "libx264"),
    ("a.ts", "mpeg2video"),
  ],
)
def test_containers_reach_the_store(tmp_path, name, codec):
  source = make_video(tmp_path / name, codec=codec)
  target = tmp_path / "stored.mp4"
  facts = transcoding.transcode_apart(source, target, limits=LIMITS)
  assert facts["fps"] == 15.0
  assert facts["num_frames"] == encoding.count_frames(target)
  assert abs(facts["num_frames"] - 30) <= 1
  assert (facts["height"], facts["width"]) == (64, 96)
  frames = _frames(target)
  with av.open(str(target)) as container:
    keys = [f.key_frame for f in container.decode(video=0)]
  assert [i for i, k in enumerate(keys) if k] == list(
    range(0, len(keys), encoding.GOP_FRAMES)
  )
  for index, frame in enumerate(frames):  # frame k shows the time k / 15
    level = 20 + 100 * index / 15
    assert abs(frame[48:].mean() - level) < 8


def test_large_videos_are_scaled_to_the_short_side(tmp_path):
  source = make_video(tmp_path / "a.mp4", size=(642, 362), fps=10)
  facts = transcoding.transcode_apart(source, tmp_path / "b.mp4", limits=LIMITS)
  assert (facts["height"], facts["width"], facts["fps"]) == (224, 398, 10.0)


def _half(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _zeroed(path):
  content = bytearray(path.read_bytes())
  middle = len(content) // 3
  content[middle : 2 * middle] = bytes(middle)
  path.write_bytes(content)


def _page(path):
  path.write_text("<html>404</html>" * 100)


def _pointer(path):
  path.write_text("version https://git-lfs.github.com/spec/v1\nsize 12345\n")


def _playlist(path):
  path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")


def _forged(path):
  """An enormous picture claimed in the sample description."""
  content = path.read_bytes()
  at = content.index(b"mp4v", content.index(b"stsd"))
  path.write_bytes(
    content[: at + 28] + b"\xff\xff\xff\xff" + content[at + 32 :]
  )


@pytest.mark.parametrize(
  "damage,reason",
  [
    (lambda p: p.write_bytes(b""), "not a known video container.* empty"),
    (_page, "not a known video container.* web page"),
    (_pointer, "not a known video container.* Git LFS"),
    (_playlist, "not a known video container"),
    (_half, "damaged|cut short"),
    (_zeroed, "damaged|cut short"),
    (_forged, None),
  ],
)
def test_broken_files_are_refused_and_leave_nothing(tmp_path, damage, reason):
  source = make_video(tmp_path / "a.mp4")
  damage(source)
  target = tmp_path / "out" / "b.mp4"
  target.parent.mkdir()
  try:
    transcoding.transcode_apart(source, target, limits=LIMITS)
  except VideoError as error:
    assert reason is None or pytest.importorskip("re").search(
      reason, str(error)
    )
    assert not list(target.parent.iterdir())
  else:  # the decoder does not believe the forged size: fine as well
    assert reason is None


@pytest.mark.parametrize(
  "limits,reason",
  [
    ({"min_duration_sec": 3.0}, "too short"),
    ({"max_duration_sec": 1.0}, "limit"),
    ({"max_frames": 10}, "limit is 10"),
    ({"max_pixels": 1_000}, "pixels"),
    ({"max_bytes": 100}, "at most 100"),
    ({"max_gap_sec": 0.01}, "limit"),
    ({"max_decode_sec": 0.01}, "took longer"),
    ({"max_memory_bytes": 1 << 20}, "memory|the decoder died"),
  ],
)
def test_limits_hold(tmp_path, limits, reason):
  source = make_video(tmp_path / "a.mp4")
  target = tmp_path / "b.mp4"
  if "min_duration_sec" in limits:
    limits = dataclasses.replace(LIMITS, **limits)
  else:
    source_limits = dataclasses.replace(LIMITS.source, **limits)
    limits = dataclasses.replace(LIMITS, source=source_limits)
  with pytest.raises(VideoError, match=reason):
    transcoding.transcode_apart(source, target, limits=limits)
  assert not target.exists()


def test_sound_without_pictures_is_refused(tmp_path):
  path = tmp_path / "a.mp4"
  video_corpus.write_sound(path)
  with pytest.raises(VideoError, match="no video stream"):
    transcoding.transcode_apart(path, tmp_path / "b.mp4", limits=LIMITS)


def test_addresses_in_files_are_never_fetched(tmp_path):
  hits = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      hits.append(self.path)
      self.send_error(404)

  server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  address = f"http://127.0.0.1:{server.server_port}/x.ts"
  bodies = [
    f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n",
    f"ffconcat version 1.0\nfile '{address}'\n",
    f"RIFF\0\0\0\0AVI #EXTM3U\n#EXTINF:1,\n{address}\n",
    f"\0\0\0\x18ftypisom#EXTM3U\n#EXTINF:1,\n{address}\n",
  ]
  try:
    for index, body in enumerate(bodies):
      path = tmp_path / f"{index}.mp4"
      path.write_text(body)
      with pytest.raises(VideoError):
        transcoding.transcode_apart(path, tmp_path / "b.mp4", limits=LIMITS)
  finally:
    server.shutdown()
    server.server_close()
  assert hits == []


def test_containers_are_told_by_their_bytes():
  assert formats.sniff(b"\0\0\0\x20ftypisom") == "mov"
  assert formats.sniff(b"\x1aE\xdf\xa3....") == "matroska"
  assert formats.sniff(b"concat:a|b") is None
