"""Recognises video files by name and by their first bytes.

One list serves `clap build`, `predict`, `index`, `extract`, the support folder
and the uploads of `clap serve`.
"""

import os
import pathlib

from clap_jax.storage import locations

# Endings that are looked for in a folder. What a file is follows from its
# first bytes, whatever its ending.
SUFFIXES = (
  *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2"),
  *(".mkv", ".webm"),
  ".avi",
  *(".ts", ".mts", ".m2ts", ".m2t"),
  ".flv",
  *(".mpg", ".mpeg", ".vob"),
  *(".wmv", ".asf"),
  ".ogv",
  ".gif",
)
SNIFF_BYTES = 512
_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_MAGIC = (
  (b"\x1a\x45\xdf\xa3", "matroska"),
  (b"FLV\x01", "flv"),
  (b"OggS", "ogg"),
  (b"\x00\x00\x01\xba", "mpeg"),
  (b"\x30\x26\xb2\x75", "asf"),
  (b"GIF87a", "gif"),
  (b"GIF89a", "gif"),
)
# Packets of plain transport streams, of cameras and discs (four bytes of time
# before each), and of those with error correction.
_TS_LAYOUTS = ((0, 188), (4, 192), (0, 204))
_TS_SYNC = 0x47


def sniff(head: bytes) -> str | None:
  """Returns FFmpeg's name of an accepted container by its first bytes."""
  if head[4:8] in _MOV_BOXES:
    return "mov"
  if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
    return "avi"
  for magic, name in _MAGIC:
    if head.startswith(magic):
      return name
  for first, step in _TS_LAYOUTS:
    if len(head) > first + step and (
      head[first] == _TS_SYNC == head[first + step]
    ):
      return "mpegts"
  return None


def has_video_name(path: str | os.PathLike) -> bool:
  """Returns True if a file in a folder of videos is read.

  Hidden files are ignored: other systems add `._a.mp4` to `a.mp4`, which is not
  a video.
  """
  path = pathlib.PurePath(path)
  return not path.name.startswith(".") and path.suffix.lower() in SUFFIXES


def versions_of_videos(
  folder: locations.Location,
) -> dict[str, tuple[int | str, ...]]:
  """Lists videos below a folder by relative name, sorted; ignores hidden ones.

  Each has a value that changes with its content; see
  `locations.versions_below`.
  """
  return {
    name: version
    for name, version in locations.versions_below(folder).items()
    if has_video_name(name)
    and not any(part.startswith(".") for part in name.split("/"))
  }


def list_videos(folder: str | os.PathLike) -> list[pathlib.Path]:
  """Lists the paths of the videos below a local folder."""
  folder = pathlib.Path(folder)
  return [folder / name for name in versions_of_videos(folder)]
