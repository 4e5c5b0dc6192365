"""Sends video files, whole or by byte ranges.

A file is opened once: what is checked is what is sent, whatever its name
stands for a moment later.
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
_MEDIA_TYPES = {  # of the containers of formats.py
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
  """A file that is not sent; the message has no path."""


def media_type(head: bytes) -> str:
  """Returns the media type of a video that starts with these bytes.

  Raises:
    NotAVideoError: they are of no container that the project reads.
  """
  container = formats.sniff(head)
  if container is None:
    raise NotAVideoError("the file is not a video")
  if container == "matroska" and b"webm" in head[:64]:
    return "video/webm"
  return _MEDIA_TYPES[container]


@dataclasses.dataclass(frozen=True)
class OpenFile:
  """A video that may be sent."""

  file: BinaryIO
  num_bytes: int
  media_type: str


class IndexedFiles:
  """Opens videos of an index, if they are still what was indexed."""

  def __init__(self):
    # Identity of a file -> its hash; large videos take minutes to hash.
    self._hashes: collections.OrderedDict[tuple, str] = (
      collections.OrderedDict()
    )
    self._lock = threading.Lock()

  def open(self, path: str, *, sha256: str) -> OpenFile:
    """Opens a video whose content has this hash.

    Raises:
      NotAVideoError: it is missing, a link, not a video, or was changed.
    """
    try:
      opened = open_video(pathlib.Path(path))
    except (OSError, untrusted.UntrustedFileError) as error:
      # Whether a file is there, and whose it is, is not for the page.
      raise NotAVideoError(
        "the file of the index is missing or is not a regular file"
      ) from error
    try:
      if self._hash(opened.file) != sha256:
        raise NotAVideoError("the file was changed after it was indexed")
    except BaseException:
      opened.file.close()
      raise
    return opened

  def _hash(self, file: BinaryIO) -> str:
    with self._lock:  # several at once would only wait for the disk
      identity = _identity(file)
      digest = self._hashes.get(identity)
      if digest is None:
        reader: Any = file  # typed more narrowly than what it takes
        digest = hashlib.file_digest(reader, "sha256").hexdigest()
        if _identity(file) != identity:
          raise NotAVideoError("the file is being changed")
        self._hashes[identity] = digest
        while len(self._hashes) > _MAX_CHECKED:
          self._hashes.popitem(last=False)
      return digest


def open_video(path: pathlib.Path) -> OpenFile:
  """Opens a regular file, not a link, that starts as a video.

  Raises:
    NotAVideoError: it does not start as a video.
    UntrustedFileError, OSError: as `untrusted.open_file`.
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
  """A video or the part of it that the browser asks for."""

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
  """Returns the bytes of a Range header, None for the whole file.

  Several ranges at once, and what is not a range, are answered with the file.
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
    raise fastapi.HTTPException(416, "The file is shorter.", headers)
  return part


def _blocks(file: BinaryIO, part: range) -> Iterator[bytes]:
  file.seek(part.start)
  left = len(part)
  while left > 0:
    block = file.read(min(left, _BLOCK_BYTES))
    if not block:  # cut after it was opened; the client sees a short answer
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
