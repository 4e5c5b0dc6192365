"""Writes the page of a demo from the files of its artifacts."""

import pathlib
import statistics
from collections.abc import Sequence

import numpy as np

from clap_jax.data import records
from clap_jax.evaluation import grounding as grounding_evaluation
from clap_jax.evaluation import localization
from clap_jax.media import decode
from clap_jax.metrics import prediction_files, protocols
from clap_jax.report import content, page, result_table, run_files
from clap_jax.storage import untrusted
from clap_jax.studies import orchestrator
from clap_jax.studies.artifacts import ArtifactStore
from clap_jax.training import writer

UNSEEN = "unseen"
_NUM_FRAMES = 14  # in the strip of a timeline
_NUM_TIMELINES = 80  # maximum number of drawn validation videos
_SPLIT = "validation"


def write(
  store: ArtifactStore,
  rows: list[dict],
  state: orchestrator.State,
  *,
  commands: Sequence[content.Command],
  notes: Sequence[str],
) -> pathlib.Path:
  """Writes WORKDIR/report.html.

  Args:
    rows: rows of results.json, at least one.
    state: progress of the demo's artifacts.
    commands: commands that make the artifacts again.
    notes: caveats.
  """
  run_files.check_result_rows(rows)
  name = rows[0]["dataset"]
  dataset = records.open_dataset(store.directory("data"), name)
  measured = {row["encoder"] for row in rows}
  titles = {n: text for n, text in content.ENCODERS.items() if n in measured}
  return page.write_report(
    store.workdir / "report.html",
    page.Report(
      title=f"clap_jax demo: {outcome(rows)}",
      subtitle=f"Post-pre-training, localization and grounding on {name}, "
      f"{_SPLIT} split",
      key_figures=_key_figures(dataset),
      notes=notes,
      method=True,
      table=result_table.ResultTable.of(
        rows, titles=titles, reference="clap" if "clap" in titles else ""
      ),
      rows=rows,
      diagnoses=_diagnoses(store, dataset, rows),
      charts=_charts(store, rows),
      timelines=_timelines(store, dataset, rows),
      unseen=_unseen(store),
      listings=[state.listing()],
      failed=state.failed,
      commands=commands,
    ),
  )


def model_name(encoder: str, seed: int) -> str:
  """Returns the folder of an encoder's model directory."""
  return f"models/seed{seed}/{encoder}"


def _first_models(
  store: ArtifactStore, rows: list[dict], task: str
) -> dict[str, pathlib.Path]:
  """Returns encoder -> the run of its head for a task, for the first seed."""
  seed = min(row["seed"] for row in rows)
  names = [r["encoder"] for r in rows if (r["seed"], r["task"]) == (seed, task)]
  return {
    name: store.directory(model_name(name, seed)) / task
    for name in dict.fromkeys(names)
  }


def outcome(rows: list[dict]) -> str:
  """Names the encoder with the best mean over seeds in each task."""
  firsts = []
  for task, metric in (
    ("localization", "average_map"),
    ("grounding", "r1@0.5"),
  ):
    values: dict[str, list[float]] = {}
    for row in rows:
      is_undefined = row["value"] is None
      if (row["task"], row["metric"]) == (task, metric) and not is_undefined:
        values.setdefault(row["encoder"], []).append(row["value"])
    means = {name: statistics.fmean(found) for name, found in values.items()}
    if means:
      order = sorted(means, key=lambda encoder: -means[encoder])
      listed = ", ".join(f"{name} {means[name]:.3f}" for name in order)
      firsts.append(f"{order[0]} first in {task} ({listed})")
  return "; ".join(firsts)


def _key_figures(dataset) -> list[tuple[str, str]]:
  manifests = {split: dataset.manifest(split) for split in dataset.splits}
  videos = [
    (
      f"{split} split",
      f"{m['present']} videos, {m['segments']} actions, "
      f"{m['captions']} captions",
    )
    for split, m in manifests.items()
  ]
  return [*videos, ("Action classes", str(len(dataset.label_names)))]


def _charts(store, rows) -> list[content.Chart]:
  runs = sorted({(row["encoder"], row["seed"]) for row in rows})
  charts = []
  for stage, title in (
    ("pretrain", "Pre-training loss"),
    ("localization", "Localization head, training loss"),
    ("grounding", "Grounding head, training loss"),
  ):
    paths = {
      f"{encoder} seed {seed}": store.directory(model_name(encoder, seed))
      / stage
      / writer.METRICS_FILE
      for encoder, seed in runs
      if not (stage == "pretrain" and encoder == "random")
    }
    curves = [
      run_files.curve(path, "train/loss", name=name)
      for name, path in paths.items()
      if path.is_file()
    ]
    charts.append(content.Chart(title=title, curves=curves))
  return charts


def _diagnoses(store, dataset, rows) -> list[content.Diagnosed]:
  """Diagnoses every encoder's localizer of the first seed."""
  infos = dataset.examples(_SPLIT)
  truth = localization.truth_of(infos, dataset.label_names)
  return [
    run_files.diagnosed(
      prediction_files.read_detections(workdir / localization.PREDICTIONS_FILE),
      truth,
      protocol=protocols.PROTOCOLS["motion_sprites"],
      duration_sec={info.id: info.duration_sec for info in infos},
      name=encoder,
      where=f"{dataset.name}, {_SPLIT}, {workdir.parent.parent.name}",
    )
    for encoder, workdir in _first_models(store, rows, "localization").items()
  ]


def _strip(video, duration_sec: float) -> np.ndarray:
  """Returns frames from the middle of equal cells of the time axis."""
  times = content.frame_times(duration_sec, _NUM_FRAMES)
  decoded = decode.decode_video(video, size=96)
  index = np.abs(decoded.timestamps[None] - times[:, None]).argmin(axis=1)
  return decoded.frames[index]


def _timelines(store, dataset, rows) -> list[content.VideoTimeline]:
  found = {
    encoder: untrusted.read_json(workdir / localization.PREDICTIONS_FILE)[
      "results"
    ]
    for encoder, workdir in _first_models(store, rows, "localization").items()
  }
  queries = _queries(_first_models(store, rows, "grounding"))
  source = dataset.split(_SPLIT)
  timelines = []
  for index in range(min(len(source), _NUM_TIMELINES)):
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
          content.Segment(
            *entry["segment"], label=entry["label"], score=entry["score"]
          )
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
        queries=queries.get(example.id, []),
      )
    )
  return timelines


def _queries(
  workdirs: dict[str, pathlib.Path],
) -> dict[str, list[content.Query]]:
  """Returns each video's first query with the moments of every encoder."""
  found = {
    encoder: {
      (entry["video"], entry["query"]): entry
      for entry in untrusted.read_json(
        workdir / grounding_evaluation.PREDICTIONS_FILE
      )["queries"]
    }
    for encoder, workdir in workdirs.items()
  }
  queries: dict[str, list[content.Query]] = {}
  for key, entry in (pair for own in found.values() for pair in own.items()):
    if entry["video"] not in queries:
      tracks = [
        content.Track(
          encoder,
          [
            content.Segment(start, end, "", score)
            for start, end, score in own[key]["predictions"][:5]
          ],
        )
        for encoder, own in found.items()
        if key in own
      ]
      moments = [content.Segment(*entry["segment"])]
      queries[entry["video"]] = [content.Query(entry["query"], moments, tracks)]
  return queries


def _unseen(store) -> list[content.VideoTimeline]:
  unseen = store.directory(UNSEEN)
  if not (unseen / "by_query.json").is_file():
    return []
  truth, by_label, by_query = (
    untrusted.read_json(unseen / f"{name}.json")
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
      frames=_strip(unseen / "unseen.mp4", labelled["duration_sec"]),
      ground_truth=[
        content.Segment(*entry["segment"], label=entry["label"])
        for entry in truth["annotations"]
      ],
      tracks=[
        content.Track(
          "clap predict --labels", run_files.segments(labelled["predictions"])
        )
      ],
      queries=queries,
      note="Rendered for this page; no other stage has read it.",
    )
  ]
