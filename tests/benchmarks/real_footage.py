"""Compares encoders on real footage: the sneeze and cough clips, in recordings.

  python tests/benchmarks/real_footage.py --videos sneeze_cough --workdir RUNS \
    --csv docs/real_footage.csv

Runs the commands of docs/real_footage.md for folds by person, seeds and
encoders. A second call makes what is missing. The file of the results keeps the
rows that it has: fold, encoder, seed, task, metric, value.

Source of the clips: Thi et al., "Recognizing flu-like symptoms from videos",
BMC Bioinformatics 2014, 15:300. They are for research only.
"""

import argparse
import csv
import json
import pathlib
import subprocess
import sys

import numpy as np

from clap_jax.metrics import detection, protocols, tables

ROOT = pathlib.Path(__file__).parents[2]
FIELDS = ("fold", "encoder", "seed", "task", "metric", "value")
# People of the selection and the validation split; the others are for training.
FOLDS = {
  1: (("S017", "S018"), ("S019", "S020")),
  2: (("S001", "S007"), ("S008", "S009")),
  3: (("S010", "S011"), ("S012", "S013")),
  4: (("S014", "S015"), ("S016", "S017")),
}
BACKGROUND = "scratch head,answer phone call"
START_STEPS, STEPS = 600, 300
MIN_TIOU = 0.5  # of a detection whose label is looked at
CHANCE_DRAWS = 100
METRICS = {
  "localization": ("average_map", "map@0.50"),
  "grounding": ("r1@0.5", "r5@0.5"),
  "retrieval": ("text_to_video/r@5",),
  "fewshot": (
    "2way_1shot/prototypes/average_map",
    "2way_5shot/prototypes/average_map",
  ),
}


def clap(*args: object) -> None:
  """Runs a command of `clap`; raises CalledProcessError where it fails."""
  print("clap", *args, flush=True)
  subprocess.run(
    [sys.executable, "-m", "clap_jax.main", *map(str, args)],
    cwd=ROOT,
    check=True,
    stdout=subprocess.DEVNULL,
  )


class Fold:
  """The datasets of one fold, and what is trained on them."""

  def __init__(self, number: int, videos: pathlib.Path, workdir: pathlib.Path):
    self._number = number
    self._videos = videos
    self._root = workdir / f"fold{number}"
    self._data = self._root / "data"
    self._tokenizer = self._data / "tokenizer.model"

  def build(self) -> None:
    """Packs the trimmed clips, and the recordings that are made of them."""
    if self._tokenizer.is_file():
      return
    selection, validation = FOLDS[self._number]
    common = (
      "--data_dir", self._data, "--videos", self._videos,
      "--annotations", self._videos / "clips.json", "--split_by", "person",
      "--splits", f"selection={','.join(selection)};"
      f"validation={','.join(validation)};train=*",
    )  # fmt: skip
    clap("build", "trimmed/clips", *common)
    captions = self._root / "captions.json"
    captions.write_text(json_of("tfds_builders/trimmed/README.md"))
    clap(
      "build", "trimmed/recordings", *common, "--join", "--seed", 0,
      "--constant", "person,view,locomotion", "--background", BACKGROUND,
      "--captions", captions,
    )  # fmt: skip
    clap(
      "tokenizer", "--data", "trimmed/recordings", "--data_dir", self._data,
      "--out", self._tokenizer,
    )  # fmt: skip

  def encoder_rows(self, encoder: str, seed: int) -> list[dict]:
    """Trains an encoder and its heads; returns their result rows.

    Few-shot localization has an encoder of its own, which has not seen the
    novel classes.
    """
    root = self._root / f"seed{seed}"
    actions = self._root / "actions.json"
    actions.write_text(json_of("docs/real_footage.md"))
    hidden = f"--config.sampling.class_split={actions}"
    features = self._features(root, encoder, seed)
    base_features = self._features(root / "base", encoder, seed, hidden)
    model = root / encoder
    rows = _rows(model / "pretrain")
    for task, options in {
      "localization": (f"--config.data.features_dir={features}",),
      "grounding": (f"--config.data.features_dir={features}",),
      "fewshot": (
        f"--config.data.features_dir={base_features}",
        f"--config.class_split={actions}",
        "--config.data.max_length=160",  # whole recordings
        "--config.episodes.ways=2",
        "--config.evaluation.ways=(1, 2)",
      ),
    }.items():
      clap(
        "train", f"--config=configs/{task}_sprites.py:demo,seed={seed}",
        f"--workdir={model / task}", f"--config.data.data_dir={self._data}",
        "--config.data.dataset=trimmed/recordings", *options,
      )  # fmt: skip
      rows += _rows(model / task)
    found = json.loads((model / "localization/predictions.json").read_text())
    share = right_labels(found["results"], self._videos_of_validation())
    rows.append(_row("label_accuracy", share))
    return [
      {"fold": self._number, "encoder": encoder, "seed": seed} | row
      for row in rows
    ]

  def chance_rows(self) -> list[dict]:
    """mAP of labels that are drawn for the true clips: mean and 95 %."""
    values = chance_maps(self._videos_of_validation())
    return [
      {"fold": self._number, "encoder": "chance", "seed": 0}
      | _row(f"average_map/{name}", float(value))
      for name, value in (
        ("mean", np.mean(values)),
        ("low", np.quantile(values, 0.025)),
        ("high", np.quantile(values, 0.975)),
      )
    ]

  def _videos_of_validation(self) -> dict:
    path = self._data / "joined/trimmed/recordings/annotations.json"
    database = json.loads(path.read_text("utf-8"))["database"]
    return {
      name: video
      for name, video in database.items()
      if video["subset"] == "validation"
    }

  def _features(self, root, encoder: str, seed: int, *hidden) -> pathlib.Path:
    """Pre-trains an encoder below `root`; returns the folder of features."""
    model, stage, steps = root / encoder, hidden, 0
    if encoder != "random":
      start, steps = root / "start", STEPS
      self._pretrain(start, "trimmed/clips", "tac", seed, START_STEPS, *hidden)
      stage = (
        f"--config.start.workdir={start}",
        "--config.start.parameters=('video_tower/',)",
        "--config.sampling.stream=1",
        *hidden,
      )
    pretrain, features = model / "pretrain", model / "features"
    self._pretrain(pretrain, "trimmed/recordings", encoder, seed, steps, *stage)
    clap(
      "extract", "--model", pretrain, "--data", "trimmed/recordings",
      "--data_dir", self._data, "--out", features,
    )  # fmt: skip
    return features

  def _pretrain(self, workdir, dataset, encoder, seed, steps, *more) -> None:
    clap(
      "train",
      f"--config=configs/pretrain_sprites.py:demo,encoder={encoder},seed={seed}",
      f"--workdir={workdir}", f"--config.data.data_dir={self._data}",
      f"--config.data.dataset={dataset}", f"--config.loop.steps={steps}",
      f"--config.data.tokenizer={self._tokenizer}", *more,
    )  # fmt: skip


def right_labels(results: dict, videos: dict) -> float:
  """The share of segments whose best detection has the right label."""
  right, count = 0, 0
  for name, video in videos.items():
    for truth in video["annotations"]:
      near = [
        found
        for found in results.get(name, ())
        if _tiou(found["segment"], truth["segment"]) >= MIN_TIOU
      ]
      best = max(near, key=lambda found: found["score"], default=None)
      right += best is not None and best["label"] == truth["label"]
      count += 1
  return right / count


def _tiou(first, second) -> float:
  overlap = min(first[1], second[1]) - max(first[0], second[0])
  return max(overlap, 0) / (max(first[1], second[1]) - min(first[0], second[0]))


def chance_maps(videos: dict) -> list[float]:
  """Average mAP of detections that are the true clips with drawn scores."""
  truth = [
    (name, *entry["segment"], entry["label"])
    for name, video in videos.items()
    for entry in video["annotations"]
  ]
  labels = sorted({row[-1] for row in truth})
  clips = [
    (name, *clip["segment"], label)
    for name, video in videos.items()
    for clip in video["clips"]
    for label in labels
  ]
  names = ("video", "start_sec", "end_sec", "label")
  columns = dict(zip(names, zip(*clips, strict=True), strict=True))
  segments = tables.SegmentTable.from_rows(truth, video_names=tuple(videos))
  rng, values = np.random.default_rng(0), []
  for _ in range(CHANCE_DRAWS):
    detections = tables.DetectionTable.from_columns(
      **columns,
      score=rng.random(len(clips)).tolist(),
      video_names=tuple(videos),
    )
    protocol = protocols.PROTOCOLS["motion_sprites"]
    metrics = detection.evaluate(detections, segments, protocol)
    values.append(metrics["average_map"])
  return values


def _row(metric: str, value: float) -> dict:
  return {"task": "localization", "metric": metric, "value": value}


def json_of(page: str) -> str:
  """The JSON that a page of the documents gives to the reader."""
  text = (ROOT / page).read_text("utf-8")
  return text.split("```json\n")[1].split("```")[0]


def _rows(workdir: pathlib.Path) -> list[dict]:
  rows = json.loads((workdir / "results.json").read_text("utf-8"))["rows"]
  return [
    {key: row[key] for key in ("task", "metric", "value")}
    for row in rows
    if row["metric"] in METRICS.get(row["task"], ())
    and row["split"] == "validation"
  ]


def write(path: pathlib.Path, rows: list[dict]) -> None:
  """Adds rows to a CSV file; those of the same run replace the old ones."""
  kept = {}
  if path.is_file():
    with path.open(encoding="utf-8", newline="") as file:
      kept = {_key(row): row for row in csv.DictReader(file)}
  kept |= {_key(row): row for row in rows}
  with path.open("w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept[key] for key in sorted(kept))


def _key(row: dict) -> tuple[str, ...]:
  return tuple(str(row[field]) for field in FIELDS[:-1])


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--videos", type=pathlib.Path, required=True)
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--csv", type=pathlib.Path, required=True)
  parser.add_argument("--folds", default="1,2,3,4")
  parser.add_argument("--seeds", default="0")
  parser.add_argument("--encoders", default="random,tac,tsp,clap")
  args = parser.parse_args()
  for seed in map(int, args.seeds.split(",")):
    for number in map(int, args.folds.split(",")):
      fold = Fold(number, args.videos.resolve(), args.workdir.resolve())
      fold.build()
      write(args.csv, fold.chance_rows())
      for encoder in args.encoders.split(","):
        write(args.csv, fold.encoder_rows(encoder, seed))


if __name__ == "__main__":
  main()
