"""Applications around toy models, as the page's user reaches them."""

import contextlib
import shutil
import socket
import threading
import time

import uvicorn
from starlette import testclient

from clap_jax.serving import access
from clap_jax.serving import app as app_lib
from clap_jax.serving import uploads as uploads_lib

TOKEN = "t" * 43
PORT = 80
BASE = "http://127.0.0.1"


def make_app(model, *, port=PORT, make_playable=shutil.copyfile, **options):
  """An application; `uploads` holds limits of uploads by name."""
  limits = app_lib.ServeLimits(
    uploads=uploads_lib.UploadLimits(**options.pop("uploads", {})),
    **options.pop("limits", {}),
  )
  return app_lib.make_app(
    model,
    port=port,
    token=TOKEN,
    make_playable=make_playable,
    limits=limits,
    **options,
  )


@contextlib.contextmanager
def client(app, **options):
  """A client that has opened the address with its token."""
  with testclient.TestClient(app, base_url=BASE, **options) as made:
    assert made.get("/", params={"token": TOKEN}).status_code == 200
    yield made


@contextlib.contextmanager
def running(make, **config):
  """The port of a server of make(port) on the loopback address."""
  with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = uvicorn.Server(
      uvicorn.Config(
        make(port),
        log_level="warning",
        timeout_graceful_shutdown=2,
        **config,
      )
    )
    thread = threading.Thread(
      target=server.run, kwargs={"sockets": [listener]}, daemon=True
    )
    thread.start()
    deadline_sec = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline_sec:
      time.sleep(0.02)
    assert server.started
    yield port
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def address(port):
  return access.address(port, TOKEN)
