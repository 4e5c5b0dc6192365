"""`clap score`, `clap report` and `clap demo`: write metrics and pages."""

import rich.table
from etils import epy

from clap_jax.console import console
from clap_jax.metrics import score, video_classifier

with epy.lazy_imports():
  from clap_jax.report import score_page
  from clap_jax.studies import demo


def add_score(commands) -> None:
  parser = commands.add_parser(
    "score",
    help="score a prediction file under named protocols",
    description="Reads ActivityNet, OpenTAD, ActionFormer, Moment-DETR and "
    "other prediction files and prints the metrics with an evaluation card.",
  )
  parser.add_argument("predictions", help="prediction file")
  parser.add_argument(
    "--ground_truth", required=True, help="annotations in the dataset's format"
  )
  parser.add_argument(
    "--protocol",
    required=True,
    metavar="NAME[,NAME]",
    help=f"one or more of {', '.join(score.protocol_names())}",
  )
  parser.add_argument(
    "--subset", help="subset to score (default: the first protocol's)"
  )
  parser.add_argument(
    "--blocked_videos", help="JSON list of videos to leave out (detection)"
  )
  parser.add_argument(
    "--class_source",
    default="not stated",
    help="origin of the classes, printed on the card",
  )
  parser.add_argument(
    "--classifier",
    help="label the proposals with a video-level classifier: a JSON file of "
    "scores, or the .npy matrix of THUMOS14 (off by default)",
  )
  parser.add_argument(
    "--top_classes",
    type=int,
    default=2,
    help="number of the classifier's classes per video (default: 2)",
  )
  parser.add_argument(
    "--combination",
    default="product",
    choices=video_classifier.COMBINATIONS,
    help="how to combine the scores of proposal and classifier (default: "
    "product)",
  )
  parser.add_argument(
    "--html",
    metavar="PAGE",
    help="page to write: metrics, cards, diagnosis of the detections",
  )
  parser.set_defaults(run=_score, show=_show_score)


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


def _show_score(args, document: dict) -> None:
  del args
  for report in document.get("reports", [document]):
    table = rich.table.Table(
      "metric", "value", title=report["card"]["protocol"]
    )
    for name, value in report["metrics"].items():
      table.add_row(name, f"{value:.6f}")
    console.print(table)
    _print_card(report["card"])


def add_report(commands) -> None:
  parser = commands.add_parser(
    "report",
    help="write the report.html of a demo again",
    description="Writes WORKDIR/report.html again from the files in WORKDIR: "
    "results, curves, timelines of the validation videos, stages. Computes "
    "nothing: the same files give the same page.",
  )
  parser.add_argument("--workdir", required=True, help="workdir of `clap demo`")
  parser.set_defaults(run=_report)


def _report(args) -> dict:
  path = demo.write_report(args.workdir)
  console.print(f"report: {path}")
  return {"report": str(path)}


def add_demo(commands) -> None:
  parser = commands.add_parser(
    "demo",
    help="run every stage on the embedded dataset and write a report",
    description="Renders motion_sprites, packs it, pre-trains, extracts "
    "features, trains both heads, evaluates, predicts on an unseen video and "
    "writes WORKDIR/report.html. A second call resumes the first.",
  )
  parser.add_argument(
    "--workdir", default="workdir/demo", help="default: workdir/demo"
  )
  parser.add_argument(
    "--size",
    default="demo",
    choices=("tiny", "demo"),
    help="size of the dataset (default: demo)",
  )
  parser.add_argument(
    "--seeds", default="0", help="comma-separated (default: 0)"
  )
  parser.add_argument(
    "--encoders",
    default="random,tac,clap",
    help="encoders to compare (default: random,tac,clap)",
  )
  parser.set_defaults(run=_demo)


def _demo(args) -> dict:
  return demo.run(
    args.workdir,
    size=args.size,
    seeds=numbers(args.seeds),
    encoders=tuple(filter(None, args.encoders.split(","))),
  )


def numbers(text: str) -> tuple[int, ...]:
  """Parses the seeds of --seeds."""
  try:
    return tuple(int(seed) for seed in text.split(","))
  except ValueError:
    raise ValueError(
      f"--seeds: expected whole numbers like 0,1,2, got {text!r}."
    ) from None


def _print_card(card: dict) -> None:
  """Prints the evaluation card, one entry per line, without empty ones."""
  table = rich.table.Table("card", "", show_header=False)
  for name, value in card.items():
    if value not in ((), [], None, ""):
      text = ", ".join(map(str, value)) if isinstance(value, list) else value
      table.add_row(name.replace("_", " "), str(text))
  console.print(table)
