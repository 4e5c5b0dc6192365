"""The pages in a real browser: upload, ask, click a moment, search, export.

Needs Playwright (the extra `browser`) and Debian's chromium. With the variable
CLAP_SCREENSHOTS set to a folder, what was seen is kept there.
"""

import os
import pathlib
import shutil
import threading
import time

import pytest

from clap_jax.inference import index as index_lib
from clap_jax.report import player
from clap_jax.serving import app as app_lib
from tests.data import built_dataset
from tests.inference import toy_model

uvicorn = pytest.importorskip("uvicorn")
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
)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
  root = tmp_path_factory.mktemp("served")
  encoder = toy_model.make_encoder(root)
  video = root / "indexed.mp4"
  video.write_bytes(built_dataset.encode_mp4(96, size=64))
  app = app_lib.make_app(
    toy_model.make_model(encoder),
    sanitise=shutil.copyfile,
    index=index_lib.build(encoder, [video], out=root / "index", stride_sec=1.0),
  )
  server = uvicorn.Server(
    uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
  )
  thread = threading.Thread(target=server.run, daemon=True)
  thread.start()
  deadline = time.monotonic() + 60
  while not server.started and time.monotonic() < deadline:
    time.sleep(0.05)
  port = server.servers[0].sockets[0].getsockname()[1]
  yield f"http://127.0.0.1:{port}"
  server.should_exit = True
  thread.join(30)


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


def test_upload_ask_play_export_and_search(browser, address, tmp_path):
  page, problems = _page(browser)
  page.goto(address)
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
  with page.expect_download() as download:
    page.click('[data-export="srt"]')
  assert "-->" in pathlib.Path(download.value.path()).read_text()
  page.fill("#text", "the square slides")
  page.click("#search")
  page.locator("#moments button").first.click()
  _until(
    page, lambda: page.locator("#preview").evaluate("v => v.readyState") >= 2
  )
  _keep(page, "serve.png")
  assert problems == []
  page.close()


def test_a_file_that_is_no_video_is_explained(browser, address, tmp_path):
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
  page.wait_for_function("document.querySelector('video').currentTime >= 3")
  page.wait_for_function("document.querySelector('video').paused")
  assert page.evaluate("document.querySelector('video').currentTime") < 6
  _keep(page, "player.png")
  assert problems == []
  page.close()
