"""A page on the loopback address: drop a video, ask, see and play the moments.

An uploaded file is never opened here: `sanitise` turns it, in a guarded
process, into a small mp4 that the model reads and the browser plays, and the
upload is deleted. Videos are known by random ids; no path of this machine
reaches a page. One worker thread owns the model, so that requests queue instead
of competing for the device.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import html
import pathlib
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable
from urllib import parse

import fastapi
import pydantic
from fastapi import responses

from clap_jax.inference import export, model_directory, predict
from clap_jax.inference import index as index_lib
from clap_jax.media import container
from clap_jax.report import page, player

MAX_QUERIES = 20
MAX_TEXT_LENGTH = 500  # characters
_HOSTS = ("127.0.0.1", "localhost", "::1")
_FOLDER = pathlib.Path(__file__).parent

Sanitise = Callable[[pathlib.Path, pathlib.Path], None]
Text = pydantic.constr(strip_whitespace=True, min_length=1, max_length=500)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeLimits:
  """What one visitor may ask for."""

  max_upload_bytes: int = 512 << 20
  max_videos: int = 32  # kept; the oldest goes first
  timeout_sec: float = 600.0  # of one request to the model
  max_waiting: int = 64  # requests in the queue; more are turned away


class Question(pydantic.BaseModel):
  """What to look for in an uploaded video."""

  video: pydantic.constr(pattern=r"^[0-9a-f]{24}$")
  queries: pydantic.conlist(Text, max_length=MAX_QUERIES) = []
  labels: pydantic.conlist(Text, max_length=1000) | None = None


@dataclasses.dataclass(frozen=True)
class _Stored:
  """An uploaded video in its harmless form."""

  path: pathlib.Path
  name: str  # as the visitor called it; shown, never opened


class Videos:
  """Uploaded videos in a temporary folder; thread-safe."""

  def __init__(self, directory: pathlib.Path, *, keep: int):
    self._directory = directory
    self._keep = keep
    self._known: collections.OrderedDict[str, _Stored] = (
      collections.OrderedDict()
    )
    self._lock = threading.Lock()

  def new_path(self) -> tuple[str, pathlib.Path]:
    """An id that nobody can guess, and the place of its file."""
    key = secrets.token_hex(12)
    return key, self._directory / f"{key}.mp4"

  def add(self, key: str, path: pathlib.Path, name: str) -> None:
    with self._lock:
      self._known[key] = _Stored(path, name)
      while len(self._known) > self._keep:
        _, old = self._known.popitem(last=False)
        old.path.unlink(missing_ok=True)

  def get(self, key: str) -> _Stored:
    with self._lock:
      stored = self._known.get(key)
    if stored is None:
      raise fastapi.HTTPException(404, "There is no such video any more.")
    return stored


class Worker:
  """Runs functions one at a time in a thread of its own."""

  def __init__(self, limits: ServeLimits):
    self._limits = limits
    self._pool = concurrent.futures.ThreadPoolExecutor(
      1, thread_name_prefix="model"
    )
    self._waiting = 0

  async def run(self, function, *args, **kwargs):
    if self._waiting >= self._limits.max_waiting:
      raise fastapi.HTTPException(503, "Too many requests wait; try later.")
    self._waiting += 1
    try:
      future = asyncio.get_running_loop().run_in_executor(
        self._pool, lambda: function(*args, **kwargs)
      )
      return await asyncio.wait_for(future, self._limits.timeout_sec)
    except TimeoutError:
      raise fastapi.HTTPException(
        504, f"No answer within {self._limits.timeout_sec:g} s."
      ) from None
    finally:
      self._waiting -= 1

  def afterwards(self, function, *args, **kwargs) -> None:
    """Calls a function after what is under way; nobody waits for it."""
    self._pool.submit(function, *args, **kwargs)

  def close(self) -> None:
    self._pool.shutdown(wait=False, cancel_futures=True)


def make_app(
  model: model_directory.Model,
  *,
  sanitise: Sanitise,
  index: index_lib.Index | None = None,
  limits: ServeLimits = ServeLimits(),
) -> fastapi.FastAPI:
  """The application.

  Args:
    model: answers questions about uploaded videos.
    sanitise: (upload, target) -> None; writes a playable mp4 of a file that
      nobody vouches for, or raises a ValueError with the reason.
    index: searched by text; must be of the model's encoder.
    limits: of uploads, time and queue.

  Raises:
    ValueError: the index is of another encoder.
  """
  if index is not None and index.parameters != model.encoder.fingerprint:
    raise ValueError(
      f"the index {index.directory} was made by an encoder with the parameters "
      f"{index.parameters}, the model's are {model.encoder.fingerprint}; run "
      "`clap index` with this model."
    )
  directory = pathlib.Path(tempfile.mkdtemp(prefix="clap_serve_"))
  videos = Videos(directory, keep=limits.max_videos)
  worker = Worker(limits)

  @contextlib.asynccontextmanager
  async def lifespan(_):
    yield
    worker.close()
    shutil.rmtree(directory, ignore_errors=True)

  app = fastapi.FastAPI(
    title="clap_jax",
    lifespan=lifespan,
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
  )
  _add_headers(app)
  _add_upload(app, videos, worker, sanitise=sanitise, limits=limits)
  _add_questions(app, videos, worker, model=model)
  _add_search(app, worker, model=model, index=index)
  text = (
    page.environment(_FOLDER)
    .get_template("page.html")
    .render(
      labels=list(model.label_names),
      takes_queries=model.grounder is not None,
      index=index,
      max_mib=limits.max_upload_bytes >> 20,
    )
  )

  @app.get("/", response_class=responses.HTMLResponse)
  async def home():
    return text

  return app


def _name_of(address: str) -> str | None:
  try:
    return parse.urlsplit(address).hostname
  except ValueError:  # an unclosed bracket
    return None


def _add_headers(app) -> None:
  @app.middleware("http")
  async def headers(request, call_next):
    host = request.headers.get("host", "")
    if _name_of(f"//{host}") not in _HOSTS:
      # A name that somebody points at this address must not read the answers.
      return responses.PlainTextResponse("unknown host", status_code=421)
    origin = request.headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2] != host
    # Browsers send no origin with what an <img> asks for, but whose page it is;
    # a link that is followed to the page itself is no harm.
    site = request.headers.get("sec-fetch-site", "none")
    asks = request.url.path.startswith("/api/")
    if foreign or (asks and site not in ("none", "same-origin")):
      # Nor may another page push videos out or let the model work.
      return responses.PlainTextResponse("another page", status_code=403)
    response = await call_next(request)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Content-Security-Policy"] = (
      "default-src 'none'; img-src 'self' data:; media-src 'self' data:; "
      "style-src 'unsafe-inline'; script-src 'self' 'unsafe-inline'; "
      "connect-src 'self'; frame-src 'self'; frame-ancestors 'self'; "
      "form-action 'none'; base-uri 'none'"
    )
    return response


def _add_upload(app, videos, worker, *, sanitise, limits) -> None:
  @app.post("/api/videos")
  async def upload(request: fastapi.Request, name: str = "video"):
    """The body is the file itself."""
    key, target = videos.new_path()
    raw = target.with_suffix(".upload")
    try:
      size = 0
      with raw.open("wb") as file:
        async for chunk in request.stream():
          size += len(chunk)
          if size > limits.max_upload_bytes:
            raise fastapi.HTTPException(
              413,
              f"The file is larger than {limits.max_upload_bytes >> 20} MiB.",
            )
          file.write(chunk)
      try:
        await worker.run(sanitise, raw, target)
        duration_sec = container.probe(target).duration_sec
      except (ValueError, OSError) as error:
        raise fastapi.HTTPException(400, _without_paths(error, raw)) from error
    except fastapi.HTTPException:  # the thread may be writing still
      worker.afterwards(target.unlink, missing_ok=True)
      raise
    finally:
      raw.unlink(missing_ok=True)
    videos.add(key, target, pathlib.PurePath(name).name[:120] or "video")
    return {"video": key, "duration_sec": duration_sec}

  @app.get("/api/videos/{key}/file")
  async def file(key: str):
    return responses.FileResponse(videos.get(key).path, media_type="video/mp4")


def _without_paths(error: Exception, path: pathlib.Path) -> str:
  text = str(error)
  for part in (str(path), str(path.parent), path.name):
    text = text.replace(part, "the file")
  return text


def _add_questions(app, videos, worker, *, model) -> None:
  async def ask(question: Question) -> dict:
    stored = videos.get(question.video)
    try:
      document = await worker.run(
        predict.predict,
        model,
        [stored.path],
        labels=question.labels,
        queries=question.queries,
      )
    except ValueError as error:
      raise fastapi.HTTPException(400, str(error)) from error
    if document["failed"]:
      reason = document["failed"][0]["reason"]
      raise fastapi.HTTPException(
        400, reason.replace(str(stored.path), stored.name)
      )
    return document["videos"][0] | {"video": stored.name}

  @app.post("/api/find")
  async def find(question: Question):
    return {"videos": [await ask(question)], "failed": []}

  @app.post("/api/player", response_class=responses.HTMLResponse)
  async def show(question: Question):
    entry = await ask(question)
    return player.render(entry, source=f"/api/videos/{question.video}/file")

  @app.post("/api/export/{kind}", response_class=responses.PlainTextResponse)
  async def download(kind: str, question: Question):
    entry = await ask(question)
    if kind == "csv":
      return export.csv_text({"videos": [entry]})
    if kind in ("srt", "vtt"):
      return export.subtitles(entry, kind=kind)
    raise fastapi.HTTPException(404, "Choose csv, srt or vtt.")


def _add_search(app, worker, *, model, index) -> None:
  places = {
    video.path: number
    for number, video in enumerate(index.videos if index else ())
  }

  @app.get("/api/search")
  async def search(text: str, top: int = 10):
    if index is None:
      raise fastapi.HTTPException(404, "No index is served; see --index.")
    text = text.strip()
    if not text or len(text) > MAX_TEXT_LENGTH or not 1 <= top <= 100:
      raise fastapi.HTTPException(
        400, f"Give 1 to {MAX_TEXT_LENGTH} characters and top from 1 to 100."
      )
    found = await worker.run(
      lambda: index_lib.search(
        index, model.encoder.embed_texts([text])[0], top=top
      )
    )
    return {
      "moments": [
        moment
        | {
          "video": pathlib.PurePath(moment["video"]).name,
          "file": f"/api/index/{places[moment['video']]}/file",
        }
        for moment in found
      ]
    }

  @app.get("/api/index/{number}/file")
  async def indexed(number: int):
    if index is None or not 0 <= number < len(index.videos):
      raise fastapi.HTTPException(404, "There is no such video.")
    path = pathlib.Path(index.videos[number].path)
    if not path.is_file():
      raise fastapi.HTTPException(
        404, f"{html.escape(path.name)} is not where it was."
      )
    return responses.FileResponse(path)
