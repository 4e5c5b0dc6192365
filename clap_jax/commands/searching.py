"""`clap index`, `clap search` and `clap serve`: search videos by text."""

import contextlib
import dataclasses
import functools
import pathlib
import socket
import time

import rich.table
from etils import epy

from clap_jax.console import Progress, console, one_line
from clap_jax.media import limits

with epy.lazy_imports():
  from clap_jax.inference import encoder as encoder_lib
  from clap_jax.inference import index as index_lib
  from clap_jax.inference import inputs, model_directory, zero_shot
  from tfds_builders import transcoding

_SHUTDOWN_SEC = 5  # to finish the answers being sent


def add_index(commands) -> None:
  parser = commands.add_parser(
    "index",
    help="encode a folder of videos once, for `clap search`",
    description="Encodes every video below DIR with a pre-trained encoder. A "
    "second call encodes only new videos; broken videos are skipped and "
    "listed.",
  )
  parser.add_argument("folder", metavar="DIR", help="folder of videos")
  parser.add_argument(
    "--model",
    required=True,
    help="a model, or an encoder alone: a pretrain run, imported weights or a "
    "name of `clap get`",
  )
  parser.add_argument("--out", required=True, help="folder of the index")
  parser.add_argument(
    "--stride_sec",
    type=float,
    help="seconds between clips (default: the encoder's own, else 0.5)",
  )
  limits.add_flags(parser)
  parser.set_defaults(run=_index, show=_show_index)


def _index(args) -> dict:
  video_limits = limits.from_args(args)
  encoder = _load_encoder(args.model)
  found = inputs.find_in(args.folder)
  stride_sec = args.stride_sec
  if stride_sec is None:
    stride_sec = model_directory.encoder_stride_sec(encoder)
  with Progress("index") as progress:
    index = index_lib.build(
      encoder,
      found.files,
      failed=found.failed,
      out=args.out,
      stride_sec=stride_sec,
      on_video=progress.name,
      limits=video_limits,
      on_progress=progress,
    )
  return {
    "videos": len(index.videos),
    "clips": len(index.vectors),
    "hours": index.num_hours,
    "failed": list(index.failed),
    "skipped": found.num_skipped,
    "all_failed": bool(index.failed) and not len(index.vectors),
  }


def _show_index(args, document: dict) -> None:
  console.print(
    f"{document['videos']} videos, {document['hours']:.2f} hours, "
    f"{document['clips']} clips indexed in {one_line(args.out)}; "
    f"{len(document['failed'])} failed, {document['skipped']} other files "
    "skipped"
  )
  for entry in document["failed"]:
    console.print(
      f"failed: {one_line(entry['video'])}: {one_line(entry['reason'])}",
      soft_wrap=True,
    )


def _load_encoder(directory: str) -> "encoder_lib.Encoder":
  """Loads the encoder of a model directory, or an encoder alone."""
  path = pathlib.Path(directory)
  if (path / model_directory.MODEL_FILE).is_file():
    return model_directory.load_model(path).encoder_and_stride()[0]
  return encoder_lib.load_encoder(path)


def add_search(commands) -> None:
  parser = commands.add_parser(
    "search",
    help="find the moments of an index that a text describes",
    description="Compares the text with every clip of the index.",
  )
  parser.add_argument("text", help="description of the moments to find")
  parser.add_argument(
    "--index", required=True, help="folder that `clap index` wrote"
  )
  parser.add_argument(
    "--top", type=int, default=10, help="number of moments (default: 10)"
  )
  parser.add_argument(
    "--model",
    help="a model or an encoder alone, instead of the encoder that the index "
    "names",
  )
  parser.set_defaults(run=_search, show=_show_moments)


def _search(args) -> dict:
  if not args.text.strip():
    raise ValueError("the text is empty; describe the moment in words.")
  index = index_lib.open_index(args.index)
  encoder = _load_encoder(args.model or index.encoder_directory)
  if encoder.fingerprint != index.parameters:
    raise ValueError(
      f"{encoder.directory} holds other parameters than the encoder of the "
      "index; run `clap index` again into another folder."
    )
  vector = zero_shot.query_texts(encoder, [args.text]).vectors[0]
  started_sec = time.perf_counter()
  moments = index_lib.search(index, vector, top=args.top)
  search_sec = time.perf_counter() - started_sec
  return {
    "query": args.text,
    "method": zero_shot.METHOD,
    "moments": moments,
    "search_sec": search_sec,
    "clips": len(index.vectors),
  }


def _show_moments(args, document: dict) -> None:
  table = rich.table.Table(title=one_line(args.text))
  table.add_column("video", overflow="fold")
  for name in ("start", "end", "score"):
    table.add_column(name, justify="right", no_wrap=True)
  for moment in document["moments"]:
    table.add_row(
      one_line(moment["video"]),
      f"{moment['start_sec']:.2f}",
      f"{moment['end_sec']:.2f}",
      f"{moment['score']:.3f}",
    )
  console.print(table)
  console.print(
    f"{document['clips']} clips compared in "
    f"{1000 * document['search_sec']:.1f} ms"
  )


def add_serve(commands) -> None:
  parser = commands.add_parser(
    "serve",
    help="serve a page on this machine: drop a video, query it, play moments",
    description="Serves on the loopback address only, to clients that have the "
    "printed address. Uploads are decoded in a guarded process, kept in a "
    "private temporary folder and deleted when the server stops.",
  )
  parser.add_argument(
    "--model",
    required=True,
    help="a model directory, or an encoder alone: a pretrain run, imported "
    "weights or a name of `clap get`",
  )
  parser.add_argument("--port", type=int, default=8000, help="default: 8000")
  parser.add_argument("--index", help="index to search: a `clap index` folder")
  parser.add_argument(
    "--max_upload_mib",
    type=int,
    default=512,
    help="maximum size of an upload in MiB (default: 512)",
  )
  parser.add_argument(
    "--timeout_sec",
    type=float,
    default=600.0,
    help="maximum seconds per job (default: 600)",
  )
  limits.add_flags(parser)
  parser.set_defaults(run=_serve)


def _serve(args) -> dict:
  # The server's packages take a second to import; no other command needs them.
  import uvicorn  # noqa: PLC0415

  from clap_jax.serving import access, connections, uploads  # noqa: PLC0415
  from clap_jax.serving import app as app_lib  # noqa: PLC0415

  video_limits = limits.from_args(args)
  serve_limits = app_lib.ServeLimits(
    uploads=uploads.UploadLimits(
      max_upload_bytes=args.max_upload_mib << 20, decode_sec=args.timeout_sec
    ),
    timeout_sec=args.timeout_sec,
  )
  with _listener(args.port) as listener:
    token = access.new_token()
    app = app_lib.make_app(
      model_directory.load_model(args.model),
      port=args.port,
      token=token,
      make_playable=functools.partial(
        _make_playable,
        upload_limits=serve_limits.uploads,
        video_limits=video_limits,
      ),
      index=index_lib.open_index(args.index) if args.index else None,
      limits=serve_limits,
    )
    server = uvicorn.Server(
      uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # it would show the token
        server_header=False,
        http=connections.HeaderTimeoutProtocol,
        timeout_graceful_shutdown=_SHUTDOWN_SEC,
      )
    )
    console.print(
      f"{access.address(args.port, token)}  (stop with Ctrl-C)",
      soft_wrap=True,
      markup=False,
    )
    console.print(
      "Anyone with this address can use the page; other users of this machine "
      "cannot."
    )
    with contextlib.suppress(KeyboardInterrupt):
      server.run(sockets=[listener])
  return {}


def _listener(port: int) -> socket.socket:
  """Binds the port before the model is loaded, or raises a ValueError."""
  if not 0 < port < 65536:
    raise ValueError(f"--port must be from 1 to 65535, got {port}.")
  listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
  listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    listener.bind(("127.0.0.1", port))
  except OSError as error:
    listener.close()
    raise ValueError(
      f"--port {port} cannot be used: {error.strerror}; choose another."
    ) from error
  return listener


def _make_playable(
  source: pathlib.Path, target: pathlib.Path, *, upload_limits, video_limits
):
  transcoding.transcode_apart(
    source,
    target,
    limits=transcoding.StoreLimits(
      short_side_px=360,
      max_fps=30.0,
      min_duration_sec=0.2,
      source=dataclasses.replace(
        video_limits,
        max_bytes=min(upload_limits.max_upload_bytes, video_limits.max_bytes),
        max_decode_sec=min(
          upload_limits.decode_sec, video_limits.max_decode_sec
        ),
      ),
    ),
  )
