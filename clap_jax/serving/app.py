"""Serves a local page that finds moments in uploaded videos.

Videos are named by random keys; pages never contain a path of this machine.
See access.py for access control, uploads.py for uploads, media_files.py for
sending videos, and jobs.py for the model's thread.
"""

import contextlib
import dataclasses
import pathlib
from typing import Annotated

import fastapi
import pydantic
from fastapi import exceptions, responses

from clap_jax.inference import index as index_lib
from clap_jax.inference import model_directory, predict, zero_shot
from clap_jax.report import page, player
from clap_jax.serving import (
  access,
  answers,
  bodies,
  jobs,
  media_files,
)
from clap_jax.serving import uploads as uploads_lib
from clap_jax.storage import untrusted

MAX_QUERIES = 20
MAX_LABELS = 1000
MAX_TEXT_LENGTH = 500  # characters
# All labels and queries at maximum length; a JSON escape takes six bytes.
_MAX_QUESTION_BYTES = 6 * (MAX_LABELS + MAX_QUERIES) * MAX_TEXT_LENGTH + 4096
_QUESTION_SEC = 10.0
_FOLDER = pathlib.Path(__file__).parent
_STATIC = {"page.css": "text/css", "page.js": "text/javascript"}

Text = Annotated[
  str,
  pydantic.StringConstraints(
    strip_whitespace=True, min_length=1, max_length=MAX_TEXT_LENGTH
  ),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeLimits:
  """Limits of requests."""

  uploads: uploads_lib.UploadLimits = dataclasses.field(
    default_factory=uploads_lib.UploadLimits
  )
  timeout_sec: float = 600.0  # of one model job
  max_jobs: int = 64  # waiting and running model jobs


class Question(pydantic.BaseModel):
  """The queries and labels for an uploaded video."""

  video: Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{24}$")]
  queries: Annotated[list[Text], pydantic.Field(max_length=MAX_QUERIES)] = []
  labels: (
    Annotated[list[Text], pydantic.Field(max_length=MAX_LABELS)] | None
  ) = None


def make_app(
  model: model_directory.Model,
  *,
  port: int,
  token: str,
  make_playable: uploads_lib.MakePlayable,
  index: index_lib.Index | None = None,
  limits: ServeLimits = ServeLimits(),
) -> access.Guard:
  """Makes the ASGI application.

  Args:
    model: model for uploaded videos.
    port: port of the loopback address of the server.
    token: secret that requests need, see `access.new_token`.
    make_playable: transcodes an untrusted (upload, target) to a playable mp4,
      or raises a ValueError with the reason.
    index: index for text search, made by the model's encoder.
    limits: limits of uploads, time and queue.

  Raises:
    ValueError: if another encoder made the index.
  """
  made_by = model.encoder.fingerprint if model.encoder else None
  if index is not None and index.parameters != made_by:
    raise ValueError(
      f"the index {index.directory} was made by an encoder with the parameters "
      f"{index.parameters}, but the model's are {made_by}; run `clap index` "
      "with this model."
    )
  videos = uploads_lib.Uploads(limits.uploads, make_playable=make_playable)
  queue = jobs.ModelQueue(
    max_jobs=limits.max_jobs, timeout_sec=limits.timeout_sec
  )

  @contextlib.asynccontextmanager
  async def lifespan(_):
    with videos.opened():
      try:
        yield
      finally:
        queue.close()

  app = fastapi.FastAPI(
    title="clap_jax",
    lifespan=lifespan,
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
  )
  app.add_exception_handler(exceptions.RequestValidationError, _explain)
  _add_page(app, model=model, index=index, limits=limits)
  _add_uploads(app, videos)
  _add_questions(app, videos, queue, model=model)
  _add_search(app, queue, model=model, index=index)
  style_hash, script_hash = player.inline_hashes()
  return access.Guard(
    app,
    port=port,
    token=token,
    content_policy=access.policy(scripts=[script_hash], styles=[style_hash]),
  )


async def _explain(_, error) -> responses.Response:
  """Describes the errors of a request without repeating its content."""
  problems = [
    f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    for problem in error.errors()[:5]
  ]
  return answers.json_answer({"detail": "; ".join(problems)}, 422)


def _add_page(app, *, model, index, limits) -> None:
  text = (
    page.environment(_FOLDER)
    .get_template("page.html")
    .render(
      labels=list(model.label_names),
      takes_queries=model.takes_queries,
      index=index,
      max_bytes=limits.uploads.max_upload_bytes,
    )
  )
  sources = {
    name: (_FOLDER / name).read_text(encoding="utf-8") for name in _STATIC
  }

  @app.get("/")
  async def home():
    return answers.text_answer(text, media_type="text/html")

  @app.get("/static/{name}")
  async def static(name: str):
    if name not in sources:
      raise fastapi.HTTPException(404, "The file does not exist.")
    return answers.text_answer(sources[name], media_type=_STATIC[name])


def _add_uploads(app, videos: uploads_lib.Uploads) -> None:
  @app.post("/api/videos")
  async def upload(request: fastapi.Request, name: str = "video"):
    """Receives a video as the request body."""
    key = await videos.accept(request, answers.shown_name(name))
    duration_sec = videos.get(key).duration_sec
    return answers.json_answer({"video": key, "duration_sec": duration_sec})

  @app.get("/api/videos/{key}/file")
  async def file(request: fastapi.Request, key: str):
    path = videos.get(key).path
    try:
      opened = media_files.open_video(path)
    except (OSError, ValueError):
      raise fastapi.HTTPException(404, "The video was deleted.") from None
    return media_files.VideoResponse(
      opened, range_header=request.headers.get("range")
    )


async def _question(request: fastapi.Request) -> Question:
  """Reads the question of a request.

  FastAPI's own parser has no size limit and repeats rejected content.
  """
  body = b"".join(
    [
      block
      async for block in bodies.blocks(
        request,
        max_bytes=_MAX_QUESTION_BYTES,
        idle_sec=_QUESTION_SEC,
        total_sec=_QUESTION_SEC,
      )
    ]
  )
  name = "the question"
  try:
    text = untrusted.decode_text(body, name=name)
    return Question.model_validate(untrusted.parse_json(text, name=name))
  except pydantic.ValidationError as error:
    raise exceptions.RequestValidationError(error.errors()) from error
  except ValueError as error:
    raise fastapi.HTTPException(400, answers.without_paths(error)) from error


def _add_questions(app, videos, queue, *, model) -> None:
  async def ask(request: fastapi.Request, question: Question) -> dict:
    video = videos.get(question.video)
    try:
      document = await queue.run(
        lambda check: predict.predict(
          model,
          [video.path],
          labels=question.labels,
          queries=question.queries,
          on_time=check,  # called for every clip, so that jobs can be cancelled
        ),
        request,
      )
    except ValueError as error:
      raise fastapi.HTTPException(
        400, answers.without_paths(error, video.path)
      ) from error
    if document["failed"]:
      reason = document["failed"][0]["reason"]
      raise fastapi.HTTPException(
        400, answers.without_paths(reason, video.path)
      )
    return document["videos"][0] | {"video": video.name}

  asked = fastapi.Depends(_question)

  @app.post("/api/find")
  async def find(request: fastapi.Request, question: Question = asked):
    found = [await ask(request, question)]
    return answers.json_answer({"videos": found, "failed": []})

  @app.post("/api/player")
  async def show(request: fastapi.Request, question: Question = asked):
    entry = await ask(request, question)
    source = f"/api/videos/{question.video}/file"
    text = player.render(entry, source=source)
    return answers.text_answer(text, media_type="text/html")


def _add_search(app, queue, *, model, index) -> None:
  files = media_files.IndexedFiles()
  places = {
    video.path: number
    for number, video in enumerate(index.videos if index else ())
  }

  @app.get("/api/search")
  async def search(request: fastapi.Request, text: str, top: int = 10):
    if index is None:
      raise fastapi.HTTPException(404, "The server has no index; see --index.")
    text = text.strip()
    if not text or len(text) > MAX_TEXT_LENGTH or not 1 <= top <= 100:
      raise fastapi.HTTPException(
        400,
        f"Expected a text of 1 to {MAX_TEXT_LENGTH} characters, and top from 1 "
        "to 100.",
      )
    found = await queue.run(
      lambda check: index_lib.search(
        index,
        zero_shot.query_texts(model.encoder, [text]).vectors[0],
        top=top,
      ),
      request,
    )
    moments = [
      moment
      | {
        "video": answers.shown_name(moment["video"]),
        "file": f"/api/index/{places[moment['video']]}/file",
      }
      for moment in found
    ]
    return answers.json_answer({"method": zero_shot.METHOD, "moments": moments})

  @app.get("/api/index/{number}/file")
  async def indexed(request: fastapi.Request, number: int):
    if index is None or not 0 <= number < len(index.videos):
      raise fastapi.HTTPException(404, "The video does not exist.")
    video = index.videos[number]
    try:
      opened = await jobs.in_thread(
        lambda: files.open(video.path, sha256=video.sha256)
      )
    except media_files.NotAVideoError as error:
      name = answers.shown_name(video.path)
      raise fastapi.HTTPException(404, f"{name}: {error}") from error
    return media_files.VideoResponse(
      opened, range_header=request.headers.get("range")
    )
