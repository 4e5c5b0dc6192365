"""Valid and damaged videos of every accepted kind, written with PyAV.

The grey level of a picture tells the time of its content: LEVEL_PER_SEC levels
per second.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np

FPS = 10
SECONDS = 6.0
LEVEL_PER_SEC = 20
_FIRST_LEVEL = 30
SIZE = (96, 64)


@dataclasses.dataclass(frozen=True)
class Case:
  """A file, and what every reader has to find in it.

  `shown` maps a player's time to the time of the content that is on the screen.
  """

  name: str
  make: Callable[[pathlib.Path], None]
  duration_sec: float = SECONDS
  shown: tuple[tuple[float, float], ...] = ((1.0, 1.0), (4.0, 4.0))
  refusal: str | None = None


def content_sec(image: np.ndarray) -> float:
  """The time of the content of a picture."""
  return (float(image.mean()) - _FIRST_LEVEL) / LEVEL_PER_SEC


def _picture(index: int, fps: int) -> av.VideoFrame:
  level = _FIRST_LEVEL + LEVEL_PER_SEC * index / fps
  image = np.full((SIZE[1], SIZE[0], 3), round(level), np.uint8)
  image[:8, : index % SIZE[0]] += np.uint8(8)  # that every frame costs bytes
  return av.VideoFrame.from_ndarray(image, format="rgb24")


def _add_video(container, *, codec, pix_fmt, fps, options):
  stream = container.add_stream(codec, rate=fps, options=options)
  stream.width, stream.height = SIZE
  stream.pix_fmt = pix_fmt
  # Restated by each format in its own units; time stamps are in these.
  stream.codec_context.time_base = Fraction(1, fps)
  return stream


def encode(
  path: pathlib.Path,
  *,
  codec: str = "libx264",
  pix_fmt: str = "yuv420p",
  fps: int = FPS,
  frames: int | None = None,
  pts: Callable[[int], int] = lambda index: index,
  audio_sec: float = 0.0,
  last_sec: float = 0.0,
  options: dict | None = None,
  container_options: dict | None = None,
  file_format: str | None = None,
) -> None:
  """Writes a video; `pts` places its frames, in units of 1 / fps."""
  with av.open(
    str(path), "w", format=file_format, options=container_options or {}
  ) as container:
    video = _add_video(
      container, codec=codec, pix_fmt=pix_fmt, fps=fps, options=options or {}
    )
    packets = []
    if audio_sec:
      packets += _audio_packets(container, audio_sec)
    for index in range(round(SECONDS * fps) if frames is None else frames):
      frame = _picture(index, fps)
      frame.pts, frame.time_base = pts(index), Fraction(1, fps)
      packets += video.encode(frame)
    packets += video.encode(None)
    if last_sec:
      packets[-1].duration = round(last_sec / packets[-1].time_base)
    for packet in packets:
      container.mux(packet)


def _audio_packets(container, seconds):
  audio = container.add_stream("aac", rate=16_000, layout="mono")
  packets = []
  for start in range(0, round(seconds * 16_000), 1024):
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate, frame.pts = 16_000, start
    packets += audio.encode(frame)
  return packets + audio.encode(None)


def _trimmed(path: pathlib.Path) -> None:
  """The first two seconds are in the file and hidden by an edit list."""
  whole = path.with_suffix(".whole.mp4")
  encode(whole, options={"bf": "0", "g": "1000"})
  with (
    av.open(str(whole)) as reader,
    av.open(
      str(path), "w", options={"avoid_negative_ts": "disabled"}
    ) as writer,
  ):
    source = reader.streams.video[0]
    stream = writer.add_stream_from_template(source)
    shift = round(2 / source.time_base)
    for packet in reader.demux(source):
      if packet.size:
        packet.pts -= shift
        packet.dts -= shift
        packet.stream = stream
        writer.mux(packet)
  whole.unlink()


def _joined(path: pathlib.Path, *, starts_sec: tuple[int, ...]) -> None:
  """Transport streams, one after the other, with time stamps of their own."""
  pieces = []
  for start_sec in starts_sec:
    encode(
      path,
      file_format="mpegts",
      options={"bf": "0"},
      pts=lambda index, start=start_sec * FPS: index + start,
    )
    pieces.append(path.read_bytes())
  path.write_bytes(b"".join(pieces))


def _camera(path: pathlib.Path) -> None:
  """Packets of 192 bytes: four bytes of time before each of 188."""
  encode(path, file_format="mpegts")
  content = path.read_bytes()
  starts = range(0, len(content), 188)
  path.write_bytes(b"".join(bytes(4) + content[k : k + 188] for k in starts))


def _two_streams(path: pathlib.Path) -> None:
  """The second stream is the default one; the first shows something else."""
  with av.open(str(path), "w") as container:
    streams = [
      _add_video(
        container, codec="libx264", pix_fmt="yuv420p", fps=FPS, options={}
      )
      for _ in range(2)
    ]
    streams[0].disposition = av.stream.Disposition(0)
    streams[1].disposition = av.stream.Disposition.default
    for number, stream in enumerate(streams):
      for index in range(round(SECONDS * FPS) if number else 10):
        frame = _picture(index if number else 99, FPS)
        frame.pts, frame.time_base = index, Fraction(1, FPS)
        container.mux(stream.encode(frame))
      container.mux(stream.encode(None))


def _bad_sector(path: pathlib.Path) -> None:
  """One of 180 frames is zeroed."""
  encode(path, fps=30, options={"bf": "0", "g": "30"})
  with av.open(str(path)) as container:
    packets = [p for p in container.demux(video=0) if p.size]
    place, size = packets[100].pos, packets[100].size
  content = bytearray(path.read_bytes())
  content[place : place + size] = bytes(size)
  path.write_bytes(bytes(content))


def _cut(path: pathlib.Path, *, movflags: str | None) -> None:
  options = {"movflags": movflags} if movflags else {}
  encode(path, codec="mpeg4", fps=100, container_options=options)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _of(**options) -> Callable[[pathlib.Path], None]:
  return lambda path: encode(path, **options)


_LATE = ((1.0, 0.0), (4.0, 1.0), (8.0, 5.0))
_STILL = round(20 * FPS)

CASES = (
  Case("plain.mp4", _of()),
  Case("plain.mov", _of(audio_sec=3.0)),
  Case("plain.m4v", _of(file_format="mp4")),
  Case("phone.3gp", _of(codec="mpeg4")),
  Case(
    "trimmed.mp4", _trimmed, duration_sec=4.0, shown=((0.5, 2.5), (3.0, 5.0))
  ),
  Case(
    "late.mp4",
    _of(audio_sec=9.0, pts=lambda index: index + 3 * FPS),
    duration_sec=9.0,
    shown=_LATE,
  ),
  Case(
    "late_alone.mp4",
    _of(pts=lambda index: index + 3 * FPS),
    duration_sec=9.0,
    shown=_LATE,
  ),
  Case(
    "late.mkv",
    _of(audio_sec=9.0, pts=lambda index: index + 3 * FPS),
    duration_sec=9.0,
    shown=_LATE,
  ),
  Case(
    "held.mp4",
    _of(last_sec=4.0, options={"bf": "0"}),
    duration_sec=9.9,
    shown=((4.0, 4.0), (8.0, 5.9)),
  ),
  Case(
    "held.mkv",
    _of(last_sec=4.0, options={"bf": "0"}),
    duration_sec=9.9,
    shown=((4.0, 4.0), (8.0, 5.9)),
  ),
  Case(
    "still_inside.mp4",
    _of(pts=lambda index: index + _STILL * (index >= 3 * FPS)),
    duration_sec=26.0,
    shown=((2.0, 2.0), (20.0, 2.9), (24.0, 4.0)),
  ),
  *(
    Case(
      f"joined_{name}.ts",
      functools.partial(_joined, starts_sec=starts_sec),
      duration_sec=12.0,
      shown=((1.0, 1.0), (10.0, 4.0)),
    )
    for name, starts_sec in (
      ("equal", (0, 0)),
      ("later", (0, 3600)),
      ("earlier", (3600, 0)),
    )
  ),
  Case("browser.webm", _of(codec="libvpx", container_options={"live": "1"})),
  Case("long_sound.mkv", _of(audio_sec=12.0)),
  Case("camera.MTS", _camera),
  Case("disc.mpg", _of(codec="mpeg2video", fps=25)),
  Case("disc.VOB", _of(codec="mpeg2video", fps=25)),
  Case("moving.gif", _of(codec="gif", pix_fmt="rgb8")),
  Case("flash.flv", _of(codec="flv", audio_sec=9.0)),
  Case("free.ogv", _of(codec="libvpx")),
  Case("window.wmv", _of(codec="wmv2", fps=25)),
  Case("old.avi", _of(codec="mpeg4")),
  Case("two_streams.mp4", _two_streams),
  Case("bad_sector.mp4", _bad_sector),
  Case(
    "half.mp4",
    lambda path: _cut(path, movflags="faststart"),
    refusal="cut short",
  ),
  Case(
    "no_index.mp4",
    lambda path: _cut(path, movflags=None),
    refusal="cut short.*index",
  ),
  Case(
    "day.mp4",
    _of(frames=20, pts=lambda index: index + 23 * 3600 * FPS * (index > 9)),
    refusal="limit",
  ),
  Case(
    "half_live.mp4",
    lambda path: _cut(path, movflags="frag_keyframe+empty_moov"),
    refusal="cut short",
  ),
  Case("page.mp4", lambda path: path.write_text("<html>"), refusal="container"),
)
