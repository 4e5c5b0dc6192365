"""Features and annotations of one's own: everything is said by flags."""

import csv
import json
import pathlib

import numpy as np
import pytest

from clap_jax import main
from clap_jax.data import annotated_videos, query_annotations

LABELS = ("run", "jump")
WIDTH, NUM_VIDEOS, LENGTH = 6, 12, 16
SMALL = (
  "pyramid.num_levels=2",
  "pyramid.window_steps=3",
  "data.max_length=16",
  "data.batch_size=8",
  "loop.steps=2",
  "loop.tensorboard=False",
  "optimizer.ema_decay=None",
)


def write(directory: pathlib.Path) -> dict[str, pathlib.Path]:
  """Features at 15 fps, every 8 frames, and a table of labels and captions."""
  folder = directory / "features"
  folder.mkdir()
  header = (
    "Video",
    "start",
    "end",
    "label",
    "caption",
    "subset",
    "video_duration",
  )
  rows = []
  rng = np.random.default_rng(0)
  for number in range(NUM_VIDEOS):
    array = rng.normal(size=(LENGTH, WIDTH)).astype(np.float32)
    np.save(folder / f"clip_{number}.npy", array)
    subset = "training" if number < 8 else "validation"
    label = LABELS[number % 2]
    rows.append(
      (
        f"clip_{number}.mp4",
        "2.0",
        "5.5",
        label,
        f"somebody is about to {label}",
        subset,
        "8.8",
      )
    )
  table = directory / "own.csv"
  with table.open("w", newline="") as file:
    csv.writer(file).writerows([header, *rows])
  texts = sorted({row[4] for row in rows})
  np.savez(
    directory / "texts.npz",
    texts=np.array(texts),
    vectors=rng.normal(size=(len(texts), 4, 8)).astype(np.float32),
    mask=np.ones((len(texts), 4), bool),
  )
  return {
    "annotations": table,
    "features_dir": folder,
    "texts": directory / "texts.npz",
  }


def flags(paths, *names) -> list[str]:
  given = [f"data.{name}={paths[name]}" for name in names]
  given += [
    "data.files.names={id}.npy",
    "data.files.timing=frames",
    "data.files.fps=15",
    "data.files.stride_frames=8",
    "data.files.window_frames=16",
    *SMALL,
  ]
  return [f"--config.{text}" for text in given]


@pytest.mark.parametrize(
  ("task", "names", "more", "metric"),
  [
    ("localization", ("annotations", "features_dir"), (), "average_map"),
    (
      "grounding",
      ("annotations", "features_dir", "texts"),
      ("--config.fusion.num_heads=2", "--config.pyramid.num_heads=2"),
      "miou",
    ),
  ],
)
def test_from_files_to_numbers(tmp_path, task, names, more, metric):
  paths, workdir = write(tmp_path), tmp_path / "run"
  command = [
    "train",
    "--config",
    f"configs/{task}_features.py:tiny",
    "--workdir",
    str(workdir),
    *flags(paths, *names),
    *more,
  ]
  assert main.main(command) == 0
  rows = json.loads((workdir / "results.json").read_text())["rows"]
  values = {row["metric"]: row["value"] for row in rows}
  assert 0 <= values[metric] <= 1
  assert {row["dataset"] for row in rows} == {"own"}
  assert rows[0]["card"]["num_evaluated"] == 4
  out = tmp_path / "again.json"
  asked = ["eval", "--workdir", str(workdir), "--json", str(out)]
  assert main.main(asked) == 0
  again = {r["metric"]: r["value"] for r in read_rows(out)}
  assert again == pytest.approx(values)
  if task == "localization":  # what follows is the same code for both
    check_changes(workdir, command, asked, table=paths["annotations"])


def check_changes(workdir, command, asked, *, table) -> None:
  """What may change in a finished run, and what may not."""
  # Evaluated in another way, without training again.
  assert main.main([*asked, "--config.decode.num_kept=3"]) == 0
  assert "3 per" in read_rows(pathlib.Path(asked[-1]))[0]["card"]["top_k"]
  checkpoints = sorted((workdir / "checkpoints").iterdir())
  assert main.main([*command, "--config.data.eval_split=training"]) == 0
  (split,) = {row["split"] for row in read_rows(workdir / "results.json")}
  assert split == "training"
  assert sorted((workdir / "checkpoints").iterdir()) == checkpoints
  # The same table elsewhere is the same run, another one is not.
  moved = table.with_name("moved.csv")
  table.rename(moved)
  command += [
    f"--config.data.annotations={moved}",
    "--config.data.eval_split=training",
  ]
  assert main.main(command) == 0
  moved.write_text(moved.read_text().replace("5.5", "5.0"))
  assert main.main(command) == 2


def read_rows(path) -> list[dict]:
  return json.loads(path.read_text())["rows"]


def test_a_table_has_labels_captions_subsets_and_durations(tmp_path):
  paths = write(tmp_path)
  found = annotated_videos.AnnotatedVideos(paths["annotations"])
  assert found.splits == ("training", "validation")
  assert found.label_names == ("jump", "run")
  info = found.examples("val")[0]
  assert (info.id, info.duration_sec) == ("clip_8", 8.8)
  assert info.segments.tolist() == [[2.0, 5.5]]
  assert info.captions == ((2.0, 5.5, "somebody is about to run"),)
  texts = query_annotations.read_sentences(paths["annotations"])
  assert texts == ("somebody is about to run", "somebody is about to jump")


HEADER = "video,start,end,label,subset,video_duration\n"


@pytest.mark.parametrize(
  ("text", "named"),
  [
    (f"{HEADER}a,1,x,run,train,9\n", "line 2"),
    (f"{HEADER}a,1,2,,train,9\n", "line 2.*neither a label nor a caption"),
    (f"{HEADER}a,1,2,run,train,9\na,3,4,run,val,9\n", "line 3.*subset 'val'"),
    (f"{HEADER}a,1,2,run,train,9\na,3,4,run,train,8\n", r"line 3.*duration"),
    (f"{HEADER}a,1,2,run,train,\n", r"video_duration.*data\.durations"),
  ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path, text, named):
  path = tmp_path / "own.csv"
  path.write_text(text)
  with pytest.raises(ValueError, match=named):
    annotated_videos.AnnotatedVideos(path)


def test_durations_may_stand_in_a_file_of_their_own(tmp_path):
  path, lengths = tmp_path / "own.csv", tmp_path / "lengths.csv"
  path.write_text("video,start,end,label,subset\na.mp4,1,2,run,train\n")
  lengths.write_text("id,length\na,7.5\n")
  found = annotated_videos.AnnotatedVideos(path, duration_files=(str(lengths),))
  assert found.examples("train")[0].duration_sec == 7.5


def test_json_may_have_captions_beside_or_instead_of_labels(tmp_path):
  path = tmp_path / "own.json"
  entries = [
    {"segment": [1, 2], "label": "run", "caption": "he runs"},
    {"segment": [3, 4], "caption": "he rests"},
  ]
  video = {"subset": "train", "duration": 9.0, "annotations": entries}
  path.write_text(json.dumps({"database": {"a": video}}))
  found = annotated_videos.AnnotatedVideos(path)
  (info,) = found.examples("training")
  assert found.label_names == ("run",)
  assert info.segments.tolist() == [[1.0, 2.0]]
  assert [text for *_, text in info.captions] == ["he runs", "he rests"]
  assert query_annotations.read_sentences(path) == ("he runs", "he rests")
