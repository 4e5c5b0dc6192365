"""The console script `clap`: subcommands and flags, nothing else.

Exit codes: 0 success, 2 bad input or usage, 3 a failed run.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import sys
import traceback

# Lines of compiled libraries would bury the ones that matter.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import ml_collections
import rich.table
from absl import flags
from ml_collections import config_flags

from clap_jax import config as config_lib
from clap_jax import demo, stages, study, sweep
from clap_jax.commands import searching, sensing
from clap_jax.data import query_annotations, records, verification
from clap_jax.inference import encoder, export, extract, predict, texts
from clap_jax.interchange import export_weights, import_weights
from clap_jax.interchange import source as source_lib
from clap_jax.metrics import score, video_classifier
from clap_jax.report import score_page
from clap_jax.trainers import results
from clap_jax.training import preemption, processes, workdir
from tfds_builders import build, transcoding

# What the caller can mend: exit code 2 and a message, no traceback.
_BAD_INPUT = (
  ValueError,
  FileNotFoundError,
  FileExistsError,
  IsADirectoryError,
  NotADirectoryError,
  PermissionError,
  workdir.WorkdirBusyError,
)

console = stages.console


def _add_build(commands) -> None:
  parser = commands.add_parser(
    "build",
    help="pack videos and annotations into sharded TFRecords",
    description="Packs a dataset into DATA_DIR/NAME/VERSION: TFRecord shards, "
    "their index and a manifest.json per split that lists what is missing or "
    "broken. Nothing is downloaded.",
  )
  parser.add_argument("name", help=f"one of {', '.join(build.NAMES)}")
  parser.add_argument("--data_dir", required=True, help="where datasets lie")
  parser.add_argument(
    "--manual_dir", help="videos and annotation files you put there by hand"
  )
  parser.add_argument("--videos", help="folder of videos")
  parser.add_argument(
    "--annotations", help="annotation file, or folder of them"
  )
  parser.add_argument("--subset", type=int, help="videos per split, at most")
  parser.add_argument(
    "--selection_percent",
    type=int,
    default=0,
    help="of train's videos, to a split `selection` of their own",
  )
  parser.add_argument("--store", default="h264", choices=transcoding.STORES)
  parser.add_argument("--short_side", type=int, help="px of the stored video")
  parser.add_argument("--fps", type=float, help="of the stored video, at most")
  parser.add_argument(
    "--crf", type=int, help="of x264: 0 to 51, less is better and larger"
  )
  parser.add_argument("--workers", type=int, help="shards at a time")
  parser.add_argument("--runner", default="threads", choices=build.RUNNERS)
  parser.add_argument(
    "--runner_option",
    action="append",
    default=[],
    help="option of Beam's pipeline, e.g. --runner_option=--runner=FlinkRunner",
  )
  parser.add_argument("--overwrite", action="store_true")
  parser.set_defaults(run=_build)


def _build(args) -> dict:
  with stages.Progress(f"build {args.name}") as progress:
    report = build.build(
      args.name,
      data_dir=args.data_dir,
      manual_dir=args.manual_dir,
      videos=args.videos,
      annotations=args.annotations,
      subset=args.subset,
      selection_percent=args.selection_percent,
      limits=_store_limits(args),
      workers=args.workers,
      runner=args.runner,
      runner_options=tuple(args.runner_option),
      overwrite=args.overwrite,
      on_progress=lambda _, done, total: progress(done, total),
    )
  for split, manifest in report["manifests"].items():
    console.print(
      f"{split}: {manifest['present']} videos, {manifest['segments']} segments,"
      f" {manifest['captions']} captions; {len(manifest['missing'])} missing, "
      f"{len(manifest['corrupt'])} corrupt"
    )
  console.print(f"written to {report['directory']}, as {report['name']}")
  return report


def _store_limits(args) -> transcoding.StoreLimits:
  given = {
    "short_side_px": args.short_side,
    "max_fps": args.fps,
    "crf": args.crf,
  }
  given = {key: value for key, value in given.items() if value is not None}
  return transcoding.StoreLimits(store=args.store, **given)


def _add_data(commands) -> None:
  parser = commands.add_parser(
    "data",
    help="look at a built dataset, or check it",
    description="`inspect` counts what a dataset holds and writes a page with "
    "sample videos on time lines; `verify` checks every hash, checksum, record "
    "and count, and exits with 2 if anything is wrong.",
  )
  parser.add_argument("action", choices=("inspect", "verify"))
  parser.add_argument("name", help="dataset name")
  parser.add_argument("--data_dir", default="data")
  parser.add_argument("--out", help="page to write; default: NAME.html")
  parser.add_argument("--videos", type=int, default=6, help="per split")
  parser.add_argument(
    "--decode", action="store_true", help="verify: decode every video too"
  )
  parser.set_defaults(run=_data)


def _data(args) -> dict:
  dataset = records.open_dataset(args.data_dir, args.name)
  with stages.Progress(f"{args.action} {args.name}") as progress:
    if args.action == "verify":
      found = verification.verify(
        dataset, decode=args.decode, on_progress=progress
      )
    else:
      out = args.out or f"{args.name.replace('/', '-')}.html"
      numbers = stages.inspect_dataset(
        dataset, out=out, num_videos=args.videos, on_progress=progress
      )
  if args.action == "inspect":
    for split, facts in numbers.items():
      console.print(
        f"{split}: {facts['videos']} videos, {facts['hours']:.2f} h, "
        f"{facts['segments']} segments of {facts['classes']} classes, "
        f"{facts['captions']} captions; {facts['missing']} missing, "
        f"{facts['corrupt']} corrupt"
      )
    console.print(f"written to {out}")
    return {"page": str(out), "splits": numbers}
  console.print(
    f"{found.num_files} files, {found.num_records} records, "
    f"{found.num_bytes} bytes: "
    + (f"{len(found.problems)} problems" if found.problems else "all good")
  )
  for problem in found.problems:
    print(f"clap data verify: {problem}", file=sys.stderr)
  return found.to_dict()


def _add_tokenizer(commands) -> None:
  parser = commands.add_parser(
    "tokenizer",
    help="train a SentencePiece model on the captions of a split",
    description="Trains a SentencePiece unigram model on the captions of one "
    "split and on the class names.",
  )
  parser.add_argument("--data", required=True, help="dataset name")
  parser.add_argument("--data_dir", required=True)
  parser.add_argument("--split", default="train")
  parser.add_argument("--vocab_size", type=int, default=512)
  parser.add_argument("--out", required=True, help="model file to write")
  parser.add_argument("--overwrite", action="store_true")
  parser.set_defaults(run=_tokenizer)


def _tokenizer(args) -> dict:
  dataset = records.open_dataset(args.data_dir, args.data)
  trained = stages.train_tokenizer(
    dataset,
    out=args.out,
    split=args.split,
    vocab_size=args.vocab_size,
    overwrite=args.overwrite,
  )
  console.print(f"{trained.vocab_size} pieces, written to {args.out}")
  return {"vocab_size": trained.vocab_size, "sha256": trained.hash}


def _add_import(commands) -> None:
  parser = commands.add_parser(
    "import",
    help="convert public weights for `clap train` to start from",
    description="Converts safetensors, PyTorch or NumPy weights to a directory "
    "for --config.start.imported. PyTorch is not needed and nothing in a file "
    "is run. Every key that is left out is listed with the reason; a key "
    "without a rule, or a parameter without a value, is an error.",
  )
  sources = "; ".join(
    f"{name}: {source.about}" for name, source in import_weights.SOURCES.items()
  )
  parser.add_argument("weights", help="a file, or a Hugging Face directory")
  parser.add_argument(
    "--source",
    required=True,
    choices=import_weights.SOURCES,
    help=sources,
  )
  parser.add_argument("--out", required=True, help="directory to write")
  parser.add_argument(
    "--tokenizer", help="tokenizer.json, vocab.txt, or vocab.json"
  )
  defaults = source_lib.Options()
  parser.add_argument("--num_frames", type=int, default=defaults.num_frames)
  parser.add_argument(
    "--tubelet_frames",
    type=int,
    default=defaults.tubelet_frames,
    help="frames that patch weights for images are spread over",
  )
  parser.add_argument("--max_text_length", type=int, help="tokens")
  parser.add_argument("--num_heads", type=int)
  parser.set_defaults(run=_import)


def _import(args) -> dict:
  done = import_weights.import_weights(
    args.weights,
    source=args.source,
    out=args.out,
    tokenizer=args.tokenizer,
    options=source_lib.Options(
      num_frames=args.num_frames,
      tubelet_frames=args.tubelet_frames,
      max_text_length=args.max_text_length,
      num_heads=args.num_heads,
    ),
  )
  conversion = done.conversion
  for what, entries in (
    ("left out", conversion.left_out),
    ("not in the source", conversion.filled),
  ):
    for name, reason in entries.items():
      console.print(
        f"{what}: {name} ({reason})", highlight=False, soft_wrap=True
      )
  console.print(f"{done.num_parameters:,} parameters lie in {done.directory}")
  console.print("to start from them: clap train ... \\", highlight=False)
  for flag in done.flags:
    console.print(f"  {flag} \\", highlight=False, soft_wrap=True)
  return {
    "directory": str(done.directory),
    "num_parameters": done.num_parameters,
    "settings": done.settings,
    "left_out": conversion.left_out,
    "filled": conversion.filled,
    "flags": list(done.flags),
  }


def _add_train(commands) -> None:
  parser = commands.add_parser(
    "train",
    help="run the trainer that a config names",
    description="Trains, or continues, the run in WORKDIR: pretrain, "
    "localization or grounding, as the config says. Any value is overridden by "
    "--config.KEY=VALUE, for example --config.loop.steps=100.",
  )
  parser.add_argument(
    "--config", required=True, help="configs/FILE.py[:argument]"
  )
  parser.add_argument("--workdir", required=True)
  group = parser.add_argument_group(
    "several processes", "the same command in each of them"
  )
  group.add_argument(
    "--distributed",
    action="store_true",
    help="find the others by the environment: TPU slices, Slurm, Open MPI",
  )
  group.add_argument("--coordinator", help="HOST:PORT of process 0")
  group.add_argument("--num_processes", type=int)
  group.add_argument("--process_id", type=int, help="0, 1, ...")
  parser.set_defaults(run=_train)


def _train(args) -> dict:
  connection = processes.connection(
    detect=args.distributed,
    coordinator=args.coordinator,
    num_processes=args.num_processes,
    process_id=args.process_id,
  )
  config = _read_config(args.config, args.overrides)
  rows = stages.train(config, args.workdir, connection=connection)
  if not processes.is_first():
    return {"rows": rows}
  table = rich.table.Table("task", "metric", "value")
  for row in rows:
    table.add_row(row["task"], row["metric"], _number(row["value"]))
  console.print(table)
  console.print(f"metrics, checkpoints and results lie in {args.workdir}")
  return {"rows": rows}


def _number(value: float | None) -> str:
  return "undefined" if value is None else f"{value:.4f}"


def _read_config(name: str, overrides: list[str]):
  """The ConfigDict of a file with overrides, by ml_collections' own rules."""
  config = _load_config(name)
  config_lib.add_engine_defaults(config)
  for override in overrides:
    _check_key(config, override)
  values = flags.FlagValues()
  arguments = ["clap", *overrides]
  try:
    # Which keys are overridden is read from `sys_argv`, by default sys.argv.
    config_flags.DEFINE_config_dict(
      "config", config, flag_values=values, sys_argv=arguments
    )
    values(arguments)
  except (flags.Error, KeyError, AttributeError, TypeError) as error:
    raise ValueError(f"--config: {error}") from error
  return values.config


def _check_key(config: ml_collections.ConfigDict, override: str) -> None:
  """Raises a ValueError if "--config.a.b=..." names no key of the config."""
  flag = override.partition("=")[0]
  section = config
  for key in flag.split(".")[1:]:
    if not isinstance(section, ml_collections.ConfigDict) or (
      key not in section
    ):
      known = (
        f"choose from {', '.join(sorted(section))}"
        if isinstance(section, ml_collections.ConfigDict)
        else "what stands before it is a value"
      )
      raise ValueError(f"{flag}: there is no key {key!r}; {known}.")
    section = section[key]


def _load_config(name: str) -> ml_collections.ConfigDict:
  """What `get_config` of FILE.py[:argument] returns."""
  file, colon, argument = name.partition(":")
  module = _load_module(file)
  if not hasattr(module, "get_config"):
    raise ValueError(f"--config: {file} has no function get_config(arg='').")
  config = module.get_config(*[argument] if colon else [])
  if not isinstance(config, ml_collections.ConfigDict):
    raise ValueError(
      f"--config: get_config of {file} returned {type(config).__name__}, "
      "expected an ml_collections.ConfigDict."
    )
  return config


def _load_module(file: str):
  """The Python module of a config file."""
  path = pathlib.Path(file)
  if not path.is_file() or path.suffix != ".py":
    raise FileNotFoundError(
      f"--config: {file} is no Python file; give configs/FILE.py[:argument]."
    )
  spec = importlib.util.spec_from_file_location("clap_config", path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except SyntaxError as error:
    raise ValueError(f"--config: {error}") from error
  return module


def _add_sweep(commands) -> None:
  parser = commands.add_parser(
    "sweep",
    help="run every point that the sweep() of a config yields",
    description="Runs `clap train` once per override dict of the config's "
    "sweep(), each in WORKDIR/runs/NAME, and writes WORKDIR/summary.csv and "
    "summary.html. A second call goes on where the first stopped; a run that "
    "fails is listed and the others go on. --config.KEY=VALUE is passed on to "
    "all runs.",
  )
  parser.add_argument(
    "--config", required=True, help="configs/FILE.py[:argument]"
  )
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
  parser.add_argument("--metric", help="to rank by; default: the first average")
  parser.add_argument(
    "--trials",
    type=int,
    help="search the config's space() instead, with Optuna: so many runs",
  )
  parser.add_argument("--seed", type=int, default=0, help="of the search")
  parser.set_defaults(run=_sweep)


def _sweep(args) -> dict:
  module = _load_module(args.config.partition(":")[0])
  wanted = "sweep" if args.trials is None else "space"
  if not hasattr(module, wanted):
    raise ValueError(f"--config: {args.config} has no function {wanted}().")
  for flag, value in (("--parallel", args.parallel), ("--trials", args.trials)):
    if value is not None and value < 1:
      raise ValueError(f"{flag}: expected 1 or more, got {value}.")
  runner = sweep.Runner(args.config, extra=args.overrides)
  if args.trials is None:
    runs = sweep.plan(list(module.sweep()), args.workdir)
    for run in runs:  # a wrong key or value is found before the first run
      flags_of_run = args.overrides + sweep.flags(run.overrides)
      stages.check(_read_config(args.config, flags_of_run))
    with sweep.stopped_by_signals(runner), stages.Progress("sweep") as progress:
      outcomes = sweep.run_all(
        runs, runner, parallel=args.parallel, on_progress=progress
      )
  else:
    if not args.metric:
      raise ValueError("--trials needs --metric, such as average_map.")
    stages.check(_read_config(args.config, args.overrides))
    with sweep.stopped_by_signals(runner):
      runs, outcomes = study.search(
        module.space(),
        runner,
        workdir=args.workdir,
        num_trials=args.trials,
        parallel=args.parallel,
        metric=args.metric,
        seed=args.seed,
      )
  table = sweep.summarize(
    runs,
    outcomes,
    args.workdir,
    metric=args.metric,
    title=f"Sweep of {args.config}",
  )
  for entry in table.unfinished:
    console.print(f"{entry.name}: {entry.outcome} {entry.reason}", markup=False)
  console.print(
    f"{len(runs) - len(table.unfinished)} of {len(runs)} runs are done; see "
    f"{args.workdir}/summary.html"
  )
  return sweep.document(table)


def _add_compile(commands) -> None:
  parser = commands.add_parser(
    "compile",
    help="compile a config's train step for TPU chips that are not here",
    description="Compiles the train step with the TPU compiler (package "
    "libtpu; no TPU is needed) and reports the memory per chip, the "
    "collectives, the operations and a lower bound of the time of a step. "
    "Values are overridden as for `clap train`.",
  )
  parser.add_argument(
    "--config", required=True, help="configs/FILE.py[:argument]"
  )
  parser.add_argument(
    "--topology", required=True, help="v5e:2x2, v5e:16x16, v6e:4x4, v5p:2x2x2"
  )
  parser.add_argument(
    "--facts",
    default="",
    help="what the data would say, like vocab_size=512,num_classes=20",
  )
  parser.set_defaults(run=_compile)


def _compile(args) -> dict:
  config = _read_config(args.config, args.overrides)
  document = stages.compile_ahead(
    config, topology=args.topology, facts=args.facts
  )
  stages.print_compiled(document)
  return document


def _add_extract(commands) -> None:
  parser = commands.add_parser(
    "extract",
    help="write dense clip features of every video of a dataset",
    description="Encodes clips at a fixed stride with the frozen video tower: "
    "one .npz per video with features (T, D), start_sec, stride_sec, clip_sec.",
  )
  parser.add_argument(
    "--model", required=True, help="workdir of a pretrain run"
  )
  parser.add_argument("--data", required=True, help="dataset name")
  parser.add_argument("--data_dir", default="data")
  parser.add_argument("--split", action="append", help="default: all splits")
  parser.add_argument("--stride_sec", type=float, default=0.5)
  parser.add_argument("--out", required=True)
  parser.add_argument("--overwrite", action="store_true")
  parser.set_defaults(run=_extract)


def _extract(args) -> dict:
  with stages.Progress("extract") as progress:
    done = extract.extract(
      encoder.load_encoder(args.model),
      records.open_dataset(args.data_dir, args.data),
      out=args.out,
      stride_sec=args.stride_sec,
      splits=tuple(args.split) if args.split else None,
      overwrite=args.overwrite,
      on_progress=progress,
    )
  console.print(
    f"{len(done.written)} videos written, {len(done.kept)} kept, "
    f"{len(done.failed)} failed; features lie in {done.directory}"
  )
  return {
    "written": len(done.written),
    "kept": len(done.kept),
    "failed": list(done.failed),
  }


def _add_texts(commands) -> None:
  parser = commands.add_parser(
    "texts",
    help="encode the sentences of annotation files with the text tower",
    description="Writes the token vectors of every sentence of the files, for "
    "grounding on features of others. Called again, it adds what is missing.",
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


def _add_export(commands) -> None:
  parser = commands.add_parser(
    "export",
    help="write a trained encoder for other programs",
    description="Writes safetensors with a manifest (config, tokenizer's hash, "
    "revision, metrics) and both towers as StableHLO, reads them back and "
    "compares their outputs with the run's.",
  )
  parser.add_argument(
    "--model", required=True, help="workdir of a pretrain run"
  )
  parser.add_argument("--out", required=True, help="directory to write")
  parser.set_defaults(run=_export)


def _export(args) -> dict:
  facts = export_weights.export(args.model, args.out)
  console.print(
    f"weights, manifest, tokenizer, {' and '.join(facts['files'])} lie in "
    f"{args.out}"
  )
  return facts


def _add_eval(commands) -> None:
  parser = commands.add_parser(
    "eval",
    help="evaluate a finished run again, on any split",
    description="Evaluates the last checkpoint of a `clap train` run and "
    "prints its metrics with their evaluation card.",
  )
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--split", help="default: the config's eval_split")
  parser.set_defaults(run=_eval)


def _eval(args) -> dict:
  rows = stages.evaluate(args.workdir, split=args.split)
  for row in rows:
    console.print(
      f"{row['task']}/{row['split']}/{row['metric']}: {_number(row['value'])}"
    )
  return {"rows": rows}


def _add_predict(commands) -> None:
  parser = commands.add_parser(
    "predict",
    help="find moments in your own videos",
    description="Finds actions by class, the moments that a text describes, or "
    "actions like those of a few examples. DIR of --support holds either one "
    "folder of trimmed clips per class, DIR/CLASS/*.mp4, or untrimmed videos "
    "and DIR/segments.csv with the columns video,start,end,label (seconds). "
    "Without a few-shot head the nearest prototype of the encoder's features "
    "is taken; the result says which.",
  )
  parser.add_argument("videos", nargs="+", metavar="VIDEO")
  parser.add_argument("--model", required=True, help="a model directory")
  parser.add_argument("--labels", help="file of class names, one per line")
  parser.add_argument("--query", action="append", default=[], metavar="TEXT")
  parser.add_argument("--support", metavar="DIR", help="examples by class")
  parser.add_argument("--max_predictions", type=int, default=20)
  parser.add_argument(
    "--export",
    metavar="DIR",
    help="also write CSV, SRT, VTT, ActivityNet and QVHighlights files and a "
    "page per video that plays a moment at a click",
  )
  parser.add_argument("--overwrite", action="store_true", help="of the export")
  parser.set_defaults(run=_predict)


def _predict(args) -> dict:
  labels = None
  if args.labels:
    text = pathlib.Path(args.labels).read_text(encoding="utf-8")
    labels = [line.strip() for line in text.splitlines() if line.strip()]
  with stages.Progress("predict") as progress:
    document = predict.predict(
      predict.load_model(args.model),
      args.videos,
      labels=labels,
      queries=args.query,
      support_dir=args.support,
      max_predictions=args.max_predictions,
      on_progress=progress,
    )
  for video in document["videos"]:
    table = rich.table.Table(
      "start", "end", "score", "what", title=video["video"]
    )
    for entry in video["predictions"][:10]:
      table.add_row(
        f"{entry['start_sec']:.2f}",
        f"{entry['end_sec']:.2f}",
        f"{entry['score']:.3f}",
        entry.get("label") or entry.get("query"),
      )
    console.print(table)
  for entry in document["failed"]:
    console.print(f"failed: {entry['video']}: {entry['reason']}")
  if args.export:
    for path in export.write(document, args.export, overwrite=args.overwrite):
      console.print(f"written: {path}")
  return document


def _add_score(commands) -> None:
  parser = commands.add_parser(
    "score",
    help="score a prediction file under named protocols",
    description="Reads ActivityNet, OpenTAD, ActionFormer, Moment-DETR and "
    "other prediction files and prints the metrics with an evaluation card.",
  )
  parser.add_argument("predictions")
  parser.add_argument("--ground_truth", required=True)
  parser.add_argument(
    "--protocol",
    required=True,
    metavar="NAME[,NAME]",
    help=f"of {', '.join(score.protocol_names())}",
  )
  parser.add_argument("--subset", help="default: the first protocol's own")
  parser.add_argument(
    "--blocked_videos", help="JSON list of videos to leave out (detection)"
  )
  parser.add_argument(
    "--class_source",
    default="not stated",
    help="where the classes come from, for the card",
  )
  parser.add_argument(
    "--classifier",
    help="label the proposals by a video-level classifier: a JSON file of "
    "scores, or the .npy matrix of THUMOS14 (off by default)",
  )
  parser.add_argument("--top_classes", type=int, default=2, help="of it")
  parser.add_argument(
    "--combination",
    default="product",
    choices=video_classifier.COMBINATIONS,
    help="of the proposal's and the classifier's score",
  )
  parser.add_argument(
    "--html", help="write a page: numbers, cards, diagnosis of the detections"
  )
  parser.set_defaults(run=_score)


def _score(args) -> dict:
  classifier = None
  if args.classifier:
    classifier = score.Classifier(
      args.classifier, args.top_classes, args.combination
    )
  reports = score.score(
    args.predictions,
    ground_truth_path=args.ground_truth,
    protocols=args.protocol.split(","),
    subset=args.subset,
    blocked_videos_path=args.blocked_videos,
    class_source=args.class_source,
    classifier=classifier,
  )
  for report in reports:
    table = rich.table.Table(
      "metric", "value", title=report["card"]["protocol"]
    )
    for name, value in report["metrics"].items():
      table.add_row(name, f"{value:.6f}")
    console.print(table)
    stages.print_card(report["card"])
  if args.html:
    score_page.write(
      args.html,
      reports,
      predictions_path=args.predictions,
      ground_truth_path=args.ground_truth,
      subset=args.subset,
      blocked_videos_path=args.blocked_videos,
      classifier=classifier,
    )
  return reports[0] if len(reports) == 1 else {"reports": reports}


def _add_report(commands) -> None:
  parser = commands.add_parser(
    "report",
    help="write report.html for the workdir of a demo",
    description="Writes DIR/report.html again from the files in DIR: results, "
    "curves, timelines of the validation videos, stages. Nothing is computed, "
    "so that the same files give the same page.",
  )
  parser.add_argument("--workdir", required=True, help="of a `clap demo`")
  parser.set_defaults(run=_report)


def _report(args) -> dict:
  path = demo.report(args.workdir)
  console.print(f"report: {path}")
  return {"report": str(path)}


def _add_demo(commands) -> None:
  parser = commands.add_parser(
    "demo",
    help="the whole path on the embedded dataset, with a report",
    description="Renders motion_sprites, packs it, pre-trains, extracts "
    "features, trains both heads, evaluates, predicts on an unseen video and "
    "writes DIR/report.html. A second call goes on where the first stopped.",
  )
  parser.add_argument("--workdir", default="workdir/demo")
  parser.add_argument("--size", default="demo", choices=("tiny", "demo"))
  parser.add_argument("--seeds", default="0", help="comma-separated")
  parser.add_argument(
    "--encoders", default="random,tac,clap", help="rows of the comparison"
  )
  parser.set_defaults(run=_demo)


def _demo(args) -> dict:
  return demo.run(
    args.workdir,
    size=args.size,
    seeds=_seeds(args.seeds),
    encoders=tuple(filter(None, args.encoders.split(","))),
  )


def _seeds(text: str) -> tuple[int, ...]:
  try:
    return tuple(int(seed) for seed in text.split(","))
  except ValueError:
    raise ValueError(
      f"--seeds: expected whole numbers like 0,1,2, got {text!r}."
    ) from None


def parse(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(prog="clap", description=__doc__)
  commands = parser.add_subparsers(dest="command", required=True)
  for add in (
    _add_build,
    _add_data,
    _add_tokenizer,
    _add_import,
    _add_train,
    _add_sweep,
    _add_compile,
    _add_extract,
    _add_texts,
    _add_export,
    sensing.add_sensors,
    _add_eval,
    _add_predict,
    searching.add_index,
    searching.add_search,
    searching.add_serve,
    _add_score,
    _add_report,
    _add_demo,
  ):
    add(commands)
  for command in commands.choices.values():
    command.add_argument("--json", help="write the result to this file as JSON")
  args, rest = parser.parse_known_args(argv)
  wrong = [item for item in rest if not item.startswith("--config.")]
  if wrong or (rest and args.command not in ("train", "sweep", "compile")):
    parser.error(f"unknown arguments: {' '.join(wrong or rest)}")
  args.overrides = rest
  return args


def main(argv: list[str] | None = None) -> int:
  args = parse(sys.argv[1:] if argv is None else argv)
  try:
    for name in ("json", "html"):  # found out before the work, not after it
      if getattr(args, name, None):
        _check_writable(pathlib.Path(getattr(args, name)), f"--{name}")
    document = args.run(args)
    failed = document.pop("failed_runs", 0)
    if args.json and processes.is_first():
      text = json.dumps(results.without_nan(document), indent=1)
      pathlib.Path(args.json).write_text(text + "\n", encoding="utf-8")
    processes.finish()
    if args.command == "data" and document.get("problems"):
      return 2  # the dataset is the bad input; the problems are printed
  except preemption.Preempted:
    processes.finish()
    raise
  except _BAD_INPUT as error:
    print(f"clap {args.command}: {error}", file=sys.stderr)
    return processes.fail(2, str(error))
  except Exception as error:  # the last resort: show and say 3
    traceback.print_exc()
    return processes.fail(3, f"{type(error).__name__}: {error}")
  return 3 if failed else 0


def _check_writable(path: pathlib.Path, flag: str) -> None:
  if path.is_dir() or not path.parent.is_dir():
    raise FileNotFoundError(
      f"{flag}: cannot write {path}: give a file in a folder that is there."
    )


if __name__ == "__main__":
  sys.exit(main())
