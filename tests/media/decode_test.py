"""Frames are exact however they are reached; hostile files are refused."""

import io
import os
import pathlib
import socket
import threading

import av
import numpy as np
import pytest

from clap_jax.data.frame_cache import FrameCache, cut_clip
from clap_jax.media.decode import (
  DecodedVideo,
  clip_instants,
  decode_clip,
  decode_video,
  iter_clips,
  nearest_frames,
)
from clap_jax.media.errors import VideoError
from clap_jax.media.limits import VideoLimits
from clap_jax.media.video_reader import OpenVideo, probe
from tests.data.built_dataset import encode_mp4

SHAPE = {"num_frames": 8, "size": 24}


def _sequential(video: bytes, *, size: int) -> DecodedVideo:
  """An independent decode: every frame in file order, no seek."""
  frames, times = [], []
  with av.open(io.BytesIO(video)) as container:
    for frame in container.decode(video=0):
      frames.append(frame.to_ndarray(format="rgb24"))
      times.append(float(frame.pts * frame.time_base))
  assert frames[0].shape[0] == size
  return DecodedVideo(np.stack(frames), np.asarray(times))


def test_random_clips_equal_sequential_decode():
  rng = np.random.default_rng(0)
  for fps in (8.0, 30000 / 1001):
    video = encode_mp4(100, fps=fps)
    whole = _sequential(video, size=48)
    assert len(whole.frames) == 100
    cached = decode_video(video, size=48)
    np.testing.assert_allclose(cached.timestamps, whole.timestamps)
    for _ in range(24):
      start_sec = rng.uniform(-1, 100 / fps + 1)
      clip_sec = rng.uniform(0.1, 4)
      instants = clip_instants(start_sec, clip_sec, num_frames=8)
      distance = np.abs(whole.timestamps[None] - instants[:, None])
      chosen = np.argmin(distance, axis=1)  # the first of equals
      times = {"start_sec": start_sec, "clip_sec": clip_sec, "num_frames": 8}
      clip = decode_clip(video, size=48, **times)
      np.testing.assert_array_equal(clip, cut_clip(cached, **times))
      difference = clip.astype(int) - whole.frames[chosen]
      assert np.abs(difference).mean() < 3  # another conversion to RGB
      # The corner's grey level rises by 23 per frame: no frame is off by one.
      corner = clip[:, 3:9, 3:9].mean(axis=(1, 2, 3))
      offset = np.abs(corner - chosen * 23 % 256)
      assert np.minimum(offset, 256 - offset).max() < 8


def test_nearest_frames_on_ties_and_outside():
  timestamps = np.array([0.0, 0.5, 1.0])
  instants = np.array([-1.0, 0.25, 0.26, 0.75, 9.0])
  np.testing.assert_array_equal(
    nearest_frames(timestamps, instants), [0, 0, 1, 1, 2]
  )


def test_a_video_of_too_many_frames_is_refused():
  video = encode_mp4(80, fps=10.0)
  with pytest.raises(VideoError, match="max_frames"):
    decode_video(video, size=24, max_frames=79)


def test_streamed_clips_equal_seeked_clips(tmp_path):
  video = encode_mp4(90, fps=8.0)
  path = tmp_path / "video.mp4"
  path.write_bytes(video)
  for clip_sec, stride_sec in ((2.0, 0.5), (1.0, 1.5), (0.7, 0.3)):
    grid = {"clip_sec": clip_sec, "stride_sec": stride_sec}
    clips = list(iter_clips(path, **grid, **SHAPE))
    expected = int((90 / 8 - clip_sec) / stride_sec + 1e-9) + 1
    assert len(clips) == expected
    for number, clip in enumerate(clips):
      start_sec = number * stride_sec
      assert clip.start_sec == pytest.approx(start_sec)
      direct = decode_clip(
        video, start_sec=start_sec, clip_sec=clip_sec, **SHAPE
      )
      np.testing.assert_array_equal(clip.frames, direct)
  short = encode_mp4(5, fps=8.0)
  (clip,) = iter_clips(short, clip_sec=2.0, stride_sec=1.0, **SHAPE)
  direct = decode_clip(short, start_sec=0.0, clip_sec=2.0, **SHAPE)
  np.testing.assert_array_equal(clip.frames, direct)


def test_resize_modes():
  wide = np.zeros((40, 80, 3), np.uint8)
  wide[:, 20:60] = 200  # what remains after a centre crop
  buffer = io.BytesIO()
  with av.open(buffer, "w", format="mp4") as container:
    stream = container.add_stream("libx264", rate=8)
    stream.width, stream.height, stream.pix_fmt = 80, 40, "yuv420p"
    frame = av.VideoFrame.from_ndarray(wide, format="rgb24")
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  video = buffer.getvalue()
  info = probe(video)
  assert (info.height, info.width, info.num_frames) == (40, 80, 1)
  crop = decode_video(video, size=20, mode="crop").frames[0]
  squash = decode_video(video, size=20).frames[0]
  assert crop.shape == squash.shape == (20, 20, 3)
  assert crop[:, 3:-3].min() > 180
  assert squash[:, :3].max() < 40
  # 128 x 171 px for 112, both in proportion; the wide part is squashed.
  whole = decode_video(video, size=56, mode="tsp_whole").frames[0]
  assert whole.shape == (64, 86, 3)
  assert whole[:, :18].max() < 40
  assert whole[:, 26:-26].min() > 180
  centre = decode_video(video, size=56, mode="tsp").frames[0]
  np.testing.assert_array_equal(centre, whole[4:60, 15:71])
  with pytest.raises(ValueError, match="squash"):
    decode_video(video, size=20, mode="stretch")


def test_limits_and_damaged_videos_are_named(tmp_path):
  video = encode_mp4(64)
  for limits in (
    VideoLimits(max_pixels=47 * 48),
    VideoLimits(max_frames=63),
    VideoLimits(max_duration_sec=7.9),
    VideoLimits(max_bytes=100),
  ):
    with pytest.raises(VideoError, match="limit"):
      decode_video(video, size=8, limits=limits)
  for broken in (b"", b"\0" * 500, b"#EXTM3U\n/etc/passwd", video[:300]):
    with pytest.raises(VideoError):
      probe(broken)
  with pytest.raises(VideoError):  # header first, data cut: half a download
    half = _half(video, tmp_path / "whole.mp4")
    list(iter_clips(half, clip_sec=1.0, stride_sec=1.0, **SHAPE))


def _half(video: bytes, path: pathlib.Path) -> bytes:
  """The video with the header in front and the second half of data lost."""
  options = {"movflags": "faststart"}
  with (
    av.open(io.BytesIO(video)) as reader,
    av.open(str(path), "w", format="mp4", options=options) as writer,
  ):
    stream = writer.add_stream_from_template(reader.streams.video[0])
    for packet in reader.demux(video=0):
      if packet.dts is not None:
        packet.stream = stream
        writer.mux(packet)
  data = path.read_bytes()
  return data[: len(data) // 2]


@pytest.mark.parametrize(
  "name",
  [
    "http://127.0.0.1:{port}/a.mp4",
    "concat:/etc/passwd|/etc/hosts",
    "file:/etc/passwd",
    "subfile,,start,0,end,9,,:/etc/passwd",
    "pipe:0",
    "a\0.mp4",
    "",
    "/dev/zero",
    "missing.mp4",
    "{tmp}",
    "{tmp}/fifo",
    "{tmp}/playlist.m3u8",
    "{tmp}/concat.txt",
    "{tmp}/playlist.avi",
  ],
)
def test_hostile_names_are_refused(tmp_path, name):
  listener = socket.create_server(("127.0.0.1", 0))
  listener.settimeout(0.01)
  port = listener.getsockname()[1]
  os.mkfifo(tmp_path / "fifo")
  playlist = f"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:{port}/x.ts\n"
  (tmp_path / "playlist.m3u8").write_text(playlist)
  (tmp_path / "concat.txt").write_text("ffconcat version 1.0\nfile /etc/hosts")
  (tmp_path / "playlist.avi").write_bytes(
    b"RIFF\xff\0\0\0AVI " + playlist.encode()
  )
  with pytest.raises(VideoError):
    decode_video(name.format(port=port, tmp=tmp_path), size=8)
  with pytest.raises(TimeoutError):
    listener.accept()  # nobody called
  listener.close()


def test_cache_returns_what_decoding_gives():
  video = encode_mp4(40)
  cache = FrameCache(limit_mib=1)
  num_decodes = 0

  def decode() -> DecodedVideo:
    nonlocal num_decodes
    num_decodes += 1
    return decode_video(video, size=24)

  expected_bytes = 40 * 24 * 24 * 3
  results = []

  def fetch():
    results.append(cache.get(7, expected_bytes=expected_bytes, decode=decode))

  threads = [threading.Thread(target=fetch) for _ in range(6)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert num_decodes == 1 and len(results) == 6
  assert all(result is results[0] for result in results)
  times = {"start_sec": 1.3, "clip_sec": 1.1, "num_frames": 5}
  np.testing.assert_array_equal(
    cut_clip(results[0], **times), decode_clip(video, size=24, **times)
  )
  too_large = FrameCache(limit_mib=expected_bytes / 2**20 * 0.9)
  found = too_large.get(7, expected_bytes=expected_bytes, decode=decode)
  assert found is None and num_decodes == 1
  found = too_large.get(8, expected_bytes=0, decode=decode)  # header lied
  assert found is None and len(too_large) == 0


def test_damaged_bytes_never_crash_or_hang():
  """Each of 400 damaged files is refused, or decoded to the asked shape."""
  video = encode_mp4(32)
  rng = np.random.default_rng(0)
  refused = 0
  for case in range(400):
    data = bytearray(video)
    place = int(rng.integers(8, len(data)))
    if case % 4 == 0:
      data = data[:place]
    elif case % 4 == 1:
      data[place : place + 64] = bytes(len(data[place : place + 64]))
    elif case % 4 == 2:
      data[place : place + 8] = rng.bytes(len(data[place : place + 8]))
    else:  # in the header, which stands behind the data here
      place = len(data) - int(rng.integers(1, 900))
      data[place] ^= 1 << int(rng.integers(8))
    try:
      clip = decode_clip(bytes(data), start_sec=1.0, clip_sec=1.0, **SHAPE)
      assert clip.shape == (8, 24, 24, 3)
    except VideoError:
      refused += 1
  assert refused >= 100


def test_first_clip_comes_before_the_whole_video_is_decoded(monkeypatch):
  decoded = 0
  frames = OpenVideo.frames

  def counting(self, **arguments):
    nonlocal decoded
    for frame in frames(self, **arguments):
      decoded += 1
      yield frame

  monkeypatch.setattr(OpenVideo, "frames", counting)
  clips = iter_clips(encode_mp4(200), clip_sec=1.0, stride_sec=0.5, **SHAPE)
  next(clips)
  assert decoded <= 10
  assert len(list(clips)) == 48 and decoded == 200


def test_real_videos_clips_equal_sequential_decode(shared_data):
  rng = np.random.default_rng(0)
  folder = shared_data / "videos"
  for name in (
    "UCF-101_Rowing_g16_c03.avi",
    "decord_flipping_a_pancake.mkv",
    "v_GGSY1Qvo990.mp4",
  ):
    path = folder / name
    whole = decode_video(path, size=32)
    info = probe(path)
    assert abs(len(whole.frames) - info.num_frames) <= 1
    for _ in range(4):
      start_sec = rng.uniform(0, info.duration_sec)
      times = {"start_sec": start_sec, "clip_sec": 1.5, "num_frames": 6}
      np.testing.assert_array_equal(
        decode_clip(path, size=32, **times), cut_clip(whole, **times)
      )
