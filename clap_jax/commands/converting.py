"""`clap convert`: converts annotations of other tools to JSON."""

import sys

from clap_jax.console import console, one_line
from clap_jax.storage import output
from tfds_builders import published
from tfds_builders.tool_exports import converting

_NUM_PRINTED = 3


def add_convert(commands) -> None:
  parser = commands.add_parser(
    "convert",
    help="convert annotations of ELAN, BORIS, Label Studio, VIA, CVAT to JSON",
    description="Converts an annotation tool's export to ActivityNet-style "
    "JSON for `clap build folder`: ELAN's tab-delimited text and .eaf, BORIS's "
    "tabular and aggregated events, Label Studio's JSON and JSON-MIN, projects "
    "of VIA 3 and CVAT's XML. Also converts the annotations of a `clap build` "
    "dataset to JSON for data.annotations, for training on features without "
    "the videos.",
  )
  parser.add_argument("what", choices=("annotations",))
  parser.add_argument(
    "file", help="the export, or the folder of the dataset's annotations"
  )
  parser.add_argument(
    "--from",
    dest="tool",
    required=True,
    choices=(*converting.TOOLS, *published.NAMES),
    metavar="TOOL_OR_DATASET",
    help=f"{', '.join(converting.TOOLS)}; {', '.join(published.NAMES)}",
  )
  parser.add_argument("--out", required=True, help="the JSON file to write")
  parser.add_argument(
    "--fps",
    type=float,
    help="frames per second, for exports that count frames",
  )
  parser.add_argument(
    "--video", help="name of the video, for exports that do not contain it"
  )
  parser.add_argument("--encoding", help="encoding of a table, e.g. cp1252")
  parser.add_argument(
    "--overwrite", action="store_true", help="replace the JSON file"
  )
  parser.set_defaults(run=_convert)


def _convert(args) -> dict:
  output.check_writable(args.out, overwrite=args.overwrite)
  if args.tool in published.NAMES:
    found = _published(args)
  else:
    found = converting.convert(
      args.file,
      tool=args.tool,
      fps=args.fps,
      video=args.video,
      encoding=args.encoding,
    )
  output.write_json(args.out, found.document, overwrite=args.overwrite)
  database = found.document["database"]
  num_segments = sum(len(video["annotations"]) for video in database.values())
  for note in found.notes:
    print(f"clap convert: {one_line(note)}", file=sys.stderr)
  for note in found.rejected[:_NUM_PRINTED]:
    line = one_line(converting.describe(note))
    print(f"clap convert: left out: {line}", file=sys.stderr)
  if found.rejected:
    print(
      f"clap convert: {len(found.rejected)} rows are left out",
      file=sys.stderr,
    )
  console.print(
    f"{len(database)} videos, {num_segments} segments, written to {args.out}"
  )
  return {
    "out": args.out,
    "videos": len(database),
    "segments": num_segments,
    "rejected": found.rejected,
    "notes": found.notes,
  }


def _published(args) -> converting.Converted:
  """Converts the annotations of a dataset; rejects options of exports."""
  given = [f"--{n}" for n in ("fps", "video", "encoding") if getattr(args, n)]
  if given:
    raise ValueError(
      f"{', '.join(given)}: only for --from {', '.join(converting.TOOLS)}"
    )
  return published.convert(args.file, args.tool)
