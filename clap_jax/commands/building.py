"""`clap build`, `clap data` and `clap tokenizer`: make datasets."""

import pathlib
import sys
from collections.abc import Callable

from etils import epy

from clap_jax.console import Progress, console, one_line
from clap_jax.media import limits
from tfds_builders import names

with epy.lazy_imports():
  import numpy as np

  from clap_jax.data import (
    records,
    statistics,
    tokenizer,
    verification,
  )
  from clap_jax.media import decode, errors
  from clap_jax.report import content, dataset_page
  from clap_jax.storage import record_index, tfrecord
  from tfds_builders import build, indexing, transcoding
  from tfds_builders.trimmed import settings as trimmed_settings

# Frames and captions of a video on the page of a dataset.
_SHOWN_FRAMES = 10
_SHOWN_PX = 96
_SHOWN_CAPTIONS = 8
_NUM_PRINTED = 3  # printed losses of a build; the manifests list all


def add_build(commands) -> None:
  parser = commands.add_parser(
    "build",
    help="pack videos and annotations into sharded TFRecords",
    description="Packs a dataset into DATA_DIR/NAME/VERSION: TFRecord shards, "
    "their index and a manifest.json per split that lists missing and broken "
    "videos. Nothing is downloaded.",
  )
  parser.add_argument("name", help=f"one of {', '.join(names.NAMES)}")
  parser.add_argument(
    "--data_dir", required=True, help="folder of all datasets"
  )
  parser.add_argument(
    "--manual_dir",
    help="folder of the videos and annotation files that you downloaded",
  )
  parser.add_argument("--videos", help="folder of videos")
  parser.add_argument(
    "--annotations", help="annotation file, or folder of annotation files"
  )
  parser.add_argument(
    "--encoding",
    help="encoding of annotation tables that are neither UTF-8 nor UTF-16, "
    "e.g. cp1252",
  )
  parser.add_argument(
    "--subset", type=int, help="maximum number of videos per split"
  )
  parser.add_argument(
    "--selection_percent",
    type=int,
    default=0,
    help="percent of the training videos to move to a split `selection`",
  )
  parser.add_argument(
    "--store",
    default="h264",
    choices=names.STORES,
    help="how videos are stored (default: h264)",
  )
  parser.add_argument(
    "--short_side", type=int, help="short side of stored videos in pixels"
  )
  parser.add_argument(
    "--fps", type=float, help="maximum frame rate of stored videos"
  )
  parser.add_argument(
    "--crf", type=int, help="x264 quality, 0 to 51; lower is better and larger"
  )
  parser.add_argument(
    "--workers", type=int, help="number of shards to write in parallel"
  )
  parser.add_argument(
    "--runner",
    default="threads",
    choices=names.RUNNERS,
    help="threads of this machine or Apache Beam (default: threads)",
  )
  parser.add_argument(
    "--runner_option",
    action="append",
    default=[],
    help="Beam pipeline option, e.g. --runner_option=--runner=FlinkRunner",
  )
  parser.add_argument(
    "--overwrite", action="store_true", help="replace a finished dataset"
  )
  _add_trimmed_flags(parser)
  limits.add_flags(parser)
  parser.set_defaults(run=_build)


def _add_trimmed_flags(parser) -> None:
  group = parser.add_argument_group(
    "trimmed", "options of the dataset `trimmed`: clips of one action each"
  )
  group.add_argument(
    "--join", action="store_true", help="join clips into untrimmed recordings"
  )
  group.add_argument(
    "--constant",
    metavar="A,B",
    default="",
    help="attributes that all clips of a recording share, e.g. person,view",
  )
  group.add_argument(
    "--clips_per_recording",
    type=int,
    metavar="N",
    help="maximum number of clips per recording (default: 8)",
  )
  group.add_argument(
    "--seed", type=int, help="seed of the order of clips (default: 0)"
  )
  group.add_argument(
    "--background",
    metavar="A,B",
    default="",
    help="classes whose clips are kept without a label",
  )
  group.add_argument(
    "--captions", metavar="FILE", help="JSON file of caption templates"
  )
  group.add_argument(
    "--split_by",
    metavar="A",
    default="",
    help="attribute that decides the split, e.g. person",
  )
  group.add_argument(
    "--splits",
    metavar="TEXT",
    default="",
    help='"train=S001,S007;validation=S019" (* for all others), or a JSON file',
  )
  group.add_argument(
    "--fold", type=int, help="official split of UCF101 or HMDB51 (default: 1)"
  )


def _trimmed(args) -> "trimmed_settings.TrimmedSettings | None":
  """Returns the settings, or None if none of their flags is given."""
  given = {
    "split_by": args.split_by,
    "splits": args.splits,
    "fold": args.fold,
    "background": trimmed_settings.parse_list(args.background),
    "captions": args.captions,
    "join": args.join or None,
    "constant": trimmed_settings.parse_list(args.constant),
    "clips_per_recording": args.clips_per_recording,
    "seed": args.seed,
  }
  given = {k: v for k, v in given.items() if v not in (None, "", ())}
  return trimmed_settings.TrimmedSettings(**given) if given else None


def _build(args) -> dict:
  with Progress(f"build {args.name}") as progress:
    report = build.build(
      args.name,
      data_dir=args.data_dir,
      manual_dir=args.manual_dir,
      videos=args.videos,
      annotations=args.annotations,
      encoding=args.encoding,
      trimmed=_trimmed(args),
      subset=args.subset,
      selection_percent=args.selection_percent,
      limits=_store_limits(args),
      workers=args.workers,
      runner=args.runner,
      runner_options=tuple(args.runner_option),
      overwrite=args.overwrite,
      on_start=progress.name,
      on_progress=lambda _, done, total: progress(done, total),
    )
  for split, manifest in report["manifests"].items():
    console.print(
      f"{split}: {manifest['present']} videos, {manifest['segments']} segments,"
      f" {manifest['captions']} captions; {len(manifest['missing'])} missing, "
      f"{len(manifest['corrupt'])} corrupt, {len(manifest['rejected'])} spans "
      "rejected"
    )
  _print_losses(report)
  for name in report["altered"]:
    console.print(
      f"{name} is not the published file of that name: counts may differ from "
      "published ones (its sha256 is in manifest.json)"
    )
  console.print(f"written to {report['directory']}, as {report['name']}")
  return report


def _print_losses(report) -> None:
  """Prints the first spans and videos that are left out to stderr."""
  losses = report["losses"]
  for loss in losses[:_NUM_PRINTED]:
    print(f"clap build: left out: {one_line(loss)}", file=sys.stderr)
  if losses:
    print(
      f"clap build: {len(losses)} spans or videos are left out; all reasons "
      f"are in {report['directory']}/SPLIT/manifest.json",
      file=sys.stderr,
    )
  repaired = sum(len(m["repaired"]) for m in report["manifests"].values())
  if repaired:
    print(
      f"clap build: {repaired} spans are cut to their videos' length; see "
      '"repaired" in manifest.json',
      file=sys.stderr,
    )
  for split, classes in report["classes_not_in_train"].items():
    print(
      f"clap build: {len(classes)} classes of {split} have no segment in "
      f"train: {', '.join(classes[:10])}",
      file=sys.stderr,
    )


def _store_limits(args) -> "transcoding.StoreLimits":
  given = {
    "short_side_px": args.short_side,
    "max_fps": args.fps,
    "crf": args.crf,
  }
  given = {key: value for key, value in given.items() if value is not None}
  return transcoding.StoreLimits(
    store=args.store, source=limits.from_args(args), **given
  )


def add_data(commands) -> None:
  parser = commands.add_parser(
    "data",
    help="inspect, verify or index a built dataset",
    description="`inspect` counts videos, segments and captions and writes a "
    "page with sample videos on time lines; `verify` checks every hash, "
    "checksum, record and count, and exits with 2 if anything is wrong; "
    "`upgrade` adds the index, which lets readers load a clip without its "
    "whole record.",
  )
  parser.add_argument("action", choices=("inspect", "verify", "upgrade"))
  parser.add_argument("name", help="dataset name")
  parser.add_argument(
    "--data_dir", default="data", help="folder of all datasets (default: data)"
  )
  parser.add_argument(
    "--out", help="inspect: page to write (default: NAME.html)"
  )
  parser.add_argument(
    "--videos",
    type=int,
    default=6,
    help="inspect: number of sample videos per split (default: 6)",
  )
  parser.add_argument(
    "--decode", action="store_true", help="verify: decode every video too"
  )
  parser.set_defaults(run=_data)


def _data(args) -> dict:
  dataset = records.open_dataset(args.data_dir, args.name)
  if args.action == "upgrade":
    return _upgrade(dataset)
  with Progress(f"{args.action} {args.name}") as progress:
    if args.action == "verify":
      found = verification.verify(
        dataset, decode=args.decode, on_progress=progress
      )
    else:
      out = args.out or f"{args.name.replace('/', '-')}.html"
      numbers = inspect_dataset(
        dataset, out=out, num_videos=args.videos, on_progress=progress
      )
  if args.action == "inspect":
    for split, counts in numbers.items():
      console.print(
        f"{split}: {counts['videos']} videos, {counts['hours']:.2f} h, "
        f"{counts['segments']} segments of {counts['classes']} classes, "
        f"{counts['captions']} captions; {counts['missing']} missing, "
        f"{counts['corrupt']} corrupt"
      )
    console.print(f"written to {out}")
    return {"page": str(out), "splits": numbers}
  console.print(
    f"{found.num_files} files, {found.num_records} records, "
    f"{found.num_bytes} bytes: "
    + (f"{len(found.problems)} problems" if found.problems else "no problems")
  )
  for problem in found.problems:
    print(f"clap data verify: {problem}", file=sys.stderr)
  return found.to_dict()


def _upgrade(dataset: "records.Dataset") -> dict:
  """Writes the index of a dataset, unless it has a valid one."""
  path = dataset.directory / record_index.FILE
  try:
    is_indexed = bool(dataset.index)
    sources = [dataset.split(split) for split in dataset.splits]
  except records.DatasetError:
    is_indexed = False
    sources = [dataset.split(split, indexed=False) for split in dataset.splits]
  if is_indexed:
    console.print(f"{path} exists and is valid; nothing to do")
    return {"index": str(path), "is_new": False}
  with Progress(f"upgrade {dataset.name}") as progress:
    found = indexing.index_dataset(
      dataset.directory,
      [shard for source in sources for shard in source.shards],
      on_progress=progress,
    )
  console.print(
    f"written to {path}: {found.divided} of {found.records} videos can be read "
    f"clip by clip, {len(found.damaged)} records are damaged"
  )
  for problem in found.damaged:
    print(f"clap data upgrade: {problem}", file=sys.stderr)
  return {"index": str(path), "is_new": True, **found._asdict()}


def inspect_dataset(
  dataset: "records.Dataset",
  *,
  out: str | pathlib.Path,
  num_videos: int,
  on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict]:
  """Writes the page of a dataset; returns the statistics of its splits.

  Raises:
    ValueError: `num_videos` is negative, or the page would be too large.
  """
  if num_videos < 0:
    raise ValueError(f"num_videos is {num_videos}; expected 0 or more")
  numbers, videos = {}, {}
  for split in dataset.splits:
    numbers[split] = statistics.split_statistics(dataset, split)
    source = dataset.split(split)
    infos = source.metadata(on_corrupt="skip").examples
    chosen = statistics.evenly_chosen(infos, at_most=num_videos)
    videos[split] = []
    for done, info in enumerate(chosen, 1):
      videos[split].append(_annotated_video(dataset, source, info))
      on_progress(done, len(chosen))
  dataset_page.write(out, name=dataset.name, statistics=numbers, videos=videos)
  return numbers


def _annotated_video(dataset, source, info) -> "content.VideoTimeline":
  """Returns a video's frames, segments and first captions."""
  shown = info.captions[:_SHOWN_CAPTIONS]
  note = f"{info.width} x {info.height} px, {info.fps:.4g} fps"
  if len(shown) < len(info.captions):
    note += f", {len(shown)} of {len(info.captions)} captions shown"
  frames = None
  try:
    video = source[info.index].video
    times = content.frame_times(info.duration_sec, _SHOWN_FRAMES)
    half_sec = info.duration_sec / _SHOWN_FRAMES / 2
    frames = np.concatenate(
      [
        decode.decode_clip(
          video,
          start_sec=float(time),
          clip_sec=half_sec,
          num_frames=1,
          size=_SHOWN_PX,
          mode="crop",
        )
        for time in times
      ]
    )
  except (errors.VideoError, tfrecord.CorruptRecordError) as error:
    note += f"; unreadable: {error}"
  return content.VideoTimeline(
    info.id,
    info.duration_sec,
    frames=frames,
    ground_truth=[
      content.Segment(float(start), float(end), dataset.label_names[label])
      for (start, end), label in zip(info.segments, info.labels, strict=True)
    ],
    queries=[
      content.Query(text, (content.Segment(start, end),))
      for start, end, text in shown
    ],
    note=note,
  )


def add_tokenizer(commands) -> None:
  parser = commands.add_parser(
    "tokenizer",
    help="train a SentencePiece model on the captions of a split",
    description="Trains a SentencePiece unigram model on the captions of one "
    "split and on the class names.",
  )
  parser.add_argument("--data", required=True, help="dataset name")
  parser.add_argument(
    "--data_dir", required=True, help="folder of all datasets"
  )
  parser.add_argument("--split", default="train", help="default: train")
  parser.add_argument(
    "--vocab_size",
    type=int,
    default=512,
    help="number of pieces (default: 512)",
  )
  parser.add_argument("--out", required=True, help="model file to write")
  parser.add_argument(
    "--overwrite", action="store_true", help="replace the model file"
  )
  parser.set_defaults(run=_tokenizer)


def _tokenizer(args) -> dict:
  dataset = records.open_dataset(args.data_dir, args.data)
  trained = tokenizer.train_on_split(
    dataset,
    out=args.out,
    split=args.split,
    vocab_size=args.vocab_size,
    overwrite=args.overwrite,
  )
  console.print(f"{trained.vocab_size} pieces, written to {args.out}")
  return {"vocab_size": trained.vocab_size, "sha256": trained.hash}
