"""Tests downloads: resumed, restarted and refused ones."""

import json
import pathlib
import socket

import numpy as np
import pytest

from clap_jax.public_weights import download
from tests.public_weights import server

BODY = np.random.default_rng(0).bytes(300_000)
NAME = "/a.bin"
SECRET = b"of another file"


@pytest.fixture
def site(tmp_path):
  (tmp_path / "served").mkdir()
  (tmp_path / "served" / "a.bin").write_bytes(BODY)
  with server.serving(tmp_path / "served") as found:
    yield found


@pytest.fixture
def path(tmp_path):
  return tmp_path / "a.part"


def get(site, path, *, name=NAME, max_bytes=1 << 20, **options) -> bytes:
  download.download(
    site.address + name,
    path,
    max_bytes=max_bytes,
    sleep=lambda _: None,
    **options,
  )
  return path.read_bytes()


def test_a_whole_file(site, path):
  seen = []
  found = get(site, path, on_progress=lambda *step: seen.append(step))
  assert found == BODY
  assert seen[-1] == (len(BODY), len(BODY))
  assert [p.name for p in path.parent.glob("a.part*")] == ["a.part"]


def test_a_broken_connection_is_resumed(site, path):
  site.cuts[NAME] = [100_000, 50_000]
  assert get(site, path) == BODY
  assert site.asked_for(NAME) == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_call_goes_on(site, path):
  site.cuts[NAME] = [100_000] + [0] * 20
  with pytest.raises(download.DownloadError, match="100000 of 300000"):
    get(site, path)
  site.cuts.clear()
  site.requests.clear()
  assert get(site, path) == BODY
  assert site.asked_for(NAME) == ["bytes=100000-"]


def test_a_server_without_ranges_starts_over(site, path):
  site.takes_ranges = False
  site.cuts[NAME] = [100_000]
  assert get(site, path) == BODY
  assert site.asked_for(NAME) == [None, "bytes=100000-"]


def test_a_file_that_changed_starts_over(site, path):
  site.cuts[NAME] = [100_000] + [0] * 20
  with pytest.raises(download.DownloadError):
    get(site, path)
  site.cuts.clear()
  changed = BODY[::-1]
  (site.folder / "a.bin").write_bytes(changed)
  assert get(site, path) == changed


def test_a_file_that_shrank_starts_over(site, path):
  site.tag = '"same"'
  site.cuts[NAME] = [100_000] + [0] * 20
  with pytest.raises(download.DownloadError):
    get(site, path)
  site.cuts.clear()
  (site.folder / "a.bin").write_bytes(BODY[:50_000])
  assert get(site, path) == BODY[:50_000]


def test_a_weak_tag_cannot_be_gone_on_with(site, path):
  site.tag = 'W/"weak"'
  site.cuts[NAME] = [100_000]
  assert get(site, path) == BODY
  assert site.asked_for(NAME) == [None, None]


def test_part_of_another_address_starts_over(site, path):
  path.write_bytes(SECRET)
  state = {"address": f"{site.address}/b.bin", "validator": '"x"', "total": 9}
  path.with_name("a.part.json").write_text(json.dumps(state))
  assert get(site, path) == BODY


@pytest.mark.parametrize(
  "state",
  [
    "[]",
    "{",
    '{"address": 1, "validator": 2, "total": 3}',
    '{"address": "ADDRESS", "validator": "a\\r\\nX: y", "total": 3}',
  ],
)
def test_an_invalid_state_starts_over(site, path, state):
  path.write_bytes(SECRET)
  state = state.replace("ADDRESS", site.address + NAME)
  path.with_name("a.part.json").write_text(state)
  assert get(site, path) == BODY


def test_a_link_is_not_written_through(site, path, tmp_path):
  other = tmp_path / "other"
  other.write_bytes(SECRET)
  path.symlink_to(other)
  with pytest.raises(ValueError, match=r"a\.part"):
    get(site, path)
  assert other.read_bytes() == SECRET


def test_a_busy_server_is_retried(site, path):
  site.statuses[NAME] = [503, 429]
  assert get(site, path) == BODY


@pytest.mark.parametrize(
  ("status", "kind"),
  [
    (404, download.MissingError),
    (410, download.MissingError),
    (403, download.RefusedError),
    (401, download.RefusedError),
  ],
)
def test_other_statuses_raise(site, path, status, kind):
  site.answers[NAME] = (status, {}, b"no")
  with pytest.raises(kind, match=f"{NAME}.*{status}"):
    get(site, path)
  assert site.asked_for(NAME) == [None]


def test_a_page_is_refused(site, path):
  headers = {"Content-Type": "text/html; charset=utf-8"}
  site.answers[NAME] = (200, headers, b"<!doctype html><title>Log in</title>")
  with pytest.raises(download.RefusedError, match="web page"):
    get(site, path)
  assert not path.read_bytes()


@pytest.mark.parametrize("stated", [True, False])
def test_more_bytes_than_expected(site, path, stated):
  if not stated:
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    headers = {"Transfer-Encoding": "chunked"}
    site.answers[NAME] = (200, headers, body)
    site.states_length = False
  with pytest.raises(download.RefusedError, match="at most 1000"):
    get(site, path, max_bytes=1000)


def test_chunks_that_end_early_go_on(site, path):
  site.states_length = False
  part = b"%x\r\n%b" % (len(BODY), BODY[:1000])
  site.answers[NAME] = (200, {"Transfer-Encoding": "chunked"}, part)
  with pytest.raises(download.DownloadError, match="IncompleteRead"):
    get(site, path)


def test_no_length_is_refused(site, path):
  site.states_length = False
  with pytest.raises(download.RefusedError, match="how long"):
    get(site, path)


def test_a_wrong_length_raises(site, path):
  headers = {"Content-Length": str(len(BODY) + 5)}
  site.answers[NAME] = (200, headers, BODY)
  with pytest.raises(download.DownloadError, match="300000 of 300005"):
    get(site, path)


def test_redirects_are_followed(site, path):
  site.answers["/moved"] = (302, {"Location": NAME}, b"")
  assert get(site, path, name="/moved") == BODY


def test_redirects_without_end(site, path):
  site.answers["/moved"] = (302, {"Location": "/moved"}, b"")
  with pytest.raises(download.RefusedError, match="302"):
    get(site, path, name="/moved")


@pytest.mark.parametrize(
  "target",
  [
    "http://example.invalid/a.bin",
    "ftp://example.invalid/a.bin",
    "file:///etc/passwd",
    "http://127.0.0.1.example.invalid/a.bin",
    "http://localhost@example.invalid/a.bin",
  ],
)
def test_forbidden_redirects_are_refused(site, path, target):
  site.answers["/moved"] = (302, {"Location": target}, b"")
  with pytest.raises(download.RefusedError):
    get(site, path, name="/moved")


def test_a_redirect_to_this_machine_from_elsewhere():
  redirects = download._Redirects()
  request = download.urllib.request.Request("https://example.invalid/a")
  with pytest.raises(download.RefusedError, match="this machine"):
    redirects.redirect_request(
      request, None, 302, "moved", {}, "http://127.0.0.1/a"
    )


@pytest.mark.parametrize(
  "address",
  ["http://example.invalid/a", "file:///etc/passwd", "ftp://a/b", "https://"],
)
def test_addresses_that_are_refused(address, tmp_path):
  with pytest.raises(download.RefusedError, match="https"):
    download.download(address, tmp_path / "a", max_bytes=10)


def test_no_network_is_stated_at_once(tmp_path, monkeypatch):
  def fail(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

  monkeypatch.setattr(socket, "getaddrinfo", fail)
  monkeypatch.delenv("https_proxy", raising=False)
  pauses = []
  with pytest.raises(download.DownloadError, match=r"--from"):
    download.download(
      "https://weights.invalid/a",
      tmp_path / "a",
      max_bytes=10,
      sleep=pauses.append,
    )
  assert not pauses


def test_no_server_at_all(tmp_path):
  with server.serving(tmp_path) as gone:
    pass
  pauses = []
  with pytest.raises(download.DownloadError, match="refused"):
    download.download(
      f"{gone.address}/a",
      pathlib.Path(tmp_path / "a"),
      max_bytes=10,
      sleep=pauses.append,
    )
  assert pauses == sorted(pauses) and len(pauses) == 7
