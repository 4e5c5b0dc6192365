"""Tutorial: your own dataset, from a folder of videos to predictions.

  python -m tests.tutorials.own_dataset FOLDER

makes a folder with a few videos and a CSV, as you would have them, and then
runs the six commands that take them to predictions on a new video. Replace the
first step by your own files, `tiny` by `demo`, and give it hundreds of videos.
"""

import csv
import json
import pathlib
import sys

from clap_jax import main
from tfds_builders.motion_sprites import render, sizes

SPLITS = {"train": 6, "selection": 2, "validation": 2}
COLUMNS = ("video", "start", "end", "label", "caption", "subset")


def clap(*arguments) -> None:
  """What `clap ARGUMENTS` does; says which command that is."""
  words = [str(argument) for argument in arguments]
  print("clap", *words)
  if main.main(words) != 0:
    raise SystemExit(f"clap {words[0]} failed")


def make_videos(folder: pathlib.Path) -> pathlib.Path:
  """Step 0: videos, and one line per moment in a CSV.

  A line has a label, a caption, or both; `subset` says where the video belongs.
  Annotations in ActivityNet's JSON form are read as well.
  """
  size = sizes.get_config("tiny-classes_6")
  lines = []
  for subset, count in SPLITS.items():
    for index in range(count):
      name = f"{subset}_{index}.mp4"
      truth = render.render_video(
        1, subset, index=index, config=size, path=folder / name
      )
      for entry in truth["annotations"]:
        text = next(
          c["text"]
          for c in truth["captions"]
          if c["segment"] == entry["segment"]
        )
        lines.append((name, *entry["segment"], entry["label"], text, subset))
  table = folder / "segments.csv"
  with table.open("w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([COLUMNS, *lines])
  return table


def tutorial(root: pathlib.Path) -> dict:
  """The whole path below `root`; returns the predictions."""
  videos = root / "my_videos"
  videos.mkdir(parents=True)
  table = make_videos(videos)
  data, runs = root / "data", root / "runs"

  # 1. Pack them once: fast to read at random, checked, counted. What could not
  #    be used is listed with reasons in manifest.json.
  clap("build", "folder", "--videos", videos, "--annotations", table,
       "--data_dir", data)  # fmt: skip

  # 2. Words to numbers: a vocabulary from your captions and class names.
  tokenizer = data / "tokenizer.model"
  clap("tokenizer", "--data", "folder/default", "--data_dir", data,
       "--out", tokenizer)  # fmt: skip

  # 3. Pre-train both towers on clips, background and captions.
  clap("train", "--config=configs/pretrain_sprites.py:tiny",
       f"--workdir={runs / 'pretrain'}",
       "--config.data.dataset=folder/default",
       f"--config.data.data_dir={data}",
       f"--config.data.tokenizer={tokenizer}")  # fmt: skip

  # 4. Features of every video, one .npz each.
  clap("extract", "--model", runs / "pretrain", "--data", "folder/default",
       "--data_dir", data, "--out", runs / "features")  # fmt: skip

  # 5. A localizer on these features. Its results.json holds the mAP on your
  #    validation videos, with a card that says what was evaluated.
  clap("train", "--config=configs/localization_sprites.py:tiny",
       f"--workdir={runs / 'localization'}",
       "--config.data.dataset=folder/default",
       f"--config.data.data_dir={data}",
       f"--config.data.features_dir={runs / 'features'}")  # fmt: skip

  # 6. A model is an encoder and its heads; model.json names them.
  (runs / "model.json").write_text(
    json.dumps(
      {
        "encoder": "pretrain",
        "stride_sec": 0.5,
        "localization": "localization",
        "grounding": None,
      }
    )
  )

  # 7. Predict on a video that no stage has seen.
  new = root / "new.mp4"
  render.render_video(
    1, "new", index=0, config=sizes.get_config("tiny-classes_6"), path=new
  )
  clap("predict", new, "--model", runs, "--json", root / "found.json",
       "--export", root / "found")  # fmt: skip
  return json.loads((root / "found.json").read_text())


if __name__ == "__main__":
  tutorial(pathlib.Path(sys.argv[1]))
