"""A server of files on this machine, which can misbehave."""

import contextlib
import dataclasses
import hashlib
import http.server
import json
import pathlib
import re
import threading
from collections.abc import Iterator


@dataclasses.dataclass
class Site:
  """What is served, and what goes wrong.

  Attributes:
    folder: of the files.
    address: of the server.
    cuts: path -> bytes after which each of the next answers is cut off.
    answers: path -> (status, headers, body) instead of the file.
    statuses: path -> status of each of the next answers, before all others.
    takes_ranges: whether a part of a file can be asked for.
    tag: of all files, instead of one of their content.
    states_length: whether the answer has a Content-Length.
    requests: (path, Range) of each request.
    commit: of the repositories, where it plays the Hub.
  """

  folder: pathlib.Path
  address: str = ""
  cuts: dict[str, list[int]] = dataclasses.field(default_factory=dict)
  answers: dict[str, tuple] = dataclasses.field(default_factory=dict)
  statuses: dict[str, list[int]] = dataclasses.field(default_factory=dict)
  takes_ranges: bool = True
  tag: str | None = None
  states_length: bool = True
  requests: list[tuple[str, str | None]] = dataclasses.field(
    default_factory=list
  )
  commit: str = "0123456789abcdef0123456789abcdef01234567"

  def asked_for(self, path: str) -> list[str | None]:
    """The ranges that were asked for of a file."""
    return [span for asked, span in self.requests if asked == path]


@contextlib.contextmanager
def serving(folder: pathlib.Path) -> Iterator[Site]:
  """Serves a folder until the block ends."""
  site = Site(folder)

  class Handler(_Handler):
    pass

  Handler.site = site
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  site.address = f"http://127.0.0.1:{server.server_address[1]}"
  thread = threading.Thread(target=server.serve_forever, args=(0.02,))
  thread.start()
  try:
    yield site
  finally:
    server.shutdown()
    thread.join()
    server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  site: Site

  def log_message(self, *_):
    pass

  def do_GET(self):
    site = self.site
    path = self.path.partition("?")[0]
    site.requests.append((path, self.headers.get("Range")))
    if site.statuses.get(path):
      self._send(site.statuses[path].pop(0), {}, b"")
    elif path in site.answers:
      self._send(*site.answers[path])
    elif path.startswith("/api/models/"):
      self._describe(path)
    else:
      self._send_file(path)

  def _send_file(self, path: str) -> None:
    # The Hub's OWNER/NAME/resolve/COMMIT/FILE is NAME/FILE here.
    local = re.sub(r"^/[^/]+/([^/]+)/resolve/[0-9a-f]{40}/", r"/\1/", path)
    file = self.site.folder / local.lstrip("/")
    if not file.is_file():
      self._send(404, {}, b"there is no such file")
      return
    body = file.read_bytes()
    tag = self.site.tag or f'"{hashlib.md5(body).hexdigest()}"'
    headers = {"ETag": tag, "Content-Type": "application/octet-stream"}
    span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
    is_same = self.headers.get("If-Range") in (None, tag)
    if span and self.site.takes_ranges and is_same:
      start = int(span[1])
      if start >= len(body):
        self._send(416, headers, b"")
        return
      headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
      self._send(206, headers, body[start:], path)
    else:
      self._send(200, headers, body, path)

  def _send(self, status, headers, body, path="") -> None:
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    if self.site.states_length and "Content-Length" not in headers:
      self.send_header("Content-Length", str(len(body)))
    cuts = self.site.cuts.get(path)
    self.send_header("Connection", "close")
    self.end_headers()
    self.wfile.write(body[: cuts.pop(0)] if cuts else body)
    self.close_connection = True

  def _describe(self, path: str) -> None:
    name = path.split("/")[4]
    folder = self.site.folder / name
    if not folder.is_dir():
      self._send(
        404, {"X-Error-Code": "RepoNotFound"}, b'{"error": "not found"}'
      )
      return
    siblings = []
    for file in sorted(folder.iterdir()):
      body = file.read_bytes()
      git = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
      entry = {"rfilename": file.name, "size": len(body), "blobId": git}
      if file.suffix in (".safetensors", ".bin", ".npz"):
        entry["lfs"] = {
          "sha256": hashlib.sha256(body).hexdigest(),
          "size": len(body),
          "pointerSize": 134,
        }
      siblings.append(entry)
    document = {
      "id": "/".join(path.split("/")[3:5]),
      "sha": self.site.commit,
      "siblings": siblings,
    }
    self._send(
      200,
      {"Content-Type": "application/json"},
      json.dumps(document).encode(),
    )
