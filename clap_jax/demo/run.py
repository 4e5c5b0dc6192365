"""Runs every stage on the embedded dataset and writes one report."""

import pathlib

from clap_jax.console import Progress, console
from clap_jax.data import records, tokenizer
from clap_jax.demo import layout as layout_lib
from clap_jax.demo import report as demo_report
from clap_jax.evaluation import results
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import extract, model_directory, predict
from clap_jax.storage import output
from clap_jax.trainers import registry
from clap_jax.training import compilation
from configs import grounding_sprites, localization_sprites, pretrain_sprites
from configs.parts import pretraining
from tfds_builders import build
from tfds_builders.motion_sprites import render, sizes

STRIDE_SEC = 0.5
VOCAB_SIZE = 512


def run(
  workdir: str | pathlib.Path,
  *,
  size: str = "demo",
  seeds: tuple[int, ...] = (0,),
  encoders: tuple[str, ...] = ("random", "tac", "clap"),
) -> dict:
  """Runs every stage that is not finished yet; returns results.json.

  Raises:
    ValueError: for an unknown encoder, with the choices; for no encoder or no
      seed; for the workdir of a demo of another size.
  """
  unknown = sorted(set(encoders) - set(pretraining.ENCODERS))
  if unknown or not encoders:
    raise ValueError(
      f"encoders: got {unknown or 'none'}; choose from "
      f"{', '.join(pretraining.ENCODERS)}."
    )
  if not seeds or min(seeds) < 0:
    raise ValueError(f"seeds: got {seeds}; give at least one, none below 0.")
  layout = layout_lib.Layout(pathlib.Path(workdir), size)
  _check_size(layout)
  layout.data.mkdir(parents=True, exist_ok=True)
  compilation.keep_programs()
  log = layout_lib.StageLog(layout.root / layout_lib.STAGES_FILE)
  _make_data(layout, log)
  rows = results.read(layout.root)
  for seed in seeds:
    for encoder in encoders:
      # Rows of other encoders and seeds stay: their models lie here as well.
      rows = _merged(rows, _one_encoder(layout, log, encoder, seed))
      results.write(layout.root, rows)
  best = encoders[-1]
  _predict_unseen(layout, log, layout.model(best, seeds[0]))
  with log.stage(
    layout_lib.REPORT_STAGE,
    reads=str(layout.root),
    writes=str(layout.root / "report.html"),
    command=f"clap report --workdir {layout.root}",
  ):
    path = demo_report.report(layout.root)
  console.print(f"The report: {path}", style="bold")
  return {"rows": rows}


def _check_size(layout: layout_lib.Layout) -> None:
  """Features and models of another size must not pass for those of this one."""
  rendered = layout.rendered.parent
  others = {path.name for path in rendered.glob("*")} - {layout.size}
  if others:
    raise ValueError(
      f"{layout.root} holds a demo of size {', '.join(sorted(others))}, not "
      f"{layout.size}; use another --workdir."
    )


def _merged(old: list[dict], new: list[dict]) -> list[dict]:
  """Result rows with those of the same encoder and seed replaced in place."""
  keys = ("encoder", "seed", "dataset", "split", "task", "metric")
  by_key = {tuple(row[k] for k in keys): row for row in [*old, *new]}
  return list(by_key.values())


def _make_data(layout: layout_lib.Layout, log: layout_lib.StageLog) -> None:
  final = layout.data / layout.dataset / build.VERSION
  if not final.exists():
    with (
      log.stage(
        "render",
        reads="nothing",
        writes=str(layout.rendered),
        command="python -m tfds_builders.motion_sprites.render --size "
        f"{layout.size} --out {layout.rendered}",
      ),
      Progress("render") as bar,
    ):
      layout.rendered.parent.mkdir(parents=True, exist_ok=True)
      render.render(
        sizes.get_config(layout.size), layout.rendered, on_progress=bar
      )
    with (
      log.stage(
        "build",
        reads=str(layout.rendered),
        writes=str(final),
        command=f"clap build {layout.dataset} --data_dir {layout.data}",
      ),
      Progress("build") as bar,
    ):
      build.build(
        layout.dataset,
        data_dir=layout.data,
        on_progress=lambda _, done, total: bar(done, total),
      )
  if not layout.tokenizer.exists():
    with log.stage(
      "tokenizer",
      reads=f"captions of {layout.dataset}",
      writes=str(layout.tokenizer),
      command=f"clap tokenizer --data {layout.dataset} --data_dir "
      f"{layout.data} --out {layout.tokenizer}",
    ):
      tokenizer.train_on_split(
        records.open_dataset(layout.data, layout.dataset),
        out=layout.tokenizer,
        split="train",
        vocab_size=VOCAB_SIZE,
      )


def _one_encoder(
  layout: layout_lib.Layout, log: layout_lib.StageLog, encoder: str, seed: int
) -> list[dict]:
  """Pre-trains, extracts, trains both heads; returns their result rows."""
  model = layout.model(encoder, seed)
  start = _start(layout, log, seed) if encoder != "random" else None
  rows = _pretrain(
    layout, log, encoder, seed, workdir=model / "pretrain", start=start
  )
  _extract(layout, log, f"{encoder} seed {seed}", model)
  for task, configs in (
    ("localization", localization_sprites),
    ("grounding", grounding_sprites),
  ):
    rows += _head(
      layout,
      log,
      task,
      configs=configs,
      name=f"{encoder} seed {seed}",
      model=model,
    )
  model_directory.write_model(
    model,
    encoder="pretrain",
    stride_sec=STRIDE_SEC,
    localization_dir="localization",
    grounding_dir="grounding",
  )
  return rows


def _start(layout, log, seed) -> pathlib.Path:
  """The trimmed-classification checkpoint that every trained row starts from.

  What is compared is the stage after it, at an equal budget; `tac` goes on.
  """
  workdir = layout.model("start", seed) / "pretrain"
  _pretrain(layout, log, "tac", seed, workdir=workdir, start=None)
  return workdir


def _pretrain(layout, log, encoder, seed, *, workdir, start) -> list[dict]:
  arg = f"{layout.size},encoder={encoder},seed={seed}"
  config = pretrain_sprites.get_config(arg)
  overrides = {
    "data.data_dir": str(layout.data),
    "data.tokenizer": str(layout.tokenizer),
  }
  if start is not None:
    overrides |= {"start.workdir": str(start), "sampling.stream": 1}
  config.update_from_flattened_dict(overrides)
  if registry.is_finished(workdir):
    return registry.train(config, workdir)
  with log.stage(
    f"pretrain {workdir.parent.name} seed {seed}",
    reads=str(start or layout.data / layout.dataset),
    writes=str(workdir),
    command=_command(f"configs/pretrain_sprites.py:{arg}", workdir, overrides),
  ):
    return registry.train(config, workdir)


def _extract(layout, log, name, model) -> None:
  out = model / "features"
  with (
    log.stage(
      f"extract {name}",
      reads=str(model / "pretrain"),
      writes=str(out),
      command=f"clap extract --model {model / 'pretrain'} --data "
      f"{layout.dataset} --data_dir {layout.data} --out {out}",
    ),
    Progress("extract") as bar,
  ):
    extract.extract(
      encoder_lib.load_encoder(model / "pretrain"),
      records.open_dataset(layout.data, layout.dataset),
      out=out,
      stride_sec=STRIDE_SEC,
      on_progress=bar,
    )


def _head(layout, log, task, *, configs, name, model) -> list[dict]:
  workdir = model / task
  arg = f"{layout.size},seed={name.split()[-1]}"
  config = configs.get_config(arg)
  overrides = {
    "data.data_dir": str(layout.data),
    "data.features_dir": str(model / "features"),
  }
  config.update_from_flattened_dict(overrides)
  if registry.is_finished(workdir):
    return registry.train(config, workdir)
  with log.stage(
    f"{task} {name}",
    reads=str(model / "features"),
    writes=str(workdir),
    command=_command(f"configs/{task}_sprites.py:{arg}", workdir, overrides),
  ):
    return registry.train(config, workdir)


def _command(config: str, workdir, overrides: dict) -> str:
  values = " ".join(f"--config.{k}={v}" for k, v in overrides.items())
  return f"clap train --config={config} --workdir={workdir} {values}"


def _predict_unseen(layout, log, model_dir) -> None:
  """Renders a video of a split of its own; asks by class and by text."""
  video = layout.unseen / "unseen.mp4"
  command = f"clap predict {video} --model {model_dir} --query TEXT"
  answer = layout.unseen / "by_query.json"  # written last
  trained = model_dir / "grounding" / results.RESULTS_FILE  # read last
  if (
    log.has("predict", command)
    and answer.is_file()
    and answer.stat().st_mtime >= trained.stat().st_mtime
  ):
    return
  layout.unseen.mkdir(exist_ok=True)
  config = sizes.get_config(layout.size)
  with log.stage(
    "predict",
    reads=str(video),
    writes=str(layout.unseen),
    command=command,
  ):
    truth = render.render_video(
      config.seed, "unseen", index=0, config=config, path=video
    )
    model = model_directory.load_model(model_dir)
    labels = layout.unseen / "labels.txt"
    output.write_text(labels, "\n".join(model.label_names) + "\n")
    queries = _action_captions(truth)[:3]
    by_label = predict.predict(model, [video], labels=model.label_names)
    by_query = predict.predict(model, [video], queries=queries)
    for name, document in (
      ("truth", truth),
      ("by_label", by_label),
      ("by_query", by_query),
    ):
      results.write_json(layout.unseen / f"{name}.json", document)


def _action_captions(truth: dict) -> list[str]:
  """Captions whose interval is that of an action."""
  actions = {tuple(entry["segment"]) for entry in truth["annotations"]}
  return [
    entry["text"]
    for entry in truth["captions"]
    if tuple(entry["segment"]) in actions
  ]
