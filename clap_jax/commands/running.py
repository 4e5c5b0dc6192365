"""`clap train`, `eval`, `sweep` and `compile`: run configs."""

import pathlib

import rich.table
from etils import epy

from clap_jax.console import console

with epy.lazy_imports():
  from clap_jax.commands import configs
  from clap_jax.studies import artifacts, jobs, orchestrator, search, sweep
  from clap_jax.trainers import registry
  from clap_jax.training import processes


def add_train(commands) -> None:
  parser = commands.add_parser(
    "train",
    help="run the trainer that a config names",
    description="Trains or resumes the run in WORKDIR with the config's "
    "trainer: pre-training, localization, grounding or few-shot. "
    "--config.KEY=VALUE overrides any value, for example "
    "--config.loop.steps=100.",
  )
  parser.add_argument(
    "--config", required=True, help="configs/FILE.py[:argument]"
  )
  parser.add_argument("--workdir", required=True, help="folder of the run")
  group = parser.add_argument_group(
    "several processes", "start the same command in each process"
  )
  group.add_argument(
    "--distributed",
    action="store_true",
    help="find the other processes by the environment: TPU slices, Slurm, "
    "Open MPI",
  )
  group.add_argument("--coordinator", help="HOST:PORT of process 0")
  group.add_argument("--num_processes", type=int, help="number of processes")
  group.add_argument("--process_id", type=int, help="0, 1, ...")
  parser.add_argument(
    "--profiler_port",
    type=int,
    help="port from which TensorBoard captures profiles during the run; each "
    "further process of a Slurm node takes the next port. Any host on the "
    "network can connect, without authentication",
  )
  parser.set_defaults(run=_train)


def _train(args) -> dict:
  config = configs.read(args.config, args.overrides)
  connection = processes.connection(
    detect=args.distributed,
    coordinator=args.coordinator,
    num_processes=args.num_processes,
    process_id=args.process_id,
  )
  rows = registry.train(
    config,
    args.workdir,
    connection=connection,
    profiler_port=args.profiler_port,
  )
  if not processes.is_first():
    return {"rows": rows}
  table = rich.table.Table("task", "metric", "value")
  for row in rows:
    table.add_row(row["task"], row["metric"], _number(row["value"]))
  console.print(table)
  console.print(f"metrics, checkpoints and results are in {args.workdir}")
  return {"rows": rows}


def add_eval(commands) -> None:
  parser = commands.add_parser(
    "eval",
    help="evaluate a finished run again, on any split",
    description="Evaluates the last checkpoint of a `clap train` run and "
    "prints its metrics. Only settings of the evaluation may differ from the "
    "run: --config.data.eval_split=SPLIT, --config.decode.KEY=VALUE, "
    "--config.evaluation.KEY=VALUE (other episodes of a few-shot run), "
    "--config.classifier.path=FILE, --config.protocol=NAME",
  )
  parser.add_argument("--workdir", required=True, help="folder of the run")
  parser.add_argument("--split", help="default: the config's eval_split")
  parser.set_defaults(run=_eval)


def _eval(args) -> dict:
  config = configs.of_run(
    registry.config_of(args.workdir),
    args.overrides,
    changeable=registry.evaluation_keys(args.workdir),
  )
  rows = registry.evaluate(args.workdir, split=args.split, config=config)
  for row in rows:
    console.print(
      f"{row['task']}/{row['split']}/{row['metric']}: {_number(row['value'])}"
    )
  return {"rows": rows}


def _number(value: float | None) -> str:
  return "undefined" if value is None else f"{value:.4f}"


def add_sweep(commands) -> None:
  parser = commands.add_parser(
    "sweep",
    help="train every point of a config's sweep() or space()",
    description="Runs `clap train` once per override dict of the config's "
    "sweep(), each in WORKDIR/runs/NAME, and writes WORKDIR/summary.csv and "
    "summary.html. A second call resumes the first; a failed run is listed and "
    "the others continue. --config.KEY=VALUE is passed to all runs.",
  )
  parser.add_argument(
    "--config", required=True, help="configs/FILE.py[:argument]"
  )
  parser.add_argument("--workdir", required=True, help="folder of the sweep")
  parser.add_argument(
    "--parallel",
    type=int,
    default=1,
    help="number of simultaneous runs (default: 1)",
  )
  parser.add_argument(
    "--metric", help="metric to rank by (default: the first average)"
  )
  parser.add_argument(
    "--trials",
    type=int,
    help="number of runs of an Optuna search of the config's space(), instead "
    "of its sweep(); needs --metric",
  )
  parser.add_argument(
    "--seed", type=int, default=0, help="seed of the search (default: 0)"
  )
  parser.set_defaults(run=_sweep)


def _sweep(args) -> dict:
  module = configs.load_module(args.config.partition(":")[0])
  wanted = "sweep" if args.trials is None else "space"
  if not hasattr(module, wanted):
    raise ValueError(f"--config: {args.config} has no function {wanted}().")
  for flag, value in (("--parallel", args.parallel), ("--trials", args.trials)):
    if value is not None and value < 1:
      raise ValueError(f"{flag}: expected 1 or more, got {value}.")
  store = artifacts.ArtifactStore(pathlib.Path(args.workdir))
  runner, pruned = jobs.Processes(), []

  def resolve(overrides):
    flags = args.overrides + sweep.flags(overrides)
    return registry.resolve(configs.read(args.config, flags))

  if args.trials is None:
    runs = sweep.plan(module.sweep(), store, resolve=resolve)
    steps = [[run.job for run in runs]]
    orchestrator.run(steps, store, runner, parallel=args.parallel)
  else:
    if not args.metric:
      raise ValueError("--trials needs --metric, such as average_map.")
    resolve({})
    runs, pruned = search.search(
      module.space(),
      runner,
      store,
      resolve=resolve,
      num_trials=args.trials,
      parallel=args.parallel,
      metric=args.metric,
      seed=args.seed,
    )
  table = sweep.summarize(
    runs,
    store,
    metric=args.metric,
    title=f"Sweep of {args.config}",
    pruned=pruned,
  )
  for entry in table.unfinished:
    console.print(f"{entry.name}: {entry.outcome} {entry.reason}", markup=False)
  console.print(
    f"{len(runs) - len(table.unfinished)} of {len(runs)} runs are done; see "
    f"{args.workdir}/summary.html"
  )
  return sweep.document(table)


def add_compile(commands) -> None:
  parser = commands.add_parser(
    "compile",
    help="compile a config's train step for a TPU slice, without a TPU",
    description="Compiles the train step with the TPU compiler (package "
    "libtpu; no TPU is needed) and reports the memory per chip, the "
    "collectives, the operations and a lower bound of the step time. "
    "--config.KEY=VALUE overrides values as in `clap train`.",
  )
  parser.add_argument(
    "--config", required=True, help="configs/FILE.py[:argument]"
  )
  parser.add_argument(
    "--topology",
    help="v5e:2x2, v5e:16x16, v4:2x2x1, v5p:2x2x2, tpu7x:2x2x2 (its chips are "
    "two devices each), 2xv5e:4x4 for two slices, or smallest: the first v5e "
    "slice that the step fits (default: the config's own)",
  )
  parser.add_argument(
    "--facts",
    default="",
    help="assumed sizes of the data, like vocab_size=512,num_classes=20",
  )
  parser.set_defaults(run=_compile)


def _compile(args) -> dict:
  config = configs.read(args.config, args.overrides)
  topology = args.topology or configs.named_slice(args.config)
  if topology == "smallest":
    document = registry.compile_for_smallest(config, facts=args.facts)
  else:
    document = registry.compile_ahead(
      config, topology=topology, facts=args.facts
    )
  _print_compiled(document)
  return document


def _print_compiled(document: dict) -> None:
  """Prints the result of `compile_ahead` as a table."""
  mib = 2**20
  table = rich.table.Table(document["topology"], "", show_header=True)
  mesh = ", ".join(f"{k} {v}" for k, v in document["mesh"].items())
  over = document["missing_bytes_per_chip"]
  verdict = "yes" if document["fits"] else f"no, by {over / mib:,.1f} MiB"
  table.add_row("mesh", mesh)
  table.add_row("batch", f"{document['batch_size']:,} over all chips")
  table.add_row("parameters", f"{document['num_parameters']:,}")
  table.add_row("fits", verdict)
  for name in ("peak", "state", "limit"):
    value = document[f"{name}_bytes_per_chip"] / mib
    table.add_row(f"{name} per chip", f"{value:,.1f} MiB")
  for over, group in document["split_parameters"].items():
    table.add_row(
      f"{over}: {group['arrays']} parameters",
      f"{group['bytes_per_chip'] / mib:,.1f} MiB per chip, the largest "
      f"{group['largest']} {group['shape']} as ({', '.join(group['axes'])})",
    )
  for array in document["largest_replicated"][:3]:
    if array["bytes"] >= mib:
      table.add_row(
        "whole on every chip",
        f"{array['path']}, {array['bytes'] / mib:,.1f} MiB",
      )
  for row in document["collectives"]:
    table.add_row(
      f"{row['kind']} x {row['calls']} ({row['network'].upper()})",
      f"{row['sent_bytes'] / mib:,.1f} MiB out of a device, groups of "
      f"{row['group_size']}",
    )
  table.add_row("operations", f"{document['flops_per_step']:.3e} per step")
  if document["roofline_step_sec"] is not None:
    table.add_row(
      "lower bound of a step",
      f"{1e3 * document['roofline_step_sec']:.2f} ms, by "
      f"{document['roofline_bound']}",
    )
  console.print(table)
  if document["reason"]:
    console.print(document["reason"])
