"""The page's interface: questions, search, limits, no paths."""

import concurrent.futures
import json

import pytest

from clap_jax.inference import index as index_lib
from clap_jax.inference import model_directory, predict, zero_shot
from clap_jax.report import player
from clap_jax.serving import jobs
from tests.data import built_dataset
from tests.inference import toy_model
from tests.serving import toy_server


@pytest.fixture(scope="module")
def served(tmp_path_factory, encoder, model):
  root = tmp_path_factory.mktemp("served")
  (root / "secret_folder").mkdir()
  video = root / "secret_folder" / "indexed.mp4"
  video.write_bytes(built_dataset.encode_mp4(48))
  app = toy_server.make_app(
    model,
    index=index_lib.build(encoder, [video], out=root / "index", stride_sec=1.0),
    uploads={"max_upload_bytes": 1 << 20, "max_videos": 2},
  )
  with toy_server.client(app) as client:
    yield client


@pytest.fixture(scope="module")
def video(served):
  response = served.post(
    "/api/videos?name=..%2Fmine.mp4", content=built_dataset.encode_mp4(96)
  )
  assert response.status_code == 200
  assert response.json()["duration_sec"] == pytest.approx(12.0)
  return response.json()["video"]


def test_an_encoder_alone_takes_free_text(encoder):
  alone = model_directory.Model(encoder, 1.0, None, None)
  with toy_server.client(toy_server.make_app(alone)) as client:
    page = client.get("/").text
    assert (
      "takes no free text" not in page
      and " disabled"
      not in (page[page.index("<textarea") : page.index("</textarea>")])
    )
    uploaded = client.post("/api/videos", content=built_dataset.encode_mp4(96))
    asked = {"video": uploaded.json()["video"]}
    nothing = client.post("/api/find", json=asked)
    assert nothing.status_code == 400
    found = client.post("/api/find", json=asked | {"queries": ["it spins"]})
    (entry,) = found.json()["videos"]
    assert entry["method"] == zero_shot.METHOD
    assert isinstance(entry["absent"], bool)
    assert client.post(
      "/api/player", json=asked | {"queries": ["it spins"]}
    ).is_success


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


def test_search_finds_and_hides_the_folder(served):
  response = served.get("/api/search", params={"text": "the square", "top": 2})
  moments = response.json()["moments"]
  assert moments and moments[0]["video"] == "indexed.mp4"
  assert "secret_folder" not in response.text
  assert served.get(moments[0]["file"]).content[4:8] == b"ftyp"


@pytest.mark.parametrize(
  ("method", "path", "body", "status"),
  [
    ("POST", "/api/find", {"video": "../../etc/passwd"}, 422),
    ("POST", "/api/find", {"video": "0" * 24}, 404),
    ("POST", "/api/find", b"", 400),
    ("POST", "/api/find", b"[" * 100_000, 400),
    ("POST", "/api/find", b'{"video": 1' + b"0" * 5000 + b"}", 400),
    ("POST", "/api/find", b" " * (1 << 22), 413),
    ("GET", "/api/videos/..%2F..%2Fetc%2Fpasswd/file", None, 404),
    ("GET", "/api/index/7/file", None, 404),
    ("GET", "/api/index/-1/file", None, 404),
    ("GET", "/api/search?text=%20", None, 400),
    ("GET", "/api/search?text=%ED%A0%80&top=1", None, 200),
    ("GET", f"/api/search?text={'x' * 501}", None, 400),
    ("GET", "/static/..%2Fapp.py", None, 404),
    ("GET", "/docs", None, 404),
    ("GET", "/openapi.json", None, 404),
  ],
)
def test_bad_requests_are_refused(served, method, path, body, status):
  sent = {"content": body} if isinstance(body, bytes) else {"json": body}
  response = served.request(method, path, **(sent if body is not None else {}))
  assert response.status_code == status
  assert "/tmp" not in response.text and "Traceback" not in response.text


@pytest.mark.parametrize("key", ["queries", "labels", "video"])
def test_half_a_character_is_refused_and_not_repeated(served, video, key):
  asked = {"video": video, "queries": ["spins"], "labels": ["slides"]}
  asked[key] = "\ud800" if key == "video" else ["\ud800"]
  body = json.dumps(asked)
  for path in ("find", "player"):
    response = served.post(f"/api/{path}", content=body)
    assert response.status_code == 422
    assert key in response.json()["detail"]


def test_unknown_labels_are_refused(served, video):
  asked = {"video": video, "labels": ["flies"]}
  response = served.post("/api/find", json=asked)
  assert response.status_code == 400 and "flies" in response.json()["detail"]


def test_markup_in_names_and_queries_stays_text(served):
  markup = "<img src=x onerror=alert(1)>\"'</script><b>"
  response = served.post(
    "/api/videos",
    params={"name": markup.replace("/", "") + "\x1b\u202e"},
    content=built_dataset.encode_mp4(24),
  )
  asked = {"video": response.json()["video"], "queries": [markup]}
  page = served.post("/api/player", json=asked)
  assert page.headers["content-type"].startswith("text/html")
  assert "<img" not in page.text and "<b>" not in page.text
  assert "\x1b" not in page.text and "\u202e" not in page.text
  assert "&lt;img src=x" in page.text
  # Were an escape forgotten, the policy still allows no script but this one.
  policy = page.headers["content-security-policy"]
  assert "unsafe" not in policy and player.inline_hashes()[1] in policy


def test_fifty_questions_at_once_are_answered_right(served, video):
  def ask(number):
    if number % 2:
      text = f"square {number % 10}"
      return served.get("/api/search", params={"text": text})
    queries = [("the square fades", "the square spins")[number % 4 // 2]]
    return served.post("/api/find", json={"video": video, "queries": queries})

  alone = [ask(number) for number in range(20)]
  with concurrent.futures.ThreadPoolExecutor(50) as pool:
    answers = list(pool.map(ask, range(50)))
  for number, answer in enumerate(answers):
    assert answer.status_code == 200
    assert answer.json() == alone[number % 20].json()


def test_too_many_requests_are_refused_politely(model):
  app = toy_server.make_app(model, limits={"max_jobs": 3})
  with toy_server.client(app) as client:
    uploaded = client.post("/api/videos", content=built_dataset.encode_mp4(48))
    asked = {"video": uploaded.json()["video"], "queries": ["spins"]}

    def ask(_):
      return client.post("/api/find", json=asked)

    right = ask(0).json()
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
      answers = list(pool.map(ask, range(50)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {a.status_code for a in answers} == {200, 503}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert all(a.json() == right for a in answers if a.status_code == 200)
    assert ask(0).json() == right  # the places are free again


def test_predictions_stop_between_clips(tmp_path, model):
  """What a cancelled job relies on."""
  video = tmp_path / "a.mp4"
  video.write_bytes(built_dataset.encode_mp4(240))
  calls = []

  def cancel(*_):
    calls.append(1)
    if len(calls) == 3:
      raise jobs.JobCancelledError

  with pytest.raises(jobs.JobCancelledError):
    predict.predict(model, [video], queries=["spins"], on_time=cancel)
  assert len(calls) == 3


def test_an_index_of_another_encoder_is_refused(tmp_path, encoder):
  clip = tmp_path / "a.mp4"
  clip.write_bytes(built_dataset.encode_mp4(24))
  index = index_lib.build(
    encoder, [clip], out=tmp_path / "index", stride_sec=1.0
  )
  other = toy_model.make_encoder(tmp_path, seed=5)
  with pytest.raises(ValueError, match="clap index"):
    toy_server.make_app(toy_model.make_model(other), index=index)
