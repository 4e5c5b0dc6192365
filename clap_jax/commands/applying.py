"""`clap extract`, `clap texts` and `clap predict`: apply a trained run."""

import math

import rich.table
from etils import epy

from clap_jax.console import Progress, console, one_line
from clap_jax.media import limits
from clap_jax.storage import text_tables

with epy.lazy_imports():
  from clap_jax.data import query_annotations, records
  from clap_jax.inference import (
    encoder,
    export,
    extract,
    inputs,
    model_directory,
    predict,
    texts,
  )


def add_extract(commands) -> None:
  parser = commands.add_parser(
    "extract",
    help="write dense clip features of every video of a dataset",
    description="Encodes clips at a fixed stride with the frozen video tower: "
    "one .npz per video with features (T, D), start_sec, stride_sec, clip_sec.",
  )
  parser.add_argument(
    "--model",
    required=True,
    help="a pretrain run, imported weights of both towers or a name of "
    "`clap get`",
  )
  parser.add_argument("--data", required=True, help="dataset name")
  parser.add_argument(
    "--data_dir", default="data", help="folder of all datasets (default: data)"
  )
  parser.add_argument(
    "--split", action="append", help="repeatable (default: all splits)"
  )
  parser.add_argument(
    "--stride_sec",
    type=float,
    help="seconds between clips (default: the encoder's own, else 0.5)",
  )
  parser.add_argument("--out", required=True, help="folder of the features")
  parser.add_argument(
    "--overwrite",
    action="store_true",
    help="replace features of other settings",
  )
  limits.add_flags(parser)
  parser.set_defaults(run=_extract)


def _extract(args) -> dict:
  video_limits = limits.from_args(args)
  loaded = encoder.load_encoder(args.model)
  stride_sec = args.stride_sec
  if stride_sec is None:
    stride_sec = model_directory.encoder_stride_sec(loaded)
  with Progress("extract") as progress:
    done = extract.extract(
      loaded,
      records.open_dataset(args.data_dir, args.data),
      out=args.out,
      stride_sec=stride_sec,
      splits=tuple(args.split) if args.split else None,
      overwrite=args.overwrite,
      limits=video_limits,
      on_progress=progress,
    )
  console.print(
    f"{len(done.written)} videos written, {len(done.kept)} kept, "
    f"{len(done.failed)} failed; the features are in {done.directory}"
  )
  return {
    "written": len(done.written),
    "kept": len(done.kept),
    "failed": list(done.failed),
    "all_failed": bool(done.failed) and not (done.written or done.kept),
  }


def add_texts(commands) -> None:
  parser = commands.add_parser(
    "texts",
    help="encode the sentences of annotation files with the text tower",
    description="Writes the token vectors of every sentence of the files, for "
    "grounding on features of another encoder. A second call encodes only new "
    "sentences.",
  )
  parser.add_argument(
    "--model", required=True, help="workdir of a pretrain run"
  )
  parser.add_argument(
    "--queries",
    required=True,
    action="append",
    metavar="FILE",
    help="annotations: JSON by video, JSON lines, or text as in Charades-STA",
  )
  parser.add_argument("--out", required=True, help="the .npz to write")
  parser.set_defaults(run=_texts)


def _texts(args) -> dict:
  sentences = [
    s for f in args.queries for s in query_annotations.read_sentences(f)
  ]
  added = texts.add_texts(
    args.out,
    encoder.load_encoder(args.model),
    texts=list(dict.fromkeys(sentences)),
    dtype="float16",
  )
  console.print(f"{added} sentences encoded, written to {args.out}")
  return {"encoded": added, "sentences": len(set(sentences))}


def add_predict(commands) -> None:
  parser = commands.add_parser(
    "predict",
    help="find moments in your own videos",
    description="Finds actions by class, the moments that a text describes, or "
    "actions like those of a few examples. DIR of --support holds either one "
    "folder of trimmed clips per class, DIR/CLASS/*.mp4, or untrimmed videos "
    "and DIR/segments.csv with the columns video,start,end,label (seconds). "
    "Without a few-shot head the nearest prototype of the encoder's features "
    "is used; the result names it. An encoder alone scores texts by their "
    "similarity to the video (zero-shot).",
  )
  parser.add_argument(
    "videos",
    nargs="+",
    metavar="VIDEO",
    help="a video, a folder of videos, or features (.npy, .npz, .h5, .csv) of "
    "the kind that the heads were trained on",
  )
  parser.add_argument(
    "--model",
    required=True,
    help="a model directory, the workdir of a head, or an encoder alone: a "
    "pretrain run, imported weights of both towers or a name of `clap get`",
  )
  parser.add_argument("--labels", help="file of class names, one per line")
  parser.add_argument(
    "--query",
    action="append",
    default=[],
    metavar="TEXT",
    help="description of the moments to find; repeatable",
  )
  parser.add_argument(
    "--texts",
    metavar="FILE.npz",
    help="token vectors of the queries, for a head on features of another "
    "encoder: from `clap texts`, or the published file of one query",
  )
  parser.add_argument(
    "--support", metavar="DIR", help="folder of examples by class"
  )
  parser.add_argument(
    "--feature_timing",
    metavar="KEY=NUMBER,...",
    help="timing of feature files, if it differs from the head's metadata: "
    "fps=30,stride_frames=4,window_frames=16,offset_frames=0",
  )
  parser.add_argument(
    "--max_predictions",
    type=int,
    default=20,
    help="maximum number of moments per video or query (default: 20)",
  )
  parser.add_argument(
    "--export",
    metavar="DIR",
    help="also write CSV, ActivityNet and QVHighlights files and a page per "
    "video that plays a moment on click",
  )
  parser.add_argument(
    "--overwrite", action="store_true", help="replace exported files"
  )
  limits.add_flags(parser)
  parser.set_defaults(run=_predict, show=_show_predictions)


def read_labels(path: str) -> list[str]:
  """Reads class names from a file, one per line.

  Raises:
    ValueError: the file holds no class, or is not text.
  """
  labels = [line for _, line in text_tables.read_lines(path)]
  if not labels:
    raise ValueError(f"--labels: {path} names no class; expected one per line")
  return labels


def _predict(args) -> dict:
  video_limits = limits.from_args(args)
  labels = None
  if args.labels:
    labels = read_labels(args.labels)
  found = inputs.find(args.videos)
  timing = args.feature_timing and inputs.parse_timing(args.feature_timing)
  if args.export:
    export.check(found.files, args.export, overwrite=args.overwrite)
  has_videos = not all(map(inputs.are_features, found.files))
  reads_texts = bool(args.support or (args.query and not args.texts))
  model = model_directory.load_model(
    args.model, needs_encoder=has_videos or reads_texts
  )
  with Progress("seconds of video") as progress:
    document = predict.predict(
      model,
      found.files,
      labels=labels,
      queries=args.query,
      support_dir=args.support,
      max_predictions=args.max_predictions,
      feature_timing=timing,
      texts=args.texts,
      on_video=progress.name,
      limits=video_limits,
      on_time=lambda done, total: progress(int(done), math.ceil(total)),
    )
  document["failed"] = [*found.failed, *document["failed"]]
  if found.num_skipped:
    document["skipped"] = found.num_skipped
  return document | {"all_failed": not document["videos"]}


def _show_videos(what: str, entries: list[dict] | None) -> None:
  for entry in entries or ():
    console.print(
      f"{what}: {one_line(entry['video'])}: {one_line(entry['reason'])}",
      soft_wrap=True,
    )


def _show_predictions(args, document: dict) -> int:
  """Prints the best predictions and writes the export.

  Returns:
    The exit code: 3 if a file of the export was not written, else 0.
  """
  for video in document["videos"]:
    method = f" ({video['method']})" if "method" in video else ""
    table = rich.table.Table(
      "start", "end", "score", "what", title=one_line(video["video"]) + method
    )
    for query, absence in (video.get("absence") or {}).items():
      if absence["absent"]:
        table.add_row(
          "absent",
          "",
          "",
          f"{one_line(query)}: probably not in this video (probability "
          f"{absence['probability']:.2f}); its moments are the nearest ones",
        )
    for entry in video["predictions"][:10]:
      table.add_row(
        f"{entry['start_sec']:.2f}",
        f"{entry['end_sec']:.2f}",
        f"{entry['score']:.3f}",
        one_line(entry.get("label") or entry.get("query")),
      )
    console.print(table)
  _show_videos("failed", document["failed"])
  _show_videos("example skipped", document.get("support", {}).get("skipped"))
  if document.get("skipped"):
    console.print(
      f"{document['skipped']} files are skipped: they are not videos"
    )
  if not args.export:
    return 0
  done = export.write(document, args.export, overwrite=args.overwrite)
  for path in done.files:
    console.print(f"written: {one_line(path)}", soft_wrap=True)
  for entry in done.failed:
    console.print(
      f"not written: {one_line(entry['file'])}: {one_line(entry['reason'])}",
      soft_wrap=True,
    )
  return 3 if done.failed else 0
