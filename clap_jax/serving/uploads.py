"""Transcodes uploaded videos into a private folder.

The first bytes must be those of a video before more is stored. This process
never opens an upload: `make_playable` transcodes it in a guarded process to a
small mp4 for the model and the browser, and the upload is deleted. The number
of concurrent uploads and their total size are limited.
"""

import asyncio
import collections
import contextlib
import dataclasses
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator

import fastapi
from starlette import requests

from clap_jax.media import formats, video_reader
from clap_jax.serving import answers, bodies, jobs, private_folder

MakePlayable = Callable[[pathlib.Path, pathlib.Path], object]
_RESERVED_BYTES = 4 << 20  # step of reserving from the budget


@dataclasses.dataclass(frozen=True, kw_only=True)
class UploadLimits:
  """Limits of uploads: size, number and time."""

  max_upload_bytes: int = 512 << 20
  max_at_once: int = 2
  max_videos: int = 32  # stored videos; the oldest is deleted first
  max_stored_bytes: int = 4 << 30  # stored videos and running uploads
  min_free_bytes: int = 512 << 20  # disk space that stays free
  idle_sec: float = 20.0
  receive_sec: float = 600.0
  decode_sec: float = 600.0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      lowest = 0 if field.name == "min_free_bytes" else 1e-3
      if not lowest <= value < float("inf"):
        raise ValueError(
          f"{field.name} is {value}; expected a finite number above 0"
        )


@dataclasses.dataclass(frozen=True)
class Video:
  """An uploaded video after transcoding."""

  path: pathlib.Path
  name: str  # the user's file name; shown, never opened
  duration_sec: float
  num_bytes: int


class Uploads:
  """Receives uploads and stores the videos; for a single event loop."""

  def __init__(
    self,
    limits: UploadLimits,
    *,
    make_playable: MakePlayable,
  ):
    self._limits = limits
    self._make_playable = make_playable
    self._directory = pathlib.Path()
    self._known: collections.OrderedDict[str, Video] = collections.OrderedDict()
    self._at_once = 0
    self._coming_bytes = 0
    self._tasks: set[asyncio.Task] = set()  # the loop has weak ones

  @contextlib.contextmanager
  def opened(self) -> Iterator[None]:
    """Provides the folder of the videos while the server runs."""
    with private_folder.private_folder() as directory:
      self._directory = directory
      yield

  def get(self, key: str) -> Video:
    """Returns a stored video, or raises HTTPException 404."""
    video = self._known.get(key)
    if video is None:
      raise fastapi.HTTPException(404, "The video does not exist any more.")
    return video

  async def accept(self, request: requests.Request, name: str) -> str:
    """Stores the body of a request and returns the key of the video.

    Raises:
      fastapi.HTTPException: if it is no video, too large or too slow, or there
        are too many uploads.
    """
    if self._at_once >= self._limits.max_at_once:
      raise jobs.busy("Other uploads are running; try again.")
    upload = _Upload(self._directory)
    self._at_once += 1
    try:
      await self._receive(request, upload)
    except BaseException as error:  # also if the client disconnects
      self._end(upload)
      if isinstance(error, OSError):
        raise _no_room() from error
      raise
    task = asyncio.create_task(self._decode(upload, name))
    self._tasks.add(task)
    task.add_done_callback(self._tasks.discard)
    await asyncio.wait({task}, timeout=self._limits.decode_sec)
    if not task.done():
      upload.is_abandoned = True
      raise fastapi.HTTPException(
        504, f"Not decoded within {self._limits.decode_sec:g} s."
      )
    task.result()
    return upload.key

  async def _receive(self, request: requests.Request, upload) -> None:
    self._reserve(upload, 1)  # fails on a full disk before receiving
    head = b""
    with private_folder.create_file(upload.raw) as file:
      async for block in bodies.blocks(
        request,
        max_bytes=self._limits.max_upload_bytes,
        idle_sec=self._limits.idle_sec,
        total_sec=self._limits.receive_sec,
      ):
        if len(head) < formats.SNIFF_BYTES:
          head += block[: formats.SNIFF_BYTES]
          if len(head) >= formats.SNIFF_BYTES:
            _check_head(head)
        upload.num_bytes += len(block)
        self._reserve(upload, upload.num_bytes)
        file.write(block)
    if len(head) < formats.SNIFF_BYTES:
      _check_head(head)

  def _reserve(self, upload, num_bytes: int) -> None:
    """Reserves an upload's bytes and deletes the oldest videos if needed."""
    while upload.reserved_bytes < num_bytes:
      used = self._coming_bytes + sum(v.num_bytes for v in self._known.values())
      if used + _RESERVED_BYTES > self._limits.max_stored_bytes:
        if not self._known:
          raise jobs.busy("Other uploads use all the space; try again.")
        self._forget_oldest()
        continue
      free = shutil.disk_usage(self._directory).free
      if free - _RESERVED_BYTES < self._limits.min_free_bytes:
        raise _no_room()
      upload.reserved_bytes += _RESERVED_BYTES
      self._coming_bytes += _RESERVED_BYTES

  async def _decode(self, upload, name: str) -> None:
    try:
      duration_sec = await jobs.in_thread(self._decoded, upload)
      if upload.is_abandoned:
        return
      self._known[upload.key] = Video(
        upload.target, name, duration_sec, upload.target.stat().st_size
      )
      upload.is_kept = True
      while len(self._known) > self._limits.max_videos:
        self._forget_oldest()
    except ValueError as error:
      raise fastapi.HTTPException(
        400, answers.without_paths(error, upload.raw, upload.target)
      ) from error
    except OSError as error:
      raise _no_room() from error
    finally:
      self._end(upload)

  def _decoded(self, upload) -> float:
    self._make_playable(upload.raw, upload.target)
    upload.target.chmod(0o600)
    duration_sec = video_reader.probe(upload.target).duration_sec
    assert duration_sec is not None  # every mp4 has a duration
    return duration_sec

  def _end(self, upload) -> None:
    self._at_once -= 1
    self._coming_bytes -= upload.reserved_bytes
    upload.raw.unlink(missing_ok=True)
    if not upload.is_kept:
      upload.target.unlink(missing_ok=True)

  def _forget_oldest(self) -> None:
    _, video = self._known.popitem(last=False)
    video.path.unlink(missing_ok=True)


class _Upload:
  """An upload in progress, under an unguessable key."""

  def __init__(self, directory: pathlib.Path):
    self.key = secrets.token_hex(12)
    self.raw = directory / f"{self.key}.upload"
    self.target = directory / f"{self.key}.mp4"
    self.num_bytes = 0
    self.reserved_bytes = 0
    self.is_abandoned = False
    self.is_kept = False


def _check_head(head: bytes) -> None:
  if formats.sniff(head) is None:
    raise fastapi.HTTPException(
      400,
      "The first bytes are not those of a known video container.",
      {"Connection": "close"},
    )


def _no_room() -> fastapi.HTTPException:
  return fastapi.HTTPException(
    507,
    "The disk of the temporary folder is full; set TMPDIR to another folder.",
    {"Connection": "close"},
  )
