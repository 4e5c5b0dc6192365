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
METRICS = {
  "localization": ("average_map", "map@0.50"),
  "grounding": ("r1@0.5", "r5@0.5"),
  "retrieval": ("text_to_video/r@5",),
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
    captions.write_text(json.dumps(captions_of_readme()))
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
    """Trains an encoder and both heads; returns their result rows."""
    model = self._root / f"seed{seed}" / encoder
    stage = ()
    if encoder != "random":
      start = model.parent / "start"
      self._pretrain(start, "trimmed/clips", "tac", seed, START_STEPS)
      stage = (
        f"--config.start.workdir={start}",
        "--config.start.parameters=('video_tower/',)",
        "--config.sampling.stream=1",
      )
    steps = STEPS if encoder != "random" else 0
    pretrain = model / "pretrain"
    self._pretrain(pretrain, "trimmed/recordings", encoder, seed, steps, *stage)
    features = model / "features"
    clap(
      "extract", "--model", pretrain, "--data", "trimmed/recordings",
      "--data_dir", self._data, "--out", features,
    )  # fmt: skip
    rows = _rows(pretrain)
    for task in ("localization", "grounding"):
      clap(
        "train", f"--config=configs/{task}_sprites.py:demo,seed={seed}",
        f"--workdir={model / task}", f"--config.data.data_dir={self._data}",
        "--config.data.dataset=trimmed/recordings",
        f"--config.data.features_dir={features}",
      )  # fmt: skip
      rows += _rows(model / task)
    return [
      {"fold": self._number, "encoder": encoder, "seed": seed} | row
      for row in rows
    ]

  def _pretrain(self, workdir, dataset, encoder, seed, steps, *more) -> None:
    clap(
      "train",
      f"--config=configs/pretrain_sprites.py:demo,encoder={encoder},seed={seed}",
      f"--workdir={workdir}", f"--config.data.data_dir={self._data}",
      f"--config.data.dataset={dataset}", f"--config.loop.steps={steps}",
      f"--config.data.tokenizer={self._tokenizer}", *more,
    )  # fmt: skip


def captions_of_readme() -> dict:
  """The templates in the builder's README: one statement of them."""
  text = (ROOT / "tfds_builders/trimmed/README.md").read_text("utf-8")
  return json.loads(text.split("```json\n")[1].split("```")[0])


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
      for encoder in args.encoders.split(","):
        write(args.csv, fold.encoder_rows(encoder, seed))


if __name__ == "__main__":
  main()
