"""Downloads one file with resume and size limits."""

import http.client
import os
import pathlib
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from clap_jax.storage import output, untrusted

Progress = Callable[[int, int | None], None]  # (bytes done, total bytes)

_ATTEMPTS = 8
_PAUSE_SEC = 0.5  # before the second attempt; doubles with each further one
_TIMEOUT_SEC = 60.0  # without receiving a byte
_BLOCK_BYTES = 1 << 20
_MAX_REDIRECTS = 5
_MAX_STATE_BYTES = 1 << 16
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MISSING = (404, 410)
# Statuses of an overloaded or restarting server; a retry may succeed.
_PASSING = (408, 425, 429, 500, 502, 503, 504)


class RefusedError(ValueError):
  """Raised if an address or its response is not allowed."""


class MissingError(RefusedError):
  """Raised if the file does not exist at its origin."""


class DownloadError(RuntimeError):
  """Raised if the connection fails repeatedly."""


class _BrokenError(Exception):
  """Raised if an attempt ends early; the next one can resume."""


class _State(NamedTuple):
  """The response that a partial file belongs to."""

  address: str
  validator: str  # ETag or Last-Modified
  total: int | None


def is_address(text: str) -> bool:
  """Returns True if a text is an address rather than a path."""
  return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def check_address(address: str) -> None:
  """Rejects addresses whose response could be forged on the way.

  Raises:
    RefusedError: if it is neither https nor http of this machine.
  """
  parts = urllib.parse.urlsplit(address)
  if not parts.hostname or not (
    parts.scheme == "https" or _is_loopback(address)
  ):
    raise RefusedError(
      f"{address:.500} is not https; expected https://, or http:// of this "
      "machine (localhost)."
    )


def _is_loopback(address: str) -> bool:
  parts = urllib.parse.urlsplit(address)
  return parts.scheme == "http" and parts.hostname in _LOOPBACK


def download(
  address: str,
  path: pathlib.Path,
  *,
  max_bytes: int,
  on_progress: Progress = lambda done, total: None,
  sleep: Callable[[float], None] = time.sleep,
) -> None:
  """Downloads a file, resuming an earlier call.

  A partial file is resumed if the server still has the same file, and restarted
  otherwise. Only the length is checked.

  Args:
    address: https, or http of this machine.
    path: the partial file; its state is stored beside it.
    max_bytes: maximum size of the file.
    on_progress: called after each block.
    sleep: pauses between attempts.

  Raises:
    MissingError: if the server does not have the file.
    RefusedError: if the response is a web page, too large, or redirects to a
      forbidden address.
    DownloadError: if every attempt fails; the partial file is kept for the
      next call.
  """
  check_address(address)
  opener = _opener(address)
  for attempt in range(_ATTEMPTS):
    try:
      with output.open_appending(path) as file:
        _receive(
          opener,
          address,
          file,
          path,
          max_bytes=max_bytes,
          on_progress=on_progress,
        )
        os.fsync(file.fileno())
      _state_path(path).unlink(missing_ok=True)
      return
    except _BrokenError as error:
      reason = error
    if attempt + 1 < _ATTEMPTS:
      sleep(_PAUSE_SEC * 2**attempt)
  raise DownloadError(
    f"{address} failed {_ATTEMPTS} times, last with: {reason}. Run the command "
    "again to resume, or pass another place with --from."
  )


def discard(path: pathlib.Path) -> None:
  """Removes a partial file and its state."""
  path.unlink(missing_ok=True)
  _state_path(path).unlink(missing_ok=True)


def _receive(
  opener, address, file: BinaryIO, path, *, max_bytes, on_progress
) -> None:
  """Makes one attempt; the file is complete when it returns."""
  have = file.seek(0, os.SEEK_END)
  state = _read_state(path)
  if have and (state is None or state.address != address):
    file.truncate(0)
    have = 0
  headers = {"Accept-Encoding": "identity", "User-Agent": "clap_jax"}
  if have and state:
    headers |= {"Range": f"bytes={have}-", "If-Range": state.validator}
  request = urllib.request.Request(address, headers=headers)
  try:
    with opener.open(request, timeout=_TIMEOUT_SEC) as answer:
      if answer.status != http.client.PARTIAL_CONTENT:
        file.truncate(0)
        have = 0
      total = _check_answer(answer, address, have=have, max_bytes=max_bytes)
      _write_state(path, _State(address, _tag(answer), total))
      _copy(answer, file, (have, total), max_bytes, on_progress)
  except urllib.error.HTTPError as error:
    with error:
      _raise_status(error, address, file)
  except ssl.SSLCertVerificationError as error:
    raise RefusedError(f"{address}: {error}") from error
  except urllib.error.URLError as error:
    if isinstance(error.reason, ssl.SSLCertVerificationError):
      raise RefusedError(f"{address}: {error.reason}") from error
    if isinstance(error.reason, socket.gaierror):  # a retry would not help
      raise DownloadError(
        f"{address}: cannot resolve the server's name "
        f"({error.reason.strerror}). Check the network, or pass a mirror or a "
        "folder with --from."
      ) from error
    raise _BrokenError(str(error.reason)) from error
  except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
    raise _BrokenError(f"{type(error).__name__} {error}") from error


def _raise_status(
  error: urllib.error.HTTPError, address: str, file: BinaryIO
) -> None:
  if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
    file.truncate(0)  # the server's file has changed
    raise _BrokenError("the file on the server is shorter now") from error
  if error.code in _PASSING:
    raise _BrokenError(f"status {error.code} {error.reason}") from error
  kind = MissingError if error.code in _MISSING else RefusedError
  raise kind(
    f"{address}: status {error.code} {error.reason}; pass another place with "
    "--from if the file has moved."
  ) from error


def _check_answer(answer, address: str, *, have: int, max_bytes: int):
  """Returns the length of the file; None for a chunked response."""
  kind = answer.headers.get_content_type()
  if kind in ("text/html", "application/xhtml+xml"):
    raise RefusedError(
      f"{address} returned a web page ({kind}) instead of the file; it may "
      "need a login, or the file has moved. Pass another place with --from."
    )
  coding = answer.headers.get("Content-Encoding", "identity")
  if coding != "identity":
    raise RefusedError(
      f"{address} returned {coding!r:.50} encoding; expected identity."
    )
  length = answer.headers.get("Content-Length", "")
  total = have + int(length) if re.fullmatch(r"\d{1,18}", length) else None
  if have:
    span = answer.headers.get("Content-Range", "")
    if not re.fullmatch(rf"bytes {have}-\d+/(\*|\d+)", span):
      raise _BrokenError(f"requested bytes from {have}, got {span!r:.50}")
  if total is None and not answer.chunked:
    raise RefusedError(
      f"{address} does not state how long the file is, so a truncated file "
      "could not be detected; pass another place with --from."
    )
  _check_size(address, total or 0, max_bytes)
  return total


def _check_size(address: str, num_bytes: int, max_bytes: int) -> None:
  if num_bytes > max_bytes:
    raise RefusedError(
      f"{address} has {num_bytes} bytes or more; expected at most {max_bytes}."
    )


def _copy(answer, file, span, max_bytes, on_progress) -> None:
  """Appends a response; `span` is (first byte, total bytes or None)."""
  have, total = span
  while block := answer.read(_BLOCK_BYTES):
    have += len(block)
    _check_size(answer.url, have, max_bytes)
    file.write(block)
    on_progress(have, total)
  file.flush()
  if total is not None and have != total:
    raise _BrokenError(f"received {have} of {total} bytes")


def _tag(answer) -> str:
  """Returns the value of If-Range: a strong ETag, or the last change."""
  tag = answer.headers.get("ETag", "")
  return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _state_path(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f"{path.name}.json")


def _read_state(path: pathlib.Path) -> _State | None:
  """Reads the state of a partial file; None if it cannot be resumed."""
  try:
    known = untrusted.read_json(
      _state_path(path).name, folder=path.parent, max_bytes=_MAX_STATE_BYTES
    )
    state = _State(**known)
  except (OSError, ValueError, TypeError):
    return None
  is_usable = isinstance(state.validator, str) and state.validator
  # It becomes a header, so it must not contain a line end.
  return state if is_usable and state.validator.isprintable() else None


def _write_state(path: pathlib.Path, state: _State) -> None:
  output.write_json(_state_path(path), state._asdict())


class _Redirects(urllib.request.HTTPRedirectHandler):
  """Follows a few redirects, and none to a forbidden address."""

  max_redirections = _MAX_REDIRECTS

  def redirect_request(self, req, *answer):
    newurl = answer[-1]
    check_address(newurl)
    if _is_loopback(newurl) and not _is_loopback(req.full_url):
      raise RefusedError(
        f"{req.full_url} redirects to {newurl:.200}, which is this machine."
      )
    return super().redirect_request(req, *answer)


def _opener(address: str) -> urllib.request.OpenerDirector:
  handlers: list = [_Redirects]
  if _is_loopback(address):  # a proxy would connect to its own loopback
    handlers.append(urllib.request.ProxyHandler({}))
  return urllib.request.build_opener(*handlers)
