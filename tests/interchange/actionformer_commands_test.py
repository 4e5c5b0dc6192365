"""Public ActionFormer configurations by commands: import to training on.

Stand-ins of the public checkpoints, a few levels of a few channels: EPIC of
numbers without segments in .npz files, Ego4D of three streams, ActivityNet
with an outside classifier; all with videos beyond the training length.
"""

import copy
import json

import numpy as np
import pytest
import yaml

from clap_jax import main
from tests.interchange import published_heads, stand_ins

PUBLISHED = yaml.safe_load(
  (published_heads.FIXTURES / "actionformer_published.yaml").read_text()
)
SMALL = {
  "backbone_arch": [1, 1, 1],
  "regression_range": [[0, 4], [2, 10000]],
  "n_head": 2,
  "embd_dim": 8,
  "fpn_dim": 8,
  "head_dim": 8,
}
FEW = {"pre_nms_topk": 40, "max_seg_num": 20}
# Recipe -> changes of its .yaml, {folder: channels}, ending, and class numbers.
CASES = {
  "epic_slowfast_noun": (
    {
      "dataset": {"num_classes": 9, "max_seq_len": 48},
      "model": SMALL | {"n_mha_win_size": 5},
    },
    {"features": 6},
    ".npz",
    (1, 7, 4),
  ),
  "ego4d_slowfast_omnivore_egovlp": (
    {
      "dataset": {"num_classes": 3, "max_seq_len": 48, "feat_folder": None},
      "model": SMALL | {"embd_dim": [4, 2, 2], "n_mha_win_size": [9, -1]},
    },
    {"slowfast_features": 5, "omnivore_features": 3, "egovlp_features": 2},
    ".npy",
    (2, 1, 0),
  ),
  "anet_tsp": (
    {
      "dataset": {"max_seq_len": 48},
      "model": SMALL | {"n_mha_win_size": [7, -1]},
    },
    {"features": 6},
    ".npy",
    (0, 1, 2),
  ),
}
# Longer than in training, shorter, and just as long.
LENGTHS = (150, 40, 64, 90)
NAMES = ("pour", "cut", "wash")


def run(*argv) -> None:
  assert main.main([str(argument) for argument in argv]) == 0, argv


def video_facts(number: int, numbers, *, stride_sec: float) -> dict:
  """The entry of a video in the annotations."""
  length_sec = LENGTHS[number] * stride_sec
  return {
    "subset": ("training", "validation")[number % 2],
    "duration": length_sec,
    "fps": 30.0,
    "annotations": [
      {
        "label": name,
        "label_id": label_id,
        "segment": [length_sec * i / 4, length_sec * (i + 0.7) / 4],
      }
      for i, (name, label_id) in enumerate(zip(NAMES, numbers, strict=True))
    ],
  }


@pytest.fixture(scope="module")
def case(request, tmp_path_factory):
  """(recipe, folder) with config, checkpoint, features and annotations."""
  changes, widths, suffix, numbers = CASES[request.param]
  root = tmp_path_factory.mktemp(request.param)
  values = copy.deepcopy(PUBLISHED[request.param])
  for section, keys in (changes | {"test_cfg": FEW}).items():
    values[section].update(keys)
  folders = [str(root / folder) for folder in widths]
  of_streams = list(widths.values())
  values["dataset"] |= {
    "feat_folder": folders if folders[1:] else folders[0],
    "input_dim": of_streams if of_streams[1:] else of_streams[0],
  }
  config = root / "config.yaml"
  config.write_text(yaml.safe_dump(values))
  stand_ins.write(root / "epoch_019.pth.tar", config)
  dataset = values["dataset"]
  prefix = dataset.get("file_prefix") or ""
  stride_sec = dataset["feat_stride"] / dataset["default_fps"]
  rng = np.random.default_rng(0)
  database = {}
  for number, length in enumerate(LENGTHS):
    name = f"video_{number}"
    for folder, width in widths.items():
      (root / folder).mkdir(exist_ok=True)
      path = root / folder / f"{prefix}{name}{suffix}"
      features = rng.normal(size=(length, width)).astype(np.float32)
      if suffix == ".npz":
        np.savez(path, feats=features)
      else:
        np.save(path, features)
    database[name] = video_facts(number, numbers, stride_sec=stride_sec)
  (root / "annotations.json").write_text(json.dumps({"database": database}))
  scores = {
    "class": list(NAMES),
    "results": {name: [0.2, 0.7, 0.1] for name in database},
  }
  (root / "classes.json").write_text(json.dumps(scores))
  run(
    "import", root / "epoch_019.pth.tar", "--source=actionformer",
    f"--config={config}", f"--out={root / 'head'}",
    f"--json={root / 'import.json'}",
  )  # fmt: skip
  return request.param, root


def of(*recipes):
  """Runs a test on these cases; each command compiles for seconds."""
  return pytest.mark.parametrize("case", recipes, indirect=True)


def data_flags(recipe, root) -> list[str]:
  """What every command needs of the data; features as the import named them."""
  flags = [
    f"--config.data.annotations={root / 'annotations.json'}",
    "--config.data.batch_size=8",  # one of every device of the tests
  ]
  if recipe == "anet_tsp":
    flags.append(f"--config.classifier.path={root / 'classes.json'}")
  return flags


@of("epic_slowfast_noun", "anet_tsp")
def test_evaluation(case, tmp_path, capsys):
  recipe, root = case
  path = tmp_path / "rows.json"
  run(
    "eval", f"--workdir={root / 'head'}", *data_flags(recipe, root),
    f"--json={path}",
  )  # fmt: skip
  rows = json.loads(path.read_text())["rows"]
  values = {row["metric"]: row["value"] for row in rows}
  assert 0 <= values["average_map"] <= 1
  # A class-agnostic head has nothing to name; others go by the label_ids.
  err = capsys.readouterr().err
  assert ("by their label_id" in err) == (recipe != "anet_tsp")


@of("ego4d_slowfast_omnivore_egovlp")
def test_prediction_of_a_long_video(case, tmp_path):
  recipe, root = case
  folder, suffix = next(iter(CASES[recipe][1])), CASES[recipe][2]
  prefix = "v_" if recipe == "anet_tsp" else ""
  path = tmp_path / "found.json"
  run(
    "predict", root / folder / f"{prefix}video_0{suffix}",
    f"--model={root / 'head'}", f"--json={path}",
  )  # fmt: skip
  (video,) = json.loads(path.read_text())["videos"]
  assert video["predictions"]
  latest = max(entry["end_sec"] for entry in video["predictions"])
  assert latest <= video["duration_sec"]


@of("ego4d_slowfast_omnivore_egovlp")
def test_training_on(case, tmp_path):
  recipe, root = case
  flags = json.loads((root / "import.json").read_text())["flags"]
  names = json.loads((root / "head" / "config.json").read_text())
  run(
    "train", f"--config=configs/localization_actionformer.py:{recipe}",
    f"--workdir={tmp_path / 'run'}", *data_flags(recipe, root),
    *(flag.replace("'", "") for flag in flags),
    f"--config.data.features_dir={names['data']['features_dir']}",
    f"--config.data.files.names={tuple(names['data']['files']['names'])!r}",
    "--config.loop.epochs=1", "--config.optimizer.warmup_epochs=0.5",
  )  # fmt: skip
  rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
  assert {row["split"] for row in rows} == {"validation"}
