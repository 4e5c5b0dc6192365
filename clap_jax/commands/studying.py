"""`clap study`: compares encoders over seeds and datasets."""

import dataclasses

from etils import epy

from clap_jax.commands import reporting
from clap_jax.console import console

with epy.lazy_imports():
  from clap_jax import config as config_lib
  from clap_jax.commands import configs
  from clap_jax.report import metric_names
  from clap_jax.studies import jobs, settings, study

_CONFIGS = {
  "claim": "configs/study_claim.py:demo",
  "properties": "configs/study_claim.py:demo,properties",
  "recompute": "configs/study_claim.py:demo",
}


def add_study(commands) -> None:
  parser = commands.add_parser(
    "study",
    help="compare encoders over seeds: the paper's claim, or data properties",
    description="claim: compares encoders of equal budget on localization, "
    "few-shot localization, grounding and retrieval, with paired differences "
    "over seeds. properties: measures how the advantage changes with the share "
    "of background, the distractors, the number of classes and noise in the "
    "boundaries. Both write WORKDIR/results.json, results.csv, claims.csv, "
    "summary.csv and report.html, updated after each seed. A second call runs "
    "what is missing; failed runs are listed and the others continue. "
    "recompute: judges the config's claims from a results.csv alone and, with "
    "--workdir, writes the tables and the page.",
  )
  parser.add_argument("name", choices=list(_CONFIGS))
  parser.add_argument("csv", nargs="?", help="recompute: the results.csv")
  parser.add_argument(
    "--workdir", help="folder of the study; optional for recompute"
  )
  parser.add_argument(
    "--config", help="configs/FILE.py[:argument] (default: the study's own)"
  )
  parser.add_argument("--seeds", help="comma-separated (default: the config's)")
  parser.add_argument(
    "--rows", help="encoders to compare, comma-separated (default: all)"
  )
  parser.add_argument("--tasks", help="comma-separated (default: all)")
  parser.add_argument(
    "--parallel",
    type=int,
    default=1,
    help="number of simultaneous processes (default: 1)",
  )
  parser.add_argument(
    "--in_process",
    action="store_true",
    help="run everything in this process: faster for tiny runs, but a crash "
    "stops the study",
  )
  parser.set_defaults(run=_study)


def _study(args) -> dict:
  if (args.name == "recompute") != (args.csv is not None):
    raise ValueError(
      "recompute needs a results.csv; other studies take no file."
    )
  config = _config(args)
  if args.csv is not None:
    return _recompute(args, config)
  if not args.workdir:
    raise ValueError("--workdir is missing; give the folder of the study.")
  if args.parallel < 1:
    raise ValueError(f"--parallel: expected 1 or more, got {args.parallel}.")
  if args.in_process and args.parallel > 1:
    raise ValueError("--in_process runs one job at a time; omit --parallel.")
  document = study.run(
    config,
    workdir=args.workdir,
    read=lambda name: configs.read(name, []),
    runner=jobs.InThisProcess() if args.in_process else jobs.Processes(),
    parallel=args.parallel,
  )
  _print_claims(document["claims"])
  console.print(
    f"{document['made']} of {document['artifacts']} artifacts are finished; "
    f"see {args.workdir}/report.html"
  )
  return document | {"failed_runs": len(document["failed"])}


def _config(args) -> "settings.StudyConfig":
  """Returns the config, limited to the seeds, rows and tasks of the flags."""
  config = config_lib.resolve(
    settings.StudyConfig,
    configs.read(
      args.config or _CONFIGS[args.name],
      args.overrides,
      cls=settings.StudyConfig,
    ),
  )
  settings.check_names(config)
  if args.seeds:
    config = dataclasses.replace(config, seeds=reporting.numbers(args.seeds))
  if args.rows:
    config = settings.with_rows(
      config, tuple(filter(None, args.rows.split(",")))
    )
  if args.tasks:
    config = settings.with_tasks(
      config, tuple(filter(None, args.tasks.split(",")))
    )
  return config


def _recompute(args, config: "settings.StudyConfig") -> dict:
  judged = study.judge(study.read_rows(args.csv), config)
  if args.workdir:
    study.write_tables(args.workdir, judged, config)
  claims = [verdict.as_dict() for verdict in judged[1]]
  _print_claims(claims)
  return {"claims": claims}


def _print_claims(claims: list[dict]) -> None:
  """Prints each claim with its effect, interval, corrected p and verdict."""
  for claim in claims:
    effect, low, high = (
      metric_names.format_value(claim[key])
      for key in ("effect", "low_95", "high_95")
    )
    console.print(
      f"{claim['dataset']}: {claim['better']} > {claim['than']}, "
      f"{claim['task']}, {claim['metric']}: {effect} ({low} to {high}), "
      f"{claim['seeds']} seeds, corrected p {claim['holm_p']:.2g}: "
      f"{claim['verdict']}",
      soft_wrap=True,
      markup=False,
    )
