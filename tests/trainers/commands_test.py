"""Every trainer by its commands: train, evaluate, predict."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from clap_jax import main
from clap_jax.evaluation import results
from clap_jax.inference import encoder as encoder_lib
from clap_jax.trainers import end_to_end
from clap_jax.training import checkpoint
from tests.data import built_dataset
from tests.trainers import toy_runs

LABELS = built_dataset.LABEL_NAMES
SPLIT = {"base": ["slides", "spins"], "validation": [], "novel": ["fades"]}
# The tests compile most of the time: few layers, and few operations in each.
SMALL_PYRAMID = {
  "data.max_length": 16,
  "pyramid.width": 8,
  "pyramid.num_levels": 1,
  "pyramid.num_stem_blocks": 0,
  "pyramid.dropout_rate": 0.0,
  "head.num_convs": 0,
  "head.dropout_rate": 0.0,
  "decode.num_kept": 5,
}
SMALL_GROUNDER = SMALL_PYRAMID | {
  "fusion.dropout_rate": 0.0,
  "optimizer.name": "sgd",
}
# Name -> config, overrides, arguments of `clap predict`, the labels it may use.
HEADS = {
  "points": ("localization_sprites.py:tiny", SMALL_PYRAMID, [], LABELS),
  "subgraph": (
    "proposals_hapt.py:tiny",
    {
      "data.annotations": None,
      "data.files": None,
      "data.holdout": None,
      "data.standardize": False,
      "graph.width": 8,
      "graph.num_groups": 2,
      "graph.map_widths": (8, 8, 8),
    },
    [],
    LABELS,
  ),
  "open_vocabulary": (
    "localization_open_sprites.py:tiny",
    SMALL_PYRAMID | {"classes.class_split": "{split}"},
    ["--labels={labels}"],
    ("a cat sleeps", "fades"),
  ),
  "fewshot": (
    "fewshot_sprites.py:tiny",
    SMALL_PYRAMID
    | {
      "class_split": "{split}",
      "allow_seen_classes": True,
      "matcher.adapt_steps": 2,
      "evaluation.min_episodes": 2,
    },
    ["--support={support}"],
    ("hops",),
  ),
  "grounding_pyramid": (
    "grounding_sprites.py:tiny",
    SMALL_GROUNDER,
    ["--query=the square spins"],
    (),
  ),
  "grounding_map": (
    "grounding_sprites.py:tiny,kind=map",
    SMALL_GROUNDER | {"map.pooling_counts": (4, 2), "map.num_neighbours": 3},
    ["--query=the square spins"],
    (),
  ),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, pathlib.Path]:
  """What users bring: a video, class names, a division of classes, examples."""
  path = tmp_path_factory.mktemp("files")
  (path / "video.mp4").write_bytes(built_dataset.encode_mp4(64))
  (path / "labels.txt").write_text("a cat sleeps\nfades\n")
  (path / "split.json").write_text(json.dumps(SPLIT))
  (path / "support" / "hops").mkdir(parents=True)
  shutil.copy(path / "video.mp4", path / "support" / "hops" / "one.mp4")
  return {
    "video": path / "video.mp4",
    "labels": path / "labels.txt",
    "split": path / "split.json",
    "support": path / "support",
  }


def evaluated(workdir):
  """The rows of `clap eval`."""
  out = workdir.parent / f"{workdir.name}_rows.json"
  toy_runs.clap("eval", f"--workdir={workdir}", f"--json={out}")
  return json.loads(out.read_text())["rows"]


def predicted(model, files, *arguments):
  """Returns the answer of `clap predict` for the video."""
  out = model.parent / f"{model.name}_found.json"
  toy_runs.clap(
    "predict", files["video"], f"--model={model}", f"--json={out}", *arguments
  )
  (found,) = json.loads(out.read_text())["videos"]
  return found["predictions"]


def check_predictions(entries, labels) -> None:
  assert entries
  for entry in entries:
    assert 0 <= entry["start_sec"] <= entry["end_sec"] <= 8.0
    assert np.isfinite(entry["score"])
  if labels:
    assert {entry["label"] for entry in entries} <= set(labels)


def last_evaluation(workdir, split="train"):
  """The scalars of the last evaluation during training."""
  prefix = f"eval/{split}/"
  found = {}
  for line in (workdir / "metrics.jsonl").read_text().splitlines():
    scalars = json.loads(line)
    found |= {
      key.removeprefix(prefix): value
      for key, value in scalars.items()
      if key.startswith(prefix)
    }
  return found


def values_of(rows):
  return {row["metric"]: row["value"] for row in rows}


def test_pretraining_uses_its_moving_average_everywhere(
  pretrained_directory, files
):
  workdir = pretrained_directory / "pretrain"
  rows = results.read(workdir)
  assert {row["task"] for row in rows} == {"retrieval"}
  assert last_evaluation(workdir) == values_of(rows)
  assert evaluated(workdir) == rows
  last, average = (
    checkpoint.restore_params(workdir, use_ema=use_ema)[0]
    for use_ema in (False, True)
  )
  loaded = encoder_lib.load_encoder(workdir).params
  jax.tree.map(np.testing.assert_array_equal, loaded, average)
  pairs = zip(jax.tree.leaves(last), jax.tree.leaves(average), strict=True)
  assert not all(np.array_equal(a, b) for a, b in pairs)
  model = pretrained_directory / "model.json"
  model.write_text('{"encoder": "pretrain", "stride_sec": 1.0}')
  found = predicted(
    pretrained_directory, files, f"--support={files['support']}"
  )
  check_predictions(found, ("hops",))


@pytest.mark.parametrize(
  ("encoder", "without"), [("tac", "captions"), ("clip", "segments")]
)
def test_pretraining_on_labels_or_captions_alone(
  encoder, without, pretrained_directory, tmp_path
):
  built_dataset.write_dataset(tmp_path, num_videos=2, without=(without,))
  workdir = toy_runs.train(
    tmp_path,
    f"pretrain_sprites.py:tiny,encoder={encoder}",
    workdir="run",
    values=toy_runs.SMALL_TOWERS
    | {
      "data.tokenizer": pretrained_directory / "tokenizer.model",
      "optimizer.name": "sgd",
    },
  )
  assert encoder_lib.load_encoder(workdir).name == encoder
  rows = results.read(workdir)
  assert {row["task"] for row in rows} == {"retrieval"}
  notes = " ".join(rows[0]["card"]["notes"])
  assert ("no captions" in notes) == (without == "captions")
  assert evaluated(workdir) == rows


def test_pretraining_that_has_nothing_to_read_is_refused(
  pretrained_directory, tmp_path, capsys
):
  built_dataset.write_dataset(tmp_path, num_videos=2, without=("captions",))
  values = toy_runs.dataset_overrides(tmp_path) | {
    "data.tokenizer": pretrained_directory / "tokenizer.model"
  }
  code = main.main(
    [
      "train",
      "--config=configs/pretrain_sprites.py:tiny,encoder=clip",
      f"--workdir={tmp_path / 'run'}",
      *(f"--config.{key}={value}" for key, value in values.items()),
    ]
  )
  assert code == 2
  assert "sampling.text_source" in capsys.readouterr().err
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", HEADS)
def test_a_head_on_the_features_of_a_pretrained_encoder(
  name, pretrained_directory, files
):
  config, values, arguments, labels = HEADS[name]
  shared = {
    "data.features_dir": pretrained_directory / "features",
    "loop.steps": 2,
  }
  workdir = toy_runs.train(
    pretrained_directory,
    config,
    workdir=name,
    values=shared
    | {
      key: value.format(**files) if isinstance(value, str) else value
      for key, value in values.items()
    },
  )
  rows = results.read(workdir)
  assert rows and all("protocol" in row["card"] for row in rows)
  if name != "open_vocabulary":  # looks at the validation classes in training
    assert last_evaluation(workdir).items() <= values_of(rows).items()
  assert values_of(evaluated(workdir)) == values_of(rows)
  arguments = [argument.format(**files) for argument in arguments]
  check_predictions(predicted(workdir, files, *arguments), labels)


def test_localization_end_to_end(pretrained_directory, files):
  pretrained = pretrained_directory / "pretrain"
  workdir = toy_runs.train(
    pretrained_directory,
    "localization_end_to_end_sprites.py:tiny,frozen=stem",
    workdir="end_to_end",
    values=SMALL_PYRAMID
    | {
      "tower.workdir": pretrained,
      "loop.steps": 2,
      "data.stride_sec": 1.0,
      "data.batch_size": 8,  # one video on each of the tests' devices
    },
  )
  rows = results.read(workdir)
  assert {row["task"] for row in rows} == {"localization"}
  notes = " ".join(rows[0]["card"]["notes"])
  assert "end to end" in notes
  assert "of toy/small" in notes
  assert "embed" in notes  # what stays frozen
  assert last_evaluation(workdir) == values_of(rows)
  assert evaluated(workdir) == rows
  before = encoder_lib.load_encoder(pretrained).params["params"]
  model = workdir / end_to_end.MODEL_DIRECTORY
  after = encoder_lib.load_encoder(model / "encoder").params["params"]
  for part, same in (("embed", True), ("blocks", False)):
    pairs = zip(
      jax.tree.leaves(before["video_tower"][part]),
      jax.tree.leaves(after["video_tower"][part]),
      strict=True,
    )
    equal = all(np.array_equal(a, b) for a, b in pairs)
    assert equal == same, part
  check_predictions(predicted(model, files), LABELS)
