"""Videos as they come from the network: cut, damaged, odd, hostile.

Each file has the outcome that a build may give it: `frames` is what decodes of
the file before it was damaged, and `outcome` is

* "ok": it has to be stored, from exactly that many source frames;
* "refused": it has to be named as corrupt;
* "noticed": refused, or stored from all frames, or stored with the number of
  damaged frames in the manifest; never stored from fewer without a word.
"""

import dataclasses
import pathlib
import struct
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import numpy as np

FRAMES = 48
FPS = 24
SIZE = (96, 64)
CODECS = {"mp4": "libx264", "mkv": "libx264", "webm": "libvpx", "avi": "mpeg4"}


@dataclasses.dataclass(frozen=True)
class Case:
  """A file of the corpus and what may become of it."""

  path: pathlib.Path
  outcome: str
  frames: int = FRAMES


def picture(index: int, size: tuple[int, int]) -> np.ndarray:
  """Noise that drifts: every frame costs bytes, so that damage hits some."""
  rng = np.random.default_rng(7)
  noise = rng.integers(0, 255, (size[1], size[0] * 2, 3), dtype=np.uint8)
  left = index % size[0]
  return noise[:, left : left + size[0]]


def encode(
  path: pathlib.Path,
  *,
  codec: str = "libx264",
  frames: int = FRAMES,
  rate: Fraction = Fraction(FPS),
  size: tuple[int, int] = SIZE,
  pix_fmt: str = "yuv420p",
  options: dict | None = None,
  container_options: dict | None = None,
  pts: Callable[[int], int] = lambda index: index,
  file_format: str | None = None,
) -> pathlib.Path:
  """Writes a video; `pts` places frame `index` on the grid of the rate."""
  with av.open(
    str(path), "w", format=file_format, options=container_options or {}
  ) as container:
    stream = container.add_stream(codec, rate=rate, options=options or {})
    stream.width, stream.height = size
    stream.pix_fmt = pix_fmt
    stream.codec_context.time_base = 1 / rate
    for index in range(frames):
      frame = av.VideoFrame.from_ndarray(picture(index, size), format="rgb24")
      frame.pts, frame.time_base = pts(index), 1 / rate
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return path


def _damages() -> dict[str, Callable[[bytes], bytes]]:
  def cut(share):
    return lambda data: data[: int(len(data) * share)]

  def zero(first, last):
    def damage(data):
      start, end = int(len(data) * first), int(len(data) * last)
      return data[:start] + bytes(end - start) + data[end:]

    return damage

  def flip(count, seed):
    def damage(data):
      rng, result = np.random.default_rng(seed), bytearray(data)
      for place in rng.integers(0, len(data), count):
        result[place] ^= 1 << int(rng.integers(8))
      return bytes(result)

    return damage

  noise = np.random.default_rng(1).bytes(4096)
  return {
    "cut_half": cut(0.5),
    "cut_end": cut(0.95),
    "zeroed_third": zero(1 / 3, 2 / 3),
    "zeroed_little": zero(0.5, 0.52),
    "flipped_200": flip(200, 1),
    "flipped_5": flip(5, 2),
    "no_head": lambda data: bytes(64) + data[64:],
    "only_head": lambda data: data[:64] + noise,
    "noise_inside": lambda data: (
      data[: len(data) // 2] + noise + data[len(data) // 2 + len(noise) :]
    ),
    "noise_after": lambda data: data + noise,
  }


def _damaged(folder: pathlib.Path) -> Iterator[Case]:
  """Four containers, whole and damaged in ten ways; mp4 with both layouts."""
  for suffix, codec in CODECS.items():
    layouts = {"": {}}
    if suffix == "mp4":
      layouts["_front"] = {"movflags": "+faststart"}
    for layout, options in layouts.items():
      whole = encode(
        folder / f"whole_{suffix}{layout}.{suffix}",
        codec=codec,
        options={"g": "12"},
        container_options=options,
      )
      yield Case(whole, "ok")
      for name, damage in _damages().items():
        path = folder / f"{name}_{suffix}{layout}.{suffix}"
        path.write_bytes(damage(whole.read_bytes()))
        never = name in ("no_head", "only_head")
        yield Case(path, "refused" if never else "noticed")


def _odd(folder: pathlib.Path) -> Iterator[Case]:
  """Unusual and entirely valid."""

  def case(name, outcome="ok", frames=FRAMES, **options):
    path = encode(folder / name, frames=frames, **options)
    return Case(path, outcome, frames)

  yield case("b_frames.mp4", options={"bf": "3", "g": "30"})
  yield case("ntsc_film.mp4", rate=Fraction(24_000, 1001))
  yield case("ntsc.mkv", rate=Fraction(30_000, 1001), frames=60)
  yield case("fast.mp4", rate=Fraction(60_000, 1001), frames=120)
  yield case("slow.mp4", rate=Fraction(2), frames=6)
  yield case("odd_size.mkv", size=(97, 65), pix_fmt="yuv444p")
  yield case("ten_bit.mkv", pix_fmt="yuv420p10le")
  yield case("lossless.mkv", codec="ffv1")
  yield case("pictures.avi", codec="mjpeg", pix_fmt="yuvj420p")
  yield case("broadcast.ts", codec="mpeg2video", file_format="mpegts")
  yield case("flash.flv", codec="flv", rate=Fraction(25), frames=50)
  yield case("late_start.mkv", pts=lambda index: index + 240)
  yield case("variable.mkv", pts=lambda index: index + index // 3)
  yield case("one_frame.mp4", "refused", frames=1)
  yield case("too_short.mp4", "refused", frames=12)
  yield case("tiny_picture.mkv", "refused", size=(8, 8))
  # Fragments have no table of all frames, a live file no length.
  yield case(
    "fragments.mp4",
    container_options={"movflags": "frag_keyframe+empty_moov"},
    options={"g": "12"},
  )
  yield case("live.mkv", container_options={"live": "1"})


def _no_videos(folder: pathlib.Path) -> Iterator[Case]:
  """Not videos at all."""
  contents = {
    "empty.mp4": b"",
    "nothing.mkv": b"",
    "page.mp4": b"<!doctype html><title>404</title>" * 50,
    "json.webm": b'{"error": "gone"}' * 20,
    "zip.mp4": b"PK\x03\x04" + bytes(400),
    "png.mkv": _png(64, 64),
    "gif.mp4": b"GIF89a" + bytes(300),
    "nul.avi": bytes(5000),
    "script.mp4": b"#!/bin/sh\ntouch /tmp/owned\n" * 20,
  }
  for name, content in contents.items():
    (folder / name).write_bytes(content)
    yield Case(folder / name, "refused")
  path = folder / "audio_only.mp4"
  write_sound(path)
  yield Case(path, "refused")


def write_sound(path: pathlib.Path) -> None:
  """A file with one audio stream and no pictures."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream("aac", rate=16_000, layout="mono")
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 16_000), np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate = 16_000
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _png(width: int, height: int) -> bytes:
  """A black picture of one bit per pixel: 16,000 x 16,000 in 32 kB."""

  def chunk(kind, data):
    body = kind + data
    return (
      struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    )

  header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
  rows = zlib.compressobj(9)
  row = bytes(1 + (width + 7) // 8)
  data = b"".join(rows.compress(row) for _ in range(height)) + rows.flush()
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", data)
    + chunk(b"IEND", b"")
  )


def _bombs(folder: pathlib.Path) -> Iterator[Case]:
  """Small files of enormous pictures, numbers and lengths."""
  large = _png(16_000, 16_000)
  for name, claimed in (("bomb.avi", 16_000), ("bomb_hidden.avi", 64)):
    path = folder / name
    with av.open(str(path), "w") as container:
      stream = container.add_stream("png", rate=10)
      stream.width = stream.height = claimed
      stream.pix_fmt = "monob"
      for index in range(20):
        packet = av.Packet(large)
        packet.pts = packet.dts = index
        packet.time_base = Fraction(1, 10)
        packet.stream, packet.is_keyframe = stream, True
        container.mux(packet)
    yield Case(path, "refused")
  whole = (folder / "whole_mp4.mp4").read_bytes()
  forged = {
    "forged_size.mp4": _forge(whole, b"avc1", 28, b"\xff\xff\xff\xff"),
    "forged_count.mp4": _forge(whole, b"stsz", 12, b"\x7f\xff\xff\xff"),
    "forged_length.mp4": _forge(whole, b"mvhd", 20, b"\x7f\xff\xff\xff"),
    "forged_media_length.mp4": _forge(whole, b"mdhd", 20, b"\x7f\xff\xff\xff"),
  }
  for name, content in forged.items():
    (folder / name).write_bytes(content)
    yield Case(folder / name, "noticed")


def _forge(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
  """Overwrites a field, counted from the name of a box."""
  place = data.index(box, data.index(b"moov")) + offset
  return data[:place] + value + data[place + len(value) :]


def make(folder: pathlib.Path) -> list[Case]:
  """Writes the corpus."""
  return [
    case
    for kind in (_damaged, _odd, _no_videos, _bombs)
    for case in kind(folder)
  ]
