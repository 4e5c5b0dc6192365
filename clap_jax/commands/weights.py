"""`clap import` and `clap export`: convert weights."""

from etils import epy

from clap_jax.console import console
from clap_jax.interchange import source as source_lib
from clap_jax.interchange import wrappers

with epy.lazy_imports():
  from clap_jax.interchange import (
    export_weights,
    import_heads,
    import_weights,
  )


def add_import(commands) -> None:
  parser = commands.add_parser(
    "import",
    help="convert public weights, to start `clap train` from",
    description="Converts safetensors, PyTorch or NumPy weights to a directory "
    "for --config.start.imported. PyTorch is not needed and no code of a file "
    "is run. Every ignored key is listed with the reason; a key without a "
    "rule, or a parameter without a value, is an error.",
  )
  known = source_lib.FAMILIES | source_lib.HEAD_FAMILIES
  sources = "; ".join(f"{name}: {about}" for name, about in known.items())
  parser.add_argument(
    "path", metavar="weights", help="a file, or a Hugging Face directory"
  )
  parser.add_argument(
    "--source",
    required=True,
    choices=known,
    help=sources,
  )
  parser.add_argument("--out", required=True, help="directory to write")
  parser.add_argument(
    "--tokenizer", help="tokenizer.json, vocab.txt, or vocab.json"
  )
  defaults = source_lib.Options()
  parser.add_argument(
    "--num_frames",
    type=int,
    default=defaults.num_frames,
    help=f"frames per clip (default: {defaults.num_frames})",
  )
  parser.add_argument(
    "--tubelet_frames",
    type=int,
    default=defaults.tubelet_frames,
    help="frames per patch, over which weights of image patches are spread "
    f"(default: {defaults.tubelet_frames})",
  )
  parser.add_argument(
    "--max_text_length", type=int, help="maximum text length in tokens"
  )
  parser.add_argument(
    "--tower",
    choices=source_lib.TOWERS,
    default=defaults.tower,
    help=f"tower to import from a source with two (default: {defaults.tower})",
  )
  parser.add_argument(
    "--num_heads", type=int, help="attention heads, if not the source's default"
  )
  parser.add_argument(
    "--weights",
    choices=wrappers.WEIGHTS,
    help="weights to import if the file also has a moving average (default: "
    "the model's for encoders, the average for heads)",
  )
  parser.add_argument(
    "--config",
    metavar="FILE",
    help="training config of the head: ActionFormer's .yaml, Moment-DETR's "
    "opt.json (default: the one beside the weights)",
  )
  parser.add_argument(
    "--labels",
    metavar="FILE",
    help="class names in the head's order, one per line, or annotations "
    "(.json) with label_id",
  )
  parser.set_defaults(run=_import)


def _import(args) -> dict:
  is_head = args.source in source_lib.HEAD_FAMILIES
  given = [f"--{n}" for n in ("config", "labels") if getattr(args, n)]
  if given and not is_head:
    raise ValueError(
      f"{', '.join(given)}: only for {', '.join(source_lib.HEAD_FAMILIES)}."
    )
  if args.source == "actionformer" and not args.config:
    raise ValueError(
      f"--source {args.source} needs --config: the .yaml of the checkpoint's "
      "training."
    )
  return _import_head(args) if is_head else _import_encoder(args)


def _import_head(args) -> dict:
  if args.source == "moment_detr":
    if args.labels:
      raise ValueError("--labels: Moment-DETR takes sentences, not classes.")
    done = import_heads.import_moment_detr(
      args.path, options_file=args.config, out=args.out, choice=args.weights
    )
  else:
    done = import_heads.import_actionformer(
      args.path,
      config_file=args.config,
      out=args.out,
      labels=args.labels,
      choice=args.weights,
    )
  print_conversion(done)
  return _document(done) | {"label_names": list(done.label_names)}


def _import_encoder(args) -> dict:
  done = import_weights.import_weights(
    args.path,
    source=args.source,
    out=args.out,
    tokenizer=args.tokenizer,
    choice=args.weights or wrappers.MODEL,
    options=source_lib.Options(
      num_frames=args.num_frames,
      tubelet_frames=args.tubelet_frames,
      max_text_length=args.max_text_length,
      num_heads=args.num_heads,
      tower=args.tower,
    ),
  )
  print_conversion(done)
  return _document(done)


def print_conversion(done) -> None:
  """Prints the unused and missing keys of imported weights and the flags."""
  conversion = done.conversion
  for line in (f"read {done.file}", *done.unwrapped):
    console.print(line, highlight=False, soft_wrap=True, markup=False)
  for what, entries in (
    ("left out", conversion.left_out),
    ("not in the source", conversion.filled),
  ):
    for name, reason in entries.items():
      if reason.endswith(wrappers.TAKEN_INSTEAD):  # printed above
        continue
      console.print(
        f"{what}: {name} ({reason})",
        highlight=False,
        soft_wrap=True,
        markup=False,
      )
  console.print(
    f"{done.num_parameters:,} parameters written to {done.directory}"
  )
  console.print("to start from them: clap train ... \\", highlight=False)
  for flag in done.flags:
    console.print(f"  {flag} \\", highlight=False, soft_wrap=True)


def _document(done) -> dict:
  conversion = done.conversion
  return {
    "directory": str(done.directory),
    "num_parameters": done.num_parameters,
    "settings": done.settings,
    "left_out": conversion.left_out,
    "filled": conversion.filled,
    "unwrapped": list(done.unwrapped),
    "flags": list(done.flags),
  }


def add_export(commands) -> None:
  parser = commands.add_parser(
    "export",
    help="write a trained encoder for other programs",
    description="Writes safetensors with a manifest (config, hash of the "
    "tokenizer, revision, metrics) and both towers as StableHLO, reads them "
    "back and compares their outputs with the run's.",
  )
  parser.add_argument(
    "--model", required=True, help="workdir of a pretrain run"
  )
  parser.add_argument("--out", required=True, help="directory to write")
  parser.set_defaults(run=_export)


def _export(args) -> dict:
  document = export_weights.export(args.model, args.out)
  console.print(
    f"weights, manifest, tokenizer, {' and '.join(document['files'])} written "
    f"to {args.out}"
  )
  return document
