"""Runs all stages on the embedded dataset: a study with readable folders.

WORKDIR/
  data/rendered/motion_sprites/SIZE/   mp4 files and annotations.json
  data/motion_sprites/SIZE/1.0.0/      TFRecords, index, manifests
  data/tokenizer.model
  models/SEED/ENCODER/                 model.json, for `clap predict --model`
    pretrain/ features/ localization/ grounding/
  models/SEED/start/pretrain/          start of tac and clap
  unseen/                              a video that no stage reads, predictions
  results.json  report.html
"""

import importlib
import pathlib
from collections.abc import Iterable

from clap_jax.console import console
from clap_jax.evaluation import results
from clap_jax.inference import model_directory, predict
from clap_jax.report import content
from clap_jax.storage import output, untrusted
from clap_jax.studies import (
  artifacts,
  demo_page,
  jobs,
  orchestrator,
  planning,
  settings,
)
from clap_jax.training import compilation
from configs.parts import pretraining
from tfds_builders.motion_sprites import render, sizes

_TASKS = ("localization", "grounding")
# Keys that identify a result row.
_KEYS = ("encoder", "seed", "dataset", "split", "task", "metric")
_NOTES = (
  "The masked contrastive loss is a reconstruction from the abstract of "
  "arXiv 2204.12293, not the paper's formula.",
  "tac and clap start from one trimmed-classification checkpoint and "
  "train for the same number of further steps; random is untrained.",
  "clap adds the masked contrastive loss over action clips, background "
  "clips and captions, and the region loss, to tac's class loss; all weights "
  "were chosen on the selection split.",
  "Another seed of a head alone changes average mAP by about 0.02.",
  "motion_sprites is procedural: its numbers compare encoders and do not "
  "predict results on real footage.",
)


def run(
  workdir: str | pathlib.Path,
  *,
  size: str = "demo",
  seeds: tuple[int, ...] = (0,),
  encoders: tuple[str, ...] = ("random", "tac", "clap"),
) -> dict:
  """Makes missing artifacts; returns the result rows and the failed runs.

  Raises:
    ValueError: an encoder is unknown, there is no encoder or no seed, or the
      workdir holds a demo of another size.
  """
  settings.check_known("encoders", encoders, pretraining.ENCODERS)
  if not encoders:
    raise ValueError("encoders: got none; give at least one.")
  if not seeds or min(seeds) < 0:
    raise ValueError(f"seeds: got {seeds}; give at least one, none below 0.")
  store = artifacts.ArtifactStore(pathlib.Path(workdir))
  _check_size(store.workdir, size)
  compilation.keep_programs()
  before = results.read(store.workdir)

  def write_results(state: orchestrator.State) -> None:
    made = [
      row
      for artifact in state.made
      if artifact.kind in (artifacts.PRETRAIN, *_TASKS)
      for row in results.read(store.directory(artifact.name))
    ]
    # Keep the rows of other encoders and seeds: their models are kept too.
    by_key = {tuple(row[k] for k in _KEYS): row for row in [*before, *made]}
    results.write(store.workdir, list(by_key.values()))

  state = orchestrator.run(
    plan(size, seeds, encoders),
    store,
    jobs.InThisProcess(),
    on_change=write_results,
  )
  rows = results.read(store.workdir)
  for seed in seeds:
    for encoder in encoders:
      _write_model(store, state, demo_page.model_name(encoder, seed))
  best = demo_page.model_name(encoders[-1], seeds[0])
  if (store.directory(best) / model_directory.MODEL_FILE).is_file():
    _predict_unseen(store.workdir, size, best)
  if rows:
    console.print(f"The report: {write_report(workdir)}", style="bold")
  return {"rows": rows, "failed_runs": len(state.failed)}


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes WORKDIR/report.html from the files of a demo.

  Raises:
    FileNotFoundError: the results are missing.
    ValueError: the results are empty or not from a demo.
  """
  store = artifacts.ArtifactStore(pathlib.Path(workdir))
  path = store.workdir / results.RESULTS_FILE
  if not path.is_file():
    raise FileNotFoundError(
      f"{store.workdir} holds no {path.name}; give the --workdir of a demo."
    )
  rows = results.read(store.workdir)
  if not rows:
    raise ValueError(f"{path} has no rows to report.")
  size = rows[0]["dataset"].partition("/")[2]
  steps = plan(
    size, {row["seed"] for row in rows}, {row["encoder"] for row in rows}
  )
  state = orchestrator.State.of(planning.artifacts_of(steps), store)
  commands = [
    content.Command(artifact.label, _command(artifact, store, size))
    for artifact in state.made
  ]
  return demo_page.write(store, rows, state, commands=commands, notes=_NOTES)


def plan(
  size: str, seeds: Iterable[int], encoders: Iterable[str]
) -> planning.Steps:
  """Plans the jobs of a demo; the order of `encoders` has no effect."""
  encoders = set(encoders)
  config = settings.StudyConfig(
    title="clap_jax demo",
    dataset=f"motion_sprites/{size}",
    size=size,
    pretrain="configs/pretrain_sprites.py",
    tasks={task: f"configs/{task}_sprites.py" for task in _TASKS},
    seeds=tuple(sorted(set(seeds))),
    head_seeds=1,
    rows=tuple(
      settings.RowConfig(name, title, name, trained=name != "random")
      for name, title in content.ENCODERS.items()
      if name in encoders
    ),
    start="tac",
  )
  return planning.plan(config, read=_read, name_of=_name_of)


def _read(name: str):
  file, _, argument = name.partition(":")
  module = file.removesuffix(".py").replace("/", ".")
  return importlib.import_module(module).get_config(argument)


def _name_of(kind: str, *, row: str, seed: int) -> str:
  if kind == artifacts.DATA:
    return "data"
  if kind == artifacts.START:
    return f"{demo_page.model_name('start', seed)}/pretrain"
  return f"{demo_page.model_name(row, seed)}/{kind}"


def _command(
  artifact: artifacts.Artifact, store: artifacts.ArtifactStore, size: str
) -> str:
  """Returns the command that makes an artifact again."""
  own = store.directory(artifact.name)
  inputs = {role: store.directory(n) for role, n in artifact.inputs.items()}
  if artifact.kind == artifacts.DATA:
    return (
      f"clap build {artifact.dataset} --data_dir {own}\n"
      f"clap tokenizer --data {artifact.dataset} --data_dir {own} "
      f"--out {own / artifacts.TOKENIZER_FILE}"
    )
  if artifact.kind == artifacts.FEATURES:
    return (
      f"clap extract --model {inputs['pretrain']} --data {artifact.dataset} "
      f"--data_dir {inputs['data']} --out {own}"
    )
  file, argument = artifact.kind, f"{size},seed={artifact.seed}"
  values = artifacts.places(artifact, inputs)
  if artifact.kind not in _TASKS:
    file, argument = "pretrain", f"{argument},encoder={artifact.row or 'tac'}"
  if "start" in inputs:
    values["sampling.stream"] = str(artifact.config["sampling"]["stream"])
  flags = " ".join(f"--config.{key}={value}" for key, value in values.items())
  return (
    f"clap train --config=configs/{file}_sprites.py:{argument} "
    f"--workdir={own} {flags}"
  )


def _check_size(root: pathlib.Path, size: str) -> None:
  """Raises a ValueError if the workdir holds a demo of another size."""
  rendered = root / "data" / "rendered" / "motion_sprites"
  others = {path.name for path in rendered.glob("*")} - {size}
  if others:
    raise ValueError(
      f"{root} holds a demo of size {', '.join(sorted(others))}, not "
      f"{size}; use another --workdir."
    )


def _write_model(
  store: artifacts.ArtifactStore, state: orchestrator.State, name: str
) -> None:
  """Writes model.json if the encoder and its heads are finished."""
  if all(f"{name}/{task}" in state.records for task in _TASKS):
    (features,) = (a for a in state.made if a.name == f"{name}/features")
    model_directory.write_model(
      store.directory(name),
      encoder="pretrain",
      stride_sec=features.config["stride_sec"],
      localization_dir="localization",
      grounding_dir="grounding",
    )


def _predict_unseen(root: pathlib.Path, size: str, name: str) -> None:
  """Renders a video of a separate split; predicts by class and by text."""
  unseen, model_dir = root / demo_page.UNSEEN, root / name
  answered = unseen / "model_used.json"  # written last
  trained = model_dir / "grounding" / results.RESULTS_FILE  # read last
  if (
    answered.is_file()
    and untrusted.read_json(answered) == {"model": name}
    and answered.stat().st_mtime >= trained.stat().st_mtime
  ):
    return
  console.print("predict on an unseen video", style="bold")
  unseen.mkdir(exist_ok=True)
  config = sizes.get_config(size)
  video = unseen / "unseen.mp4"
  truth = render.render_video(
    config.seed, "unseen", index=0, config=config, path=video
  )
  model = model_directory.load_model(model_dir)
  labels = unseen / "labels.txt"
  output.write_text(labels, "\n".join(model.label_names) + "\n")
  queries = _action_captions(truth)[:3]
  for path, document in (
    (unseen / "truth.json", truth),
    (
      unseen / "by_label.json",
      predict.predict(model, [video], labels=model.label_names),
    ),
    (
      unseen / "by_query.json",
      predict.predict(model, [video], queries=queries),
    ),
    (answered, {"model": name}),
  ):
    results.write_json(path, document)


def _action_captions(truth: dict) -> list[str]:
  """Returns the captions whose interval is that of an action."""
  actions = {tuple(entry["segment"]) for entry in truth["annotations"]}
  return [
    entry["text"]
    for entry in truth["captions"]
    if tuple(entry["segment"]) in actions
  ]
