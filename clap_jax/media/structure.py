"""Detects truncated files by the sizes of their parts."""

import os
from typing import BinaryIO

from clap_jax.media import formats

_MAX_BOXES = 1_000_000  # a live recording has at most two per second


def is_whole(file: BinaryIO, demuxer: str) -> bool | None:
  """Returns True if a file is as long as its parts state; None if unstated."""
  if demuxer == "mov":
    return _boxes(file)[1]
  if demuxer == "matroska":
    return _is_whole_matroska(file)
  return None


def has_index(file: BinaryIO) -> bool:
  """Returns True if an mp4 or mov file has an index as an outer box."""
  return _boxes(file)[0]


def _is_whole_matroska(file: BinaryIO) -> bool | None:
  head = file.read(formats.SNIFF_BYTES)
  num_bytes = file.seek(0, os.SEEK_END)
  file.seek(0)
  place = head.find(b"\x18\x53\x80\x67")
  size = head[place + 4 : place + 12]
  if place < 0 or len(size) < 8 or size[0] != 1 or size[1:] == b"\xff" * 7:
    return None  # the length is unknown, or in a form that nothing writes
  return place + 12 + int.from_bytes(size[1:], "big") <= num_bytes


def _boxes(file: BinaryIO) -> tuple[bool, bool | None]:
  """Returns whether an index exists, and whether the last fragment is whole.

  The latter is None without fragments: the index then states the length.
  """
  num_bytes, place, kinds = file.seek(0, os.SEEK_END), 0, set()
  kind = b""
  for _ in range(_MAX_BOXES):
    if place >= num_bytes:
      break
    file.seek(place)
    head = file.read(16)
    kind, size = head[4:8], int.from_bytes(head[:4], "big")
    if size == 1:
      size = int.from_bytes(head[8:16], "big")
    elif size == 0:  # up to the end
      size = num_bytes - place
    kinds.add(kind)
    place += max(size, 8)
  file.seek(0)
  if b"moof" not in kinds:
    return b"moov" in kinds, None
  # Other bytes after the last fragment are harmless.
  return b"moov" in kinds, kind not in (b"moof", b"mdat") or place <= num_bytes
