"""Builds the report of a demo from the files of its stages."""

import dataclasses
import pathlib

import numpy as np

from clap_jax.data import records
from clap_jax.demo import layout as layout_lib
from clap_jax.evaluation import localization, results
from clap_jax.media import decode
from clap_jax.report import content, page, run_files
from clap_jax.storage import untrusted

NUM_FRAMES = 14  # of a timeline's strip
NUM_TIMELINES = 80  # validation videos drawn, at most


def report(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes WORKDIR/report.html from the files of a demo.

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
  result_rows = run_files.result_rows({"rows": rows})
  layout = layout_lib.Layout(root, rows[0]["dataset"].partition("/")[2])
  dataset = records.open_dataset(layout.data, layout.dataset)
  log = layout_lib.StageLog(root / layout_lib.STAGES_FILE)
  return page.write_report(
    root / "report.html",
    content.Report(
      title=f"clap_jax demo: {outcome(rows)}",
      subtitle=f"Post-pre-training, localization and grounding on "
      f"{layout.dataset}, validation split",
      facts=_facts(dataset),
      rows=result_rows,
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
        "clips and captions, and the region loss, to the class loss that tac "
        "goes on with; all weights were chosen on the selection split.",
        "Another seed of a head alone moves average mAP by about 0.02.",
        "motion_sprites is procedural; its numbers compare encoders and say "
        "nothing about real footage.",
      ],
    ),
  )


def outcome(rows: list[dict]) -> str:
  """States which encoder came first in each task, whichever it was.

  Args:
    rows: result rows; the mean over seeds decides.
  """
  firsts = []
  for task, metric in (
    ("localization", "average_map"),
    ("grounding", "r1@0.5"),
  ):
    values: dict[str, list[float]] = {}
    for row in rows:
      if (row["task"], row["metric"]) == (task, metric):
        values.setdefault(row["encoder"], []).append(row["value"])
    means = {
      encoder: float(np.mean(found)) for encoder, found in values.items()
    }
    if means:
      order = sorted(means, key=lambda encoder: -means[encoder])
      listed = ", ".join(f"{name} {means[name]:.3f}" for name in order)
      firsts.append(f"{order[0]} first in {task} ({listed})")
  return "; ".join(firsts)


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
  """Diagnoses every encoder's localizer of the first seed."""
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
    encoder: untrusted.read_json(
      layout.model(encoder, seed) / "localization" / "predictions.json"
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
    for entry in untrusted.read_json(path)["queries"]:
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
    untrusted.read_json(layout.unseen / f"{name}.json")
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
