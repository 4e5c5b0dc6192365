"""Sends video files, whole or by byte ranges.

A file is opened once and checked through the open handle, so that the checked
content is sent even if the path is replaced.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
import re
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import fastapi
from starlette import responses

from clap_jax.media import formats
from clap_jax.storage import untrusted

MAX_BYTES = 64 << 30
_BLOCK_BYTES = 1 << 20
_MAX_CHECKED = 10_000
_MEDIA_TYPES = {  # by the containers of formats.py
  "mov": "video/mp4",
  "matroska": "video/x-matroska",
  "avi": "video/x-msvideo",
  "mpegts": "video/mp2t",
  "flv": "video/x-flv",
  "ogg": "video/ogg",
  "mpeg": "video/mpeg",
  "asf": "video/x-ms-asf",
  "gif": "image/gif",
}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class NotAVideoError(ValueError):
  """Raised if a file may not be sent; the message contains no path."""


def media_type(head: bytes) -> str:
  """Returns the media type of a video that starts with these bytes.

  Raises:
    NotAVideoError: if they match no supported container.
  """
  container = formats.sniff(head)
  if container is None:
    raise NotAVideoError("the file is not a video")
  if container == "matroska" and b"webm" in head[:64]:
    return "video/webm"
  return _MEDIA_TYPES[container]


@dataclasses.dataclass(frozen=True)
class OpenFile:
  """An open video file that may be sent."""

  file: BinaryIO
  num_bytes: int
  media_type: str


class IndexedFiles:
  """Opens the videos of an index, if they are unchanged since indexing."""

  def __init__(self):
    # Hashes by file identity, because hashing a large video takes minutes.
    self._hashes: collections.OrderedDict[tuple, str] = (
      collections.OrderedDict()
    )
    self._lock = threading.Lock()

  def open(self, path: str, *, sha256: str) -> OpenFile:
    """Opens a video whose content has this hash.

    Raises:
      NotAVideoError: if it is missing, a link, not a video, or changed.
    """
    try:
      opened = open_video(pathlib.Path(path))
    except (OSError, untrusted.UntrustedFileError) as error:
      # The page must not learn whether a file exists or who owns it.
      raise NotAVideoError(
        "the indexed file is missing or not a regular file"
      ) from error
    try:
      if self._hash(opened.file) != sha256:
        raise NotAVideoError("the file changed after it was indexed")
    except BaseException:
      opened.file.close()
      raise
    return opened

  def _hash(self, file: BinaryIO) -> str:
    with self._lock:  # hashing in parallel would only wait for the disk
      identity = _identity(file)
      digest = self._hashes.get(identity)
      if digest is None:
        reader: Any = file  # the stub's type is too narrow
        digest = hashlib.file_digest(reader, "sha256").hexdigest()
        if _identity(file) != identity:
          raise NotAVideoError("the file changed while it was read")
        self._hashes[identity] = digest
        while len(self._hashes) > _MAX_CHECKED:
          self._hashes.popitem(last=False)
      return digest


def open_video(path: pathlib.Path) -> OpenFile:
  """Opens a regular file, not a link, that starts like a video.

  Raises:
    NotAVideoError: if its first bytes are not those of a video.
    UntrustedFileError, OSError: see `untrusted.open_file`.
  """
  file = untrusted.open_file(path.name, folder=path.parent, max_bytes=MAX_BYTES)
  try:
    kind = media_type(file.read(formats.SNIFF_BYTES))
    file.seek(0)
    return OpenFile(file, os.fstat(file.fileno()).st_size, kind)
  except BaseException:
    file.close()
    raise


class VideoResponse(responses.StreamingResponse):
  """A response with a video or the requested byte range of it."""

  def __init__(self, opened: OpenFile, *, range_header: str | None):
    self._file = opened.file
    headers = {"Accept-Ranges": "bytes"}
    status, part = 200, range(opened.num_bytes)
    try:
      wanted = _wanted(range_header, opened.num_bytes)
    except fastapi.HTTPException:
      opened.file.close()
      raise
    if wanted is not None:
      status, part = 206, wanted
      headers["Content-Range"] = (
        f"bytes {part.start}-{part.stop - 1}/{opened.num_bytes}"
      )
    headers["Content-Length"] = str(len(part))
    super().__init__(
      _blocks(opened.file, part),
      status_code=status,
      headers=headers,
      media_type=opened.media_type,
    )

  async def __call__(self, scope, receive, send) -> None:
    try:
      await super().__call__(scope, receive, send)
    finally:
      self._file.close()


def _wanted(header: str | None, num_bytes: int) -> range | None:
  """Parses a Range header; None stands for the whole file.

  Multiple and malformed ranges select the whole file.
  """
  match = _RANGE.fullmatch(header or "")
  if match is None or match[0] == "bytes=-":
    return None
  first, last = match.groups()
  if not first:
    part = range(max(0, num_bytes - int(last)), num_bytes)
  else:
    end = min(int(last), num_bytes - 1) if last else num_bytes - 1
    if int(first) < num_bytes and end < int(first):
      return None
    part = range(int(first), end + 1)
  if not part:
    headers = {"Content-Range": f"bytes */{num_bytes}"}
    raise fastapi.HTTPException(416, "The range is past the end.", headers)
  return part


def _blocks(file: BinaryIO, part: range) -> Iterator[bytes]:
  file.seek(part.start)
  left = len(part)
  while left > 0:
    block = file.read(min(left, _BLOCK_BYTES))
    if not block:  # truncated after opening; the client sees a short response
      return
    left -= len(block)
    yield block


def _identity(file: BinaryIO) -> tuple[int, ...]:
  status = os.fstat(file.fileno())
  return (
    status.st_dev,
    status.st_ino,
    status.st_size,
    status.st_mtime_ns,
    status.st_ctime_ns,
  )
