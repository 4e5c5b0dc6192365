"""The pages in a real browser: upload, ask, click a moment, search.

Needs Playwright (the extra `browser`) and Debian's chromium. With the variable
CLAP_SCREENSHOTS set to a folder, what was seen is kept there.
"""

import contextlib
import dataclasses
import http.server
import os
import pathlib
import shutil
import threading
import time
from typing import NamedTuple

import pytest

from clap_jax.inference import index as index_lib
from clap_jax.report import player
from tests.data import built_dataset
from tests.serving import toy_server

sync_api = pytest.importorskip(
  "playwright.sync_api", reason="the extra `browser` is not installed"
)
CHROMIUM = shutil.which("chromium")
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
FLAGS = (
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  # What a name server of an attacker may answer.
  "--host-resolver-rules=MAP rebound.example 127.0.0.1",
)


# A name of a file, a label or a query that must stay text.
MARKUP = "<img src=x onerror=window.hacked=1>\"'{{7*7}}"


class Seen(NamedTuple):
  """A request that reached the server."""

  path: str
  status: int
  has_cookie: bool


@pytest.fixture(scope="module")
def requests():
  return []


def _recorded(app, seen: list):
  async def recorder(scope, receive, send):
    async def send_and_keep(message):
      if message["type"] == "http.response.start":
        names = {name for name, _ in scope["headers"]}
        seen.append(Seen(scope["path"], message["status"], b"cookie" in names))
      await send(message)

    await app(scope, receive, send_and_keep)

  return recorder


@pytest.fixture(scope="module")
def port(tmp_path_factory, encoder, model, requests):
  root = tmp_path_factory.mktemp("served")
  video = root / f"{MARKUP}.mp4"
  video.write_bytes(built_dataset.encode_mp4(96, size=64))
  index = index_lib.build(encoder, [video], out=root / "index", stride_sec=1.0)
  task, facts, params = model.localizer
  names = [f"{MARKUP} {name}" for name in facts["label_names"]]
  hostile = dataclasses.replace(
    model, localizer=(task, facts | {"label_names": names}, params)
  )

  def make(port):
    app = toy_server.make_app(hostile, port=port, index=index)
    return _recorded(app, requests)

  with toy_server.running(make) as port:
    yield port


@pytest.fixture
def address(port):
  return toy_server.address(port)


@pytest.fixture(scope="module")
def browser():
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=CHROMIUM, args=list(FLAGS)
    )
    yield browser
    browser.close()


def _keep(page, name: str) -> None:
  folder = os.environ.get("CLAP_SCREENSHOTS")
  if folder:
    page.screenshot(path=str(pathlib.Path(folder, name)), full_page=True)


def _until(page, holds) -> None:
  """Waits; a page's own policy forbids Playwright's wait_for_function."""
  deadline = time.monotonic() + 60
  while not holds():
    assert time.monotonic() < deadline
    page.wait_for_timeout(100)


def _page(browser):
  page = browser.new_page(viewport={"width": 1100, "height": 900})
  page.set_default_timeout(120_000)
  problems = []
  page.on("pageerror", lambda error: problems.append(str(error)))
  page.on(
    "console",
    lambda m: problems.append(m.text) if m.type == "error" else None,
  )
  return page, problems


def test_upload_ask_play_and_search(browser, address, tmp_path):
  page, problems = _page(browser)
  page.goto(address)
  assert "token" not in page.url
  video = tmp_path / "mine.mp4"
  video.write_bytes(built_dataset.encode_mp4(96, size=64))
  page.set_input_files("#file", str(video))
  page.get_by_text("12.0 s of video, ready.").wait_for()
  page.fill("#queries", "the square <b>spins</b>\nnobody")
  page.click("#find")
  moments = page.frame_locator("#result")
  first = moments.locator(".track button").first
  first.wait_for()
  assert moments.locator("b").count() == 0  # text stays text
  start_sec = float(first.get_attribute("data-start"))
  first.click()
  clip = moments.locator("video")
  _until(page, lambda: clip.evaluate("v => v.readyState") >= 2)  # a picture
  _until(page, lambda: clip.evaluate("v => v.currentTime") >= start_sec)
  page.fill("#text", "the square slides")
  page.click("#search")
  page.locator("#moments button").first.click()
  _until(
    page, lambda: page.locator("#preview").evaluate("v => v.readyState") >= 2
  )
  _keep(page, "serve.png")
  assert problems == []
  page.close()


def test_other_files_are_explained(browser, address, tmp_path):
  page, _ = _page(browser)
  page.goto(address)
  text = tmp_path / "letter.mp4"
  text.write_text("Dear reader")
  page.set_input_files("#file", str(text))
  page.wait_for_selector("#status.wrong")
  assert page.is_disabled("#find")
  assert str(tmp_path) not in page.inner_text("#status")
  page.close()


def test_exported_page_plays_without_a_server(browser, tmp_path):
  video = tmp_path / "mine.mp4"
  video.write_bytes(built_dataset.encode_mp4(96, size=64))
  found = [{"start_sec": 3.0, "end_sec": 4.0, "score": 0.5, "label": "spins"}]
  entry = {"video": str(video), "duration_sec": 12.0, "predictions": found}
  target = tmp_path / "mine.html"
  target.write_text(player.render(entry), encoding="utf-8")
  page, problems = _page(browser)
  page.goto(target.as_uri())
  page.click(".track button")
  clip = page.locator("video")
  _until(page, lambda: clip.evaluate("v => v.currentTime") >= 3)
  _until(page, lambda: clip.evaluate("v => v.paused"))
  assert page.evaluate("document.querySelector('video').currentTime") < 6
  _keep(page, "player.png")
  assert problems == []
  page.close()


def test_markup_in_names_labels_and_queries_runs_nowhere(
  browser, address, tmp_path
):
  page, problems = _page(browser)
  page.goto(address)
  assert page.locator("details").inner_text()  # the labels
  video = tmp_path / f"{MARKUP}.mp4"
  video.write_bytes(built_dataset.encode_mp4(96, size=64))
  page.set_input_files("#file", str(video))
  page.get_by_text("12.0 s of video, ready.").wait_for()
  moments = page.frame_locator("#result")
  for queries in ("", f"{MARKUP}</script><script>window.hacked=1</script>"):
    page.fill("#queries", queries)
    page.click("#find")
    page.get_by_text("Answered in").wait_for()
    moments.locator(".track button").first.wait_for()
    assert "<img" in moments.locator("body").inner_text()
    assert moments.locator("img, script:not(:last-child)").count() == 0
    assert moments.locator("body").evaluate("() => window.hacked") is None
    page.fill("#queries", "")
    page.evaluate("document.getElementById('status').textContent = ''")
  page.fill("#text", MARKUP)
  page.click("#search")
  first = page.locator("#moments button").first
  first.wait_for()
  assert "<img" in first.inner_text()
  assert page.locator("img").count() == 0
  assert page.evaluate("() => window.hacked") is None
  _keep(page, "markup.png")
  assert problems == []
  page.close()


def test_the_policy_stops_a_script_that_no_escape_stopped(browser, address):
  page, problems = _page(browser)
  page.goto(address)
  page.evaluate(
    """() => {
      document.getElementById('result').srcdoc =
        '<img src=x onerror="parent.hacked=1">' +
        '<script>parent.hacked=1</' + 'script>';
      document.getElementById('result').hidden = false;
      document.body.insertAdjacentHTML(
        'beforeend', '<img src="x:" onerror="window.hacked=1">');
    }"""
  )
  page.wait_for_timeout(1000)
  assert page.evaluate("() => window.hacked") is None
  assert any("Content Security Policy" in text for text in problems)
  page.close()


@contextlib.contextmanager
def _foreign_site(text: str):
  """A page of another origin, on another port; yields its port."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.send_response(200)
      self.send_header("Content-Type", "text/html")
      self.end_headers()
      self.wfile.write(text.encode())

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  yield server.server_address[1]
  server.shutdown()
  thread.join()


FOREIGN = """<!doctype html><iframe id="frame" src="{own}"></iframe><script>
const own = '{own}';
const outcome = async (name, options) => {{
  try {{
    const response = await fetch(own + name, options);
    return response.type === 'opaque' ? 'opaque' : await response.text();
  }} catch {{ return 'refused'; }}
}};
const shown = (tag, name) => new Promise((resolve) => {{
  const element = document.createElement(tag);
  element.onload = element.onloadeddata = () => resolve('shown');
  element.onerror = () => resolve('refused');
  element.src = own + name; document.body.append(element);
}});
window.ask = async () => [
  await outcome('api/search?text=a', {{credentials: 'include'}}),
  await outcome('api/search?text=a',
    {{credentials: 'include', mode: 'no-cors'}}),
  await outcome('api/videos',
    {{method: 'POST', body: 'x', credentials: 'include', mode: 'no-cors'}}),
  await shown('video', 'api/index/0/file'),
  await shown('img', 'api/index/0/file'),
  await shown('script', 'static/page.js'),
];
</script><body>"""


@pytest.mark.parametrize("host", ["127.0.0.1", "rebound.example"])
def test_pages_of_other_origins_read_nothing(browser, port, requests, host):
  """The browser holds the cookie, and sends it: ports are one site."""
  page, _ = _page(browser)
  page.goto(toy_server.address(port))
  own = f"http://127.0.0.1:{port}/"
  with _foreign_site(FOREIGN.format(own=own)) as foreign_port:
    requests.clear()
    page.goto(f"http://{host}:{foreign_port}/")
    outcomes = page.evaluate("() => window.ask()")
    frame = page.frames[1].content()
  assert set(outcomes) <= {"refused", "opaque"}
  assert outcomes[0] == "refused" and outcomes[3:] == ["refused"] * 3
  assert "Find moments" not in frame
  asked = [seen for seen in requests if seen.path != "/"]
  assert {seen.status for seen in asked} <= {403}
  if host == "127.0.0.1":  # else the browser itself may refuse to ask
    assert len(asked) == 6 and all(seen.has_cookie for seen in asked)
  page.close()


def test_a_rebound_name_reads_nothing(browser, port):
  page, _ = _page(browser)
  page.goto(toy_server.address(port))
  address = toy_server.address(port).replace("127.0.0.1", "rebound.example")
  response = page.goto(address)
  assert response.status == 421
  assert "Find moments" not in page.content()
  assert page.context.cookies(address) == []
  page.close()


def test_a_browser_without_the_token_sees_nothing(browser, port):
  context = browser.new_context()
  page = context.new_page()
  assert page.goto(f"http://127.0.0.1:{port}/").status == 403
  assert "Find moments" not in page.content()
  context.close()
