"""Silent connections of others keep nobody out and do not stay."""

import contextlib
import socket
import time

import httpx

from clap_jax.serving import connections
from tests.serving import toy_server


class Impatient(connections.HeaderTimeoutProtocol):
  header_sec = 0.5


async def hello(scope, receive, send):
  if scope["type"] != "http":
    return
  await send({"type": "http.response.start", "status": 200, "headers": []})
  await send({"type": "http.response.body", "body": b"hello"})


def is_closed(connection: socket.socket) -> bool:
  connection.settimeout(10)
  try:
    return connection.recv(100) == b""
  except ConnectionResetError:
    return True


def test_half_open_connections_are_closed():
  with (
    toy_server.running(lambda port: hello, http=Impatient) as port,
    contextlib.ExitStack() as stack,
  ):
    address = ("127.0.0.1", port)
    silent = [
      stack.enter_context(socket.create_connection(address)) for _ in range(300)
    ]
    for connection in silent[::2]:
      connection.sendall(b"GET / HTTP/1.1\r\nHost: a")
    started_sec = time.monotonic()
    assert httpx.get(f"http://127.0.0.1:{port}/").text == "hello"
    assert all(map(is_closed, silent))
    assert time.monotonic() - started_sec < 10
    assert httpx.get(f"http://127.0.0.1:{port}/").text == "hello"


def test_a_second_request_has_its_time_too():
  with (
    toy_server.running(lambda port: hello, http=Impatient) as port,
    socket.create_connection(("127.0.0.1", port)) as connection,
  ):
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b"hello\r\n0\r\n\r\n"):
      answer += connection.recv(1000)
    connection.sendall(request[:10])
    assert is_closed(connection)
