"""Tests that other users, pages and host names need the token."""

import asyncio
import os
import shutil
import subprocess

import fastapi
import pytest
from starlette import responses, testclient

from clap_jax.serving import access
from tests.serving import toy_server

TOKEN = toy_server.TOKEN
COOKIE = {"cookie": f"clap_80={TOKEN}"}
PATHS = (
  "/",
  "/api/search?text=a",
  "/api/index/0/file",
  "/static/page.js",
  "/x",
)


def guarded(port=80):
  app = fastapi.FastAPI()

  @app.get("/{path:path}")
  @app.post("/{path:path}")
  async def anything(path: str):
    return responses.PlainTextResponse("secret")

  return access.Guard(
    app, port=port, token=TOKEN, content_policy=access.policy()
  )


@pytest.fixture
def client():
  with testclient.TestClient(
    guarded(), base_url=toy_server.BASE, follow_redirects=False
  ) as made:
    yield made


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
  "cookie",
  [
    None,
    "clap_80=",
    "clap_80=wrong",
    f"clap_8000={TOKEN}",
    f"clap_80={TOKEN[:-1]}",
    f"clap_80={TOKEN}x",
    "clap_80=\xe9",
  ],
)
def test_nothing_is_answered_without_the_token(client, path, cookie):
  headers = {"cookie": cookie.encode("latin-1")} if cookie else {}
  for method in ("GET", "POST", "HEAD", "OPTIONS"):
    response = client.request(method, path, headers=headers)
    assert response.status_code == 403 and "secret" not in response.text


def test_the_token_becomes_a_cookie_and_leaves_the_address(client):
  response = client.get("/", params={"token": TOKEN})
  assert response.status_code == 303 and response.headers["location"] == "/"
  cookie = response.headers["set-cookie"].lower()
  assert "httponly" in cookie and "samesite=strict" in cookie
  assert client.get("/").text == "secret"
  # The token opens the page, not the interface.
  client.cookies.clear()
  response = client.get("/api/find", params={"token": TOKEN})
  assert response.status_code == 403


@pytest.mark.parametrize("query", ["token=", "token=wrong", "token=%ff"])
def test_a_wrong_token_sets_no_cookie(client, query):
  response = client.get(f"/?{query}")
  assert response.status_code == 403 and "set-cookie" not in response.headers


def test_another_cookie_of_the_same_name_is_ignored(client):
  headers = {"cookie": f"clap_80=tossed; clap_80={TOKEN}; other=1"}
  assert client.get("/", headers=headers).text == "secret"


@pytest.mark.parametrize(
  "host",
  [
    "127.0.0.1:8077.evil.com",
    "127.0.0.1.evil.com",
    "evil.example:8077",
    "evil.example",
    "[::1",
    "[::1]:8077",
    "127.0.0.1",
    "127.0.0.1:80",
    "127.0.0.1:08077",
    "user@127.0.0.1:8077",
    "127.1:8077",
    "2130706433:8077",
    "",
  ],
)
def test_hosts_are_compared_exactly(host):
  with testclient.TestClient(guarded(8077), base_url=toy_server.BASE) as client:
    headers = {"cookie": f"clap_8077={TOKEN}"}
    response = client.get("/", headers=headers | {"host": host})
    assert response.status_code == 421
    for own in ("127.0.0.1:8077", "localhost:8077", "LOCALHOST:8077"):
      assert client.get("/", headers=headers | {"host": own}).text == "secret"


def test_two_hosts_or_none_are_refused():
  for hosts in ([], ["127.0.0.1", "127.0.0.1"]):
    scope = {
      "type": "http",
      "method": "GET",
      "path": "/",
      "query_string": b"",
      "headers": [(b"host", host.encode()) for host in hosts]
      + [(b"cookie", COOKIE["cookie"].encode())],
    }
    sent = []

    async def send(message, sent=sent):
      sent.append(message)

    asyncio.run(guarded()(scope, None, send))
    assert sent[0]["status"] == 421


@pytest.mark.parametrize(
  ("origin", "status"),
  [
    ("http://127.0.0.1", 200),  # the page's own
    ("http://localhost", 403),  # with the host 127.0.0.1
    ("http://127.0.0.1:99", 403),
    ("https://127.0.0.1", 403),
    ("https://evil.example", 403),
    ("null", 403),
    ("", 403),
  ],
)
def test_pages_of_other_origins_are_refused(client, origin, status):
  response = client.post("/api/find", headers=COOKIE | {"origin": origin})
  assert response.status_code == status


@pytest.mark.parametrize(
  ("site", "status"),
  [
    ("same-origin", 200),
    ("none", 200),
    ("cross-site", 403),
    ("same-site", 403),
  ],
)
def test_image_requests_of_other_pages_are_refused(client, site, status):
  """No origin comes with it, but how far its page is."""
  headers = COOKIE | ({"sec-fetch-site": site} if site else {})
  assert client.get("/api/x", headers=headers).status_code == status
  # A link to the page may be followed from anywhere.
  assert client.get("/", headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [COOKIE, {}, {"host": "evil"}])
def test_every_answer_has_the_headers(client, headers):
  got = client.get("/", headers=headers).headers
  assert got["x-content-type-options"] == "nosniff"
  assert got["cache-control"] == "no-store"
  assert got["referrer-policy"] == "no-referrer"
  assert got["cross-origin-resource-policy"] == "same-origin"
  policy = got["content-security-policy"]
  assert "unsafe" not in policy and "default-src 'none'" in policy
  assert "frame-ancestors 'none'" in policy


def test_a_short_token_and_a_web_socket_are_refused(client):
  with pytest.raises(ValueError, match="token"):
    access.Guard(None, port=80, token="short", content_policy="")
  with (
    pytest.raises(testclient.WebSocketDisconnect),
    client.websocket_connect("/", headers=COOKIE),
  ):
    pass


def test_the_printed_address_opens_and_tokens_differ():
  token = access.new_token()
  assert access.address(8000, token) == f"http://127.0.0.1:8000/?token={token}"
  assert len({access.new_token() for _ in range(100)}) == 100


@pytest.mark.skipif(
  os.getuid() != 0 or not shutil.which("setpriv") or not shutil.which("curl"),
  reason="needs root, setpriv and curl to ask as another user",
)
def test_another_user_of_this_machine_gets_nothing():
  def ask(*arguments):
    done = subprocess.run(
      [
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        *("curl", "-s", "-w", " %{http_code}", *arguments),
      ],
      capture_output=True,
      text=True,
      check=True,
      timeout=60,
    )
    return done.stdout

  with toy_server.running(guarded) as port:
    for path in PATHS:
      answer = ask(f"http://127.0.0.1:{port}{path}")
      assert answer.endswith(" 403") and "secret" not in answer
    # The owner hands the address on: then it works.
    assert ask("-L", "-c", "-", toy_server.address(port)).startswith("secret")
