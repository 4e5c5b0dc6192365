"""The whole path on the embedded dataset: every stage, then one report.

WORKDIR/
  data/rendered/motion_sprites/SIZE/   mp4 files and annotations.json
  data/motion_sprites/SIZE/1.0.0/      TFRecords, index, manifests
  data/tokenizer.model
  models/SEED/ENCODER/                 model.json: what `clap predict` takes
    pretrain/ features/ localization/ grounding/
  models/SEED/start/pretrain/          where tac and clap start from
  unseen/                              a video that no stage reads, predictions
  results.json  stages.json  report.html
"""

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator

import numpy as np

from clap_jax import stages
from clap_jax.data import decode, records
from clap_jax.inference import cards, extract, model_directory, predict
from clap_jax.inference import encoder as encoder_lib
from clap_jax.report import content, page, run_files
from clap_jax.trainers import localization, results
from clap_jax.training import compilation
from configs import grounding_sprites, localization_sprites, pretrain_sprites
from tfds_builders import build
from tfds_builders.motion_sprites import render, sizes

STRIDE_SEC = 0.5
VOCAB_SIZE = 512
NUM_FRAMES = 14  # of a timeline's strip
NUM_TIMELINES = 80  # validation videos drawn, at most
STAGES_FILE = "stages.json"
REPORT_STAGE = "report"


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where everything lies in the workdir."""

  root: pathlib.Path
  size: str

  @property
  def dataset(self) -> str:
    return f"motion_sprites/{self.size}"

  @property
  def data(self) -> pathlib.Path:
    return self.root / "data"

  @property
  def rendered(self) -> pathlib.Path:
    return self.data / "rendered" / self.dataset

  @property
  def tokenizer(self) -> pathlib.Path:
    return self.data / "tokenizer.model"

  @property
  def unseen(self) -> pathlib.Path:
    return self.root / "unseen"

  def model(self, encoder: str, seed: int) -> pathlib.Path:
    return self.root / "models" / f"seed{seed}" / encoder


class StageLog:
  """Says what each stage reads and writes, and keeps its wall time."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._stages = json.loads(path.read_text()) if path.is_file() else {}

  @contextlib.contextmanager
  def stage(
    self, name: str, *, reads: str, writes: str, command: str
  ) -> Iterator[None]:
    stages.console.print(f"[bold]{name}[/bold]  reads {reads}, writes {writes}")
    started_sec = time.perf_counter()
    yield
    wall_sec = time.perf_counter() - started_sec
    if name == REPORT_STAGE and self.has(name, command):
      return  # the page is written by every call; the first one's cost stays
    # A stage that found its work done says nothing new about its cost.
    known = self._stages.get(name, {}).get("wall_sec", 0.0)
    self._stages[name] = {
      "wall_sec": max(wall_sec, known),
      "reads": reads,
      "writes": writes,
      "command": command,
    }
    results.write_json(self._path, self._stages)
    stages.console.print(f"  done in {wall_sec:.1f} s")

  def has(self, name: str, command: str) -> bool:
    """Whether the stage was finished with this very command."""
    return self._stages.get(name, {}).get("command") == command

  def as_content(self) -> list[content.Stage]:
    """All but the page itself, whose cost is not known when it is written."""
    return [
      content.Stage(name=name, **facts)
      for name, facts in self._stages.items()
      if name != REPORT_STAGE
    ]


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
  unknown = sorted(set(encoders) - set(pretrain_sprites.ENCODERS))
  if unknown or not encoders:
    raise ValueError(
      f"encoders: got {unknown or 'none'}; choose from "
      f"{', '.join(pretrain_sprites.ENCODERS)}."
    )
  if not seeds or min(seeds) < 0:
    raise ValueError(f"seeds: got {seeds}; give at least one, none below 0.")
  layout = Layout(pathlib.Path(workdir), size)
  _check_size(layout)
  layout.data.mkdir(parents=True, exist_ok=True)
  compilation.keep_programs(layout.root / "compiled")
  log = StageLog(layout.root / STAGES_FILE)
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
    REPORT_STAGE,
    reads=str(layout.root),
    writes=str(layout.root / "report.html"),
    command=f"clap report --workdir {layout.root}",
  ):
    path = report(layout.root)
  stages.console.print(f"[bold]The report: {path}[/bold]")
  return {"rows": rows}


def _check_size(layout: Layout) -> None:
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


def _make_data(layout: Layout, log: StageLog) -> None:
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
      stages.Progress("render") as bar,
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
      stages.Progress("build") as bar,
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
      stages.train_tokenizer(
        records.open_dataset(layout.data, layout.dataset),
        out=layout.tokenizer,
        split="train",
        vocab_size=VOCAB_SIZE,
      )


def _one_encoder(
  layout: Layout, log: StageLog, encoder: str, seed: int
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
  if stages.is_finished(workdir):
    return stages.train(config, workdir)
  with log.stage(
    f"pretrain {workdir.parent.name} seed {seed}",
    reads=str(start or layout.data / layout.dataset),
    writes=str(workdir),
    command=_command(f"configs/pretrain_sprites.py:{arg}", workdir, overrides),
  ):
    return stages.train(config, workdir)


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
    stages.Progress("extract") as bar,
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
  if stages.is_finished(workdir):
    return stages.train(config, workdir)
  with log.stage(
    f"{task} {name}",
    reads=str(model / "features"),
    writes=str(workdir),
    command=_command(f"configs/{task}_sprites.py:{arg}", workdir, overrides),
  ):
    return stages.train(config, workdir)


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
    labels.write_text("\n".join(model.label_names) + "\n")
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


def report(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes WORKDIR/report.html from the files of a demo, and its cards.

  Raises:
    FileNotFoundError: if there are no results.
  """
  root = pathlib.Path(workdir)
  if not (root / results.RESULTS_FILE).is_file():
    raise FileNotFoundError(
      f"{root} holds no {results.RESULTS_FILE}; give the --workdir of a demo."
    )
  rows = results.read(root)
  if not rows:
    raise ValueError(f"{root / results.RESULTS_FILE} has no rows to report.")
  layout = Layout(root, rows[0]["dataset"].partition("/")[2])
  dataset = records.open_dataset(layout.data, layout.dataset)
  log = StageLog(root / STAGES_FILE)
  cards.write_data_card(dataset)
  for model in sorted({(row["encoder"], row["seed"]) for row in rows}):
    cards.write_model_card(layout.model(*model))
  return page.write_report(
    root / "report.html",
    content.Report(
      title="clap_jax demo",
      subtitle=f"Post-pre-training, localization and grounding on "
      f"{layout.dataset}, validation split",
      facts=_facts(dataset),
      rows=run_files.result_rows({"rows": rows}),
      diagnoses=_diagnoses(layout, dataset, rows),
      charts=_charts(layout, rows),
      timelines=_timelines(layout, dataset, rows),
      unseen=_unseen(layout),
      stages=log.as_content(),
      commands=[content.Command(s.name, s.command) for s in log.as_content()],
      notes=[
        "The masked contrastive loss is a reconstruction from the abstract of "
        "arXiv 2204.12293, not the paper's own formula.",
        "tac and clap start from one trimmed-classification checkpoint and "
        "train for the same number of further steps; random is untrained.",
        "clap adds the masked contrastive loss over action clips, background "
        "clips and captions to the class loss that tac goes on with; all "
        "weights were chosen on the selection split.",
        "motion_sprites is procedural; its numbers compare encoders and say "
        "nothing about real footage.",
      ],
    ),
  )


def _facts(dataset) -> list[tuple[str, str]]:
  manifests = {split: dataset.manifest(split) for split in dataset.splits}
  facts = [
    (
      f"{split} split",
      f"{m['present']} videos, {m['segments']} actions, "
      f"{m['captions']} captions",
    )
    for split, m in manifests.items()
  ]
  return [*facts, ("Action classes", str(len(dataset.label_names)))]


def _charts(layout, rows) -> list[content.Chart]:
  runs = sorted({(row["encoder"], row["seed"]) for row in rows})
  charts = []
  for stage, title in (
    ("pretrain", "Pre-training loss"),
    ("localization", "Localization head, training loss"),
    ("grounding", "Grounding head, training loss"),
  ):
    curves = [
      run_files.curve(
        layout.model(encoder, seed) / stage / "metrics.jsonl",
        "train/loss",
        name=f"{encoder} seed {seed}",
      )
      for encoder, seed in runs
      if not (stage == "pretrain" and encoder == "random")
    ]
    charts.append(content.Chart(title=title, curves=curves))
  return charts


def _diagnoses(layout, dataset, rows) -> list[content.Diagnosed]:
  """Of every encoder's localizer with the first seed."""
  split = "validation"
  seed = min(row["seed"] for row in rows)
  encoders = dict.fromkeys(r["encoder"] for r in rows if r["seed"] == seed)
  infos = dataset.split(split).metadata(on_corrupt="skip").examples
  truth = localization.truth_of(infos, dataset.label_names)
  return [
    run_files.diagnosed(
      layout.model(encoder, seed)
      / "localization"
      / localization.PREDICTIONS_FILE,
      truth,
      protocol="motion_sprites",
      duration_sec={info.id: info.duration_sec for info in infos},
      name=encoder,
      where=f"{layout.dataset}, {split}, seed {seed}",
    )
    for encoder in encoders
  ]


def _strip(video, duration_sec: float) -> np.ndarray:
  """Frames in the middle of equal cells of the time axis."""
  times = content.frame_times(duration_sec, NUM_FRAMES)
  decoded = decode.decode_video(video, fps=None, size=96)
  index = np.abs(decoded.timestamps[None] - times[:, None]).argmin(axis=1)
  return decoded.frames[index]


def _timelines(layout, dataset, rows) -> list[content.VideoTimeline]:
  seed = min(row["seed"] for row in rows)
  encoders = list(
    dict.fromkeys(row["encoder"] for row in rows if row["seed"] == seed)
  )
  found = {
    encoder: json.loads(
      (
        layout.model(encoder, seed) / "localization" / "predictions.json"
      ).read_text()
    )["results"]
    for encoder in encoders
  }
  moments = _moments_by_video(layout, encoders, seed)
  source = dataset.split("validation")
  timelines = []
  for index in range(min(len(source), NUM_TIMELINES)):
    example = source[index]
    truth = [
      content.Segment(float(start), float(end), dataset.label_names[label])
      for (start, end), label in zip(
        example.segments, example.labels, strict=True
      )
    ]
    tracks = [
      content.Track(
        encoder,
        [
          content.Segment(*entry["segment"], entry["label"], entry["score"])
          for entry in results_of[example.id][:10]
        ],
      )
      for encoder, results_of in found.items()
      if example.id in results_of
    ]
    timelines.append(
      content.VideoTimeline(
        video_id=example.id,
        duration_sec=example.duration_sec,
        frames=_strip(example.video, example.duration_sec),
        ground_truth=truth,
        tracks=tracks,
        queries=moments.get(example.id, []),
      )
    )
  return timelines


def _moments_by_video(layout, encoders, seed) -> dict[str, list]:
  """The first query of each video with the moments of every encoder."""
  queries: dict[str, content.Query] = {}
  for encoder in encoders:
    path = layout.model(encoder, seed) / "grounding/predictions.json"
    for entry in json.loads(path.read_text())["queries"]:
      track = content.Track(
        encoder,
        [
          content.Segment(start, end, "", score)
          for start, end, score in entry["predictions"][:5]
        ],
      )
      video = entry["video"]
      known = queries.get(video)
      if known is None:
        queries[video] = content.Query(
          text=entry["query"],
          moments=[content.Segment(*entry["segment"])],
          tracks=[track],
        )
      elif known.text == entry["query"] and encoder not in {
        t.name for t in known.tracks
      }:
        queries[video] = dataclasses.replace(
          known, tracks=[*known.tracks, track]
        )
  return {video: [query] for video, query in queries.items()}


def _unseen(layout) -> list[content.VideoTimeline]:
  if not (layout.unseen / "by_query.json").is_file():
    return []
  truth, by_label, by_query = (
    json.loads((layout.unseen / f"{name}.json").read_text())
    for name in ("truth", "by_label", "by_query")
  )
  labelled, asked = by_label["videos"][0], by_query["videos"][0]
  captions = {entry["text"]: entry["segment"] for entry in truth["captions"]}
  queries = [
    content.Query(
      text=text,
      moments=[content.Segment(*captions[text])],
      tracks=[
        content.Track(
          "clap predict --query",
          run_files.segments(
            e for e in asked["predictions"] if e["query"] == text
          )[:5],
        )
      ],
      absent=asked["absence"] and asked["absence"][text]["absent"],
    )
    for text in dict.fromkeys(e["query"] for e in asked["predictions"])
  ]
  return [
    content.VideoTimeline(
      video_id=truth["id"],
      duration_sec=labelled["duration_sec"],
      frames=_strip(layout.unseen / "unseen.mp4", labelled["duration_sec"]),
      ground_truth=[
        content.Segment(*entry["segment"], entry["label"])
        for entry in truth["annotations"]
      ],
      tracks=[
        content.Track(
          "clap predict --labels", run_files.segments(labelled["predictions"])
        )
      ],
      queries=queries,
      note="Rendered for this page; no stage has read it before.",
    )
  ]
