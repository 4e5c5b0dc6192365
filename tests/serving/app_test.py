"""The page's interface: uploads, questions, search, limits, no paths."""

import concurrent.futures
import shutil
import threading

import pytest
from starlette import testclient

from clap_jax.inference import index as index_lib
from clap_jax.serving import app as app_lib
from tests.data import built_dataset
from tests.inference import toy_model

LIMITS = app_lib.ServeLimits(max_upload_bytes=1 << 20, max_videos=2)


def _sanitise(source, target):
  if source.read_bytes()[4:8] != b"ftyp":
    raise ValueError(f"{source} is not a known video container")
  shutil.copyfile(source, target)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
  root = tmp_path_factory.mktemp("served")
  encoder = toy_model.make_encoder(root)
  (root / "secret_folder").mkdir()
  video = root / "secret_folder" / "indexed.mp4"
  video.write_bytes(built_dataset.encode_mp4(48))
  index = index_lib.build(encoder, [video], out=root / "index", stride_sec=1.0)
  app = app_lib.make_app(
    toy_model.make_model(encoder),
    sanitise=_sanitise,
    index=index,
    limits=LIMITS,
  )
  with testclient.TestClient(app, base_url="http://127.0.0.1") as client:
    yield client


@pytest.fixture(scope="module")
def video(served):
  response = served.post(
    "/api/videos?name=..%2Fmine.mp4", content=built_dataset.encode_mp4(96)
  )
  assert response.status_code == 200
  assert response.json()["duration_sec"] == pytest.approx(12.0)
  return response.json()["video"]


def test_home_names_the_classes_and_the_index(served):
  text = served.get("/").text
  assert "slides" in text and "Search 1 indexed videos" in text
  assert "secret_folder" not in text


def test_questions_are_answered_without_paths(served, video):
  asked = {"video": video, "queries": ["the square spins"]}
  response = served.post("/api/find", json=asked)
  entry = response.json()["videos"][0]
  assert entry["video"] == "mine.mp4"
  assert entry["predictions"][0]["query"] == "the square spins"
  page = served.post("/api/player", json=asked).text
  assert f'src="/api/videos/{video}/file"' in page
  for text in (response.text, page):
    assert "/tmp" not in text and "clap_serve_" not in text
  by_class = served.post("/api/find", json={"video": video})
  assert {e["label"] for e in by_class.json()["videos"][0]["predictions"]}
  for kind, start in (("csv", "video,"), ("srt", "1\n"), ("vtt", "WEBVTT")):
    answer = served.post(f"/api/export/{kind}", json=asked)
    assert answer.status_code == 200 and answer.text.startswith(start)


def test_videos_are_played_in_parts(served, video):
  response = served.get(
    f"/api/videos/{video}/file", headers={"Range": "bytes=4-7"}
  )
  assert response.status_code == 206 and response.content == b"ftyp"


def test_search_finds_and_hides_the_folder(served):
  response = served.get("/api/search", params={"text": "the square", "top": 2})
  moments = response.json()["moments"]
  assert moments and moments[0]["video"] == "indexed.mp4"
  assert "secret_folder" not in response.text
  assert served.get(moments[0]["file"]).content[4:8] == b"ftyp"


@pytest.mark.parametrize(
  ("method", "path", "body", "status"),
  [
    ("POST", "/api/videos", b"<html>not a video</html>", 400),
    ("POST", "/api/videos", b"x" * ((1 << 20) + 1), 413),
    ("POST", "/api/find", {"video": "../../etc/passwd"}, 422),
    ("POST", "/api/find", {"video": "0" * 24}, 404),
    ("GET", "/api/videos/..%2F..%2Fetc%2Fpasswd/file", None, 404),
    ("GET", "/api/index/7/file", None, 404),
    ("GET", "/api/search?text=%20", None, 400),
    ("GET", f"/api/search?text={'x' * 501}", None, 400),
    ("GET", "/docs", None, 404),
    ("GET", "/openapi.json", None, 404),
  ],
)
def test_bad_requests_are_refused(served, method, path, body, status):
  sent = {"content": body} if isinstance(body, bytes) else {"json": body}
  response = served.request(method, path, **(sent if body else {}))
  assert response.status_code == status
  assert "/tmp" not in response.text and "Traceback" not in response.text


def test_unknown_labels_and_hosts_are_refused(served, video):
  asked = {"video": video, "labels": ["flies"]}
  response = served.post("/api/find", json=asked)
  assert response.status_code == 400 and "flies" in response.json()["detail"]
  for host in ("evil.example:80", "[::1", ""):
    response = served.get("/", headers={"host": host})
    assert response.status_code == 421


@pytest.mark.parametrize(
  ("origin", "status"),
  [
    ("http://127.0.0.1", 404),  # the page's own: asks for what is not there
    ("http://127.0.0.1:99", 403),
    ("https://evil.example", 403),
    ("null", 403),
  ],
)
def test_other_pages_are_turned_away(served, origin, status):
  asked = {"video": "0" * 24}
  response = served.post("/api/find", json=asked, headers={"origin": origin})
  assert response.status_code == status


@pytest.mark.parametrize(
  ("site", "status"),
  [
    ("same-origin", 404),
    ("none", 404),
    ("cross-site", 403),
    ("same-site", 403),
  ],
)
def test_what_another_page_shows_as_an_image_asks_nothing(served, site, status):
  """No origin comes with it, but whose page it is."""
  response = served.get("/api/no_such", headers={"sec-fetch-site": site})
  assert response.status_code == status
  # A link to the page may be followed from anywhere.
  assert served.get("/", headers={"sec-fetch-site": site}).status_code == 200


def serve_with(root, sanitise, **limits):
  model = toy_model.make_model(toy_model.make_encoder(root))
  app = app_lib.make_app(
    model, sanitise=sanitise, limits=app_lib.ServeLimits(**limits)
  )
  return testclient.TestClient(app, base_url="http://127.0.0.1")


def test_an_upload_that_takes_too_long_leaves_nothing(tmp_path):
  go_on, folders = threading.Event(), []

  def slow(source, target):
    folders.append(target.parent)
    data = source.read_bytes()
    if len(folders) == 1:
      assert go_on.wait(60)
    target.write_bytes(data)

  content = built_dataset.encode_mp4(24)
  with serve_with(tmp_path, slow, timeout_sec=3.0) as client:
    response = client.post("/api/videos", content=content)
    assert response.status_code == 504
    go_on.set()
    response = client.post("/api/videos", content=content)
    assert response.status_code == 200
    kept = [path.stem for path in folders[0].iterdir()]
    assert kept == [response.json()["video"]]


def test_what_finds_a_full_queue_is_turned_away(tmp_path):
  with serve_with(tmp_path, _sanitise, max_waiting=0) as client:
    response = client.post("/api/videos", content=built_dataset.encode_mp4(24))
    assert response.status_code == 503


def test_fifty_questions_at_once(served, video):
  asked = {"video": video, "queries": ["the square fades"]}

  def ask(number):
    if number % 2:
      return served.get("/api/search", params={"text": f"square {number}"})
    return served.post("/api/find", json=asked)

  with concurrent.futures.ThreadPoolExecutor(50) as pool:
    answers = list(pool.map(ask, range(50)))
  assert {answer.status_code for answer in answers} == {200}


def test_oldest_upload_goes_first(served, video):
  for seed in (1, 2):
    served.post("/api/videos", content=built_dataset.encode_mp4(24, seed=seed))
  assert served.get(f"/api/videos/{video}/file").status_code == 404


def test_an_index_of_another_encoder_is_refused(tmp_path):
  encoder = toy_model.make_encoder(tmp_path)
  clip = tmp_path / "a.mp4"
  clip.write_bytes(built_dataset.encode_mp4(24))
  index = index_lib.build(
    encoder, [clip], out=tmp_path / "index", stride_sec=1.0
  )
  other = toy_model.make_encoder(tmp_path, seed=5)
  with pytest.raises(ValueError, match="clap index"):
    app_lib.make_app(
      toy_model.make_model(other), sanitise=_sanitise, index=index
    )
