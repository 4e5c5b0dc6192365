"""`clap demo` and the commands that take what it made: files and exit codes."""

import json
import math
import pathlib
import re
import shutil

import numpy as np
import pytest

from clap_jax import main
from clap_jax.data import records
from tests.data import built_dataset
from tests.end_to_end.conftest import ENCODERS

ROW_KEYS = {
  "encoder",
  "seed",
  "dataset",
  "split",
  "task",
  "metric",
  "value",
  "card",
}
TASKS = {"retrieval", "localization", "grounding"}


def strict_json(path):
  def refuse(name):
    raise AssertionError(f"{path}: {name} is not JSON")

  return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def run(*arguments, json_to=None):
  """Exit code of a command and the document that it wrote."""
  arguments = [str(argument) for argument in arguments]
  if json_to:
    arguments.append(f"--json={json_to}")
  code = main.main(arguments)
  document = strict_json(json_to) if json_to and json_to.exists() else None
  return code, document


def snapshot(directory):
  """Time and bytes of every file but the locks, which say who ran last."""
  return {
    path: (path.stat().st_mtime_ns, path.read_bytes())
    for path in sorted(directory.rglob("*"))
    if path.is_file() and path.name != ".lock"
  }


def test_results(demo):
  rows = strict_json(demo.root / "results.json")["rows"]
  assert rows == demo.document["rows"]
  for row in rows:
    assert set(row) == ROW_KEYS
    assert row["dataset"] == "motion_sprites/tiny"
    assert row["split"] == "validation"
    assert row["value"] is None or math.isfinite(row["value"])
    assert row["card"]["num_missing"] == 0
  assert {(r["encoder"], r["seed"], r["task"]) for r in rows} == {
    (encoder, 0, task) for encoder in ENCODERS for task in TASKS
  }
  metrics = {(r["task"], r["metric"]) for r in rows}
  assert {
    ("localization", "average_map"),
    ("localization", "map@0.50"),
    ("grounding", "r1@0.5"),
    ("grounding", "r5@0.7"),
    ("grounding", "miou"),
    ("retrieval", "text_to_video/r@1"),
  } <= metrics
  keys = [(r["encoder"], r["seed"], r["task"], r["metric"]) for r in rows]
  assert len(keys) == len(set(keys))


def test_manifests(demo):
  directory = demo.data_dir / "motion_sprites" / "tiny" / "1.0.0"
  sizes = {"train": 8, "selection": 3, "validation": 4}
  for split, count in sizes.items():
    manifest = strict_json(directory / split / "manifest.json")
    assert {"present", "missing", "corrupt", "segments", "captions"} <= set(
      manifest
    )
    assert manifest["present"] == count
    assert manifest["missing"] == manifest["corrupt"] == []
    assert manifest["segments"] > 0
    assert manifest["captions"] > 0
  dataset = records.open_dataset(demo.data_dir, "motion_sprites/tiny")
  assert len(dataset.label_names) >= 20


@pytest.mark.parametrize("encoder", ENCODERS)
def test_features(demo, encoder):
  directory = demo.root / "models" / "seed0" / encoder / "features"
  dataset = records.open_dataset(demo.data_dir, "motion_sprites/tiny")
  widths = set()
  for split in dataset.splits:
    for info in dataset.split(split).metadata().examples:
      with np.load(directory / f"{info.id}.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {
          "features",
          "start_sec",
          "stride_sec",
          "clip_sec",
        }
        features = arrays["features"]
        assert features.dtype == np.float32
        assert np.isfinite(features).all()
        expected = math.floor((info.duration_sec - 2.0) / 0.5 + 1e-6) + 1
        assert features.shape[0] == expected
        widths.add(features.shape[1])
        grid = [
          arrays[key].item() for key in ("start_sec", "stride_sec", "clip_sec")
        ]
        assert grid == [0.0, 0.5, 2.0]
  assert len(widths) == 1
  facts = strict_json(directory / "extracted.json")
  assert facts["encoder"] == encoder
  assert facts["failed"] == []


@pytest.mark.parametrize("task", ["pretrain", "localization", "grounding"])
def test_every_run_has_its_record(demo, task):
  directory = demo.model / task
  config = strict_json(directory / "config.json")
  assert config["trainer"] == task
  lines = [
    json.loads(line)
    for line in (directory / "metrics.jsonl").read_text().splitlines()
  ]
  assert all(isinstance(line["step"], int) for line in lines)
  losses = [line["train/loss"] for line in lines if "train/loss" in line]
  assert losses
  assert np.isfinite(losses).all()
  assert any(
    key.startswith("eval/selection/") for line in lines for key in line
  )
  assert (directory / "checkpoints" / "4" / "manifest.json").is_file()
  assert {
    row["encoder"] for row in strict_json(directory / "results.json")["rows"]
  } == {"clap"}


def test_the_model_directory(demo):
  model = strict_json(demo.model / "model.json")
  assert model == {
    "format": 1,
    "encoder": "pretrain",
    "stride_sec": 0.5,
    "localization": "localization",
    "grounding": "grounding",
  }


def test_predictions_on_the_unseen_video(demo):
  by_label = strict_json(demo.root / "unseen" / "by_label.json")
  by_query = strict_json(demo.root / "unseen" / "by_query.json")
  for document in (by_label, by_query):
    assert document["failed"] == []
    (video,) = document["videos"]
    assert video["predictions"]
  assert by_label["videos"][0]["absent"] is None
  assert isinstance(by_query["videos"][0]["absent"], bool)
  dataset = records.open_dataset(demo.data_dir, "motion_sprites/tiny")
  seen = {
    example.id
    for split in dataset.splits
    for example in dataset.split(split).metadata().examples
  }
  truth = strict_json(demo.root / "unseen" / "truth.json")
  assert truth["id"] not in seen


def test_the_report_needs_nothing_but_itself(demo):
  page = (demo.root / "report.html").read_text(encoding="utf-8")
  assert len(page.encode()) < 8_000_000
  links = re.findall(r"""(?:\bsrc|\bhref)\s*=\s*["']([^"']*)""", page)
  assert links
  assert not [x for x in links if not x.startswith(("data:", "#"))]
  assert not re.findall(r"url\((?!['\"]?(?:data:|#))", page)
  assert not re.findall(r"@import|<link|<iframe|fetch\(|XMLHttp", page)
  for word in (
    "Pre-training loss",
    "arXiv 2204.12293",
    "clap predict",
    "validation_000000",
  ):
    assert word in page
  assert str(pathlib.Path.home()) + "/" not in page or str(
    demo.root
  ).startswith(str(pathlib.Path.home()))


def test_a_second_run_changes_nothing(demo, tmp_path):
  before = snapshot(demo.root)
  code, document = run(
    "demo",
    f"--workdir={demo.root}",
    "--size=tiny",
    f"--encoders={','.join(ENCODERS)}",
    json_to=tmp_path / "again.json",
  )
  assert code == 0
  assert document == demo.document
  after = snapshot(demo.root)
  assert set(after) == set(before)
  page = demo.root / "report.html"  # written again, to the same bytes
  assert [p for p in before if p != page and after[p] != before[p]] == []
  assert after[page][1] == before[page][1]


def test_the_report_is_reproduced(demo, tmp_path):
  path = demo.root / "report.html"
  before = path.read_bytes()
  code, document = run(
    "report", f"--workdir={demo.root}", json_to=tmp_path / "report.json"
  )
  assert code == 0
  assert document == {"report": str(path)}
  assert path.read_bytes() == before


def test_a_moved_demo_keeps_its_other_rows(demo, tmp_path):
  moved = shutil.copytree(demo.root, tmp_path / "moved")
  code, document = run(
    "demo",
    f"--workdir={moved}",
    "--size=tiny",
    "--encoders=clap",
    json_to=tmp_path / "clap.json",
  )
  assert code == 0
  assert document == demo.document
  assert strict_json(moved / "results.json") == demo.document


def test_another_size_in_the_same_workdir(demo, capsys):
  before = snapshot(demo.root)
  assert run("demo", f"--workdir={demo.root}", "--size=demo")[0] == 2
  assert "holds a demo of size tiny, not demo" in capsys.readouterr().err
  assert snapshot(demo.root) == before


@pytest.mark.parametrize("task", ["pretrain", "localization", "grounding"])
def test_eval_gives_the_results_again(demo, tmp_path, task):
  code, document = run(
    "eval", f"--workdir={demo.model / task}", json_to=tmp_path / "eval.json"
  )
  assert code == 0
  assert document == strict_json(demo.model / task / "results.json")


def test_eval_on_another_split(demo, tmp_path, capsys):
  workdir = f"--workdir={demo.model / 'localization'}"
  code, document = run(
    "eval", workdir, "--split=selection", json_to=tmp_path / "eval.json"
  )
  assert code == 0
  assert {row["split"] for row in document["rows"]} == {"selection"}
  assert {row["card"]["num_evaluated"] for row in document["rows"]} == {3}
  capsys.readouterr()
  assert run("eval", workdir, "--split=test")[0] == 2
  assert "choose from train, selection, validation" in capsys.readouterr().err


def train_again(demo, *overrides):
  return run(
    "train",
    "--config=configs/localization_sprites.py:tiny,seed=0",
    f"--workdir={demo.model / 'localization'}",
    f"--config.data.data_dir={demo.data_dir}",
    f"--config.data.features_dir={demo.model / 'features'}",
    *overrides,
  )


def test_a_finished_run_is_neither_repeated_nor_replaced(demo, capsys):
  before = snapshot(demo.model)
  assert train_again(demo)[0] == 0
  assert "holds this run, finished" in capsys.readouterr().err
  assert train_again(demo, "--config.optimizer.learning_rate=0.5")[0] == 2
  assert "optimizer.learning_rate: was 0.001, now 0.5" in (
    capsys.readouterr().err
  )
  assert snapshot(demo.model) == before


def extract_into(demo, out, *options, encoder="clap"):
  return run(
    "extract",
    f"--model={demo.root / 'models' / 'seed0' / encoder / 'pretrain'}",
    "--data=motion_sprites/tiny",
    f"--data_dir={demo.data_dir}",
    f"--out={out}",
    *options,
  )


def test_extract_refuses_to_mix_features(demo, capsys):
  out = demo.model / "features"
  before = snapshot(out)
  assert extract_into(demo, out, "--stride_sec=1.0")[0] == 2
  assert "differ in stride_sec" in capsys.readouterr().err
  assert extract_into(demo, out, encoder="random")[0] == 2
  assert "differ in parameters" in capsys.readouterr().err
  assert extract_into(demo, out)[0] == 0
  assert snapshot(out) == before


def test_extract_of_one_split(demo, tmp_path):
  out, answer = tmp_path / "features", tmp_path / "extract.json"
  code, document = extract_into(
    demo, out, "--split=selection", f"--json={answer}"
  )
  assert code == 0
  assert document is None
  assert strict_json(answer) == {"written": 3, "kept": 0, "failed": []}
  for path in out.glob("*.npz"):
    with (
      np.load(path) as own,
      np.load(demo.model / "features" / path.name) as shared,
    ):
      np.testing.assert_array_equal(own["features"], shared["features"])


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  """A good and a broken one."""
  directory = tmp_path_factory.mktemp("own_videos")
  good = built_dataset.encode_mp4(80)
  (directory / "good.mp4").write_bytes(good)
  (directory / "broken.mp4").write_bytes(good[: len(good) // 3])
  return directory


def test_predict(demo, videos, tmp_path):
  dataset = records.open_dataset(demo.data_dir, "motion_sprites/tiny")
  labels = tmp_path / "labels.txt"
  labels.write_text("\n".join(dataset.label_names[:3]) + "\n\n")
  code, document = run(
    "predict",
    videos / "broken.mp4",
    videos / "good.mp4",
    videos / "missing.mp4",
    f"--model={demo.model}",
    f"--labels={labels}",
    "--query=a red square spins",
    json_to=tmp_path / "predict.json",
  )
  assert code == 0
  assert set(document) == {"videos", "failed"}
  assert [entry["video"] for entry in document["failed"]] == [
    str(videos / name) for name in ("broken.mp4", "missing.mp4")
  ]
  assert all(entry["reason"] for entry in document["failed"])
  (video,) = document["videos"]
  assert video["duration_sec"] == pytest.approx(10.0)
  assert isinstance(video["absent"], bool)
  for entry in video["predictions"]:
    what = set(entry) - {"start_sec", "end_sec", "score"}
    assert what in ({"label"}, {"query"})
    assert 0 <= entry["start_sec"] <= entry["end_sec"] <= 10.0
    if "label" in entry:
      assert entry["label"] in dataset.label_names[:3]


def test_commands_exit_2_where_no_video_can_be_used(
  demo, videos, tmp_path, capsys
):
  folder = tmp_path / "videos"
  folder.mkdir()
  shutil.copy(videos / "broken.mp4", folder)
  code, document = run(
    "predict",
    folder / "broken.mp4",
    f"--model={demo.model}",
    json_to=tmp_path / "predict.json",
  )
  assert code == 2
  assert "no video could be used" in capsys.readouterr().err
  assert document["videos"] == [] and len(document["failed"]) == 1
  index = ("index", folder, f"--model={demo.model}", f"--out={tmp_path / 'i'}")
  assert run(*index)[0] == 2
  assert "no video could be used" in capsys.readouterr().err
  shutil.copy(videos / "good.mp4", folder)
  assert run(*index)[0] == 0


def test_predict_with_labels_that_the_model_does_not_know(
  demo, videos, tmp_path, capsys
):
  labels, output = tmp_path / "labels.txt", tmp_path / "predict.json"
  labels.write_text("moonwalks\n")
  arguments = (
    "predict",
    videos / "good.mp4",
    f"--model={demo.model}",
    f"--labels={labels}",
  )
  assert run(*arguments, json_to=output) == (2, None)
  message = capsys.readouterr().err
  dataset = records.open_dataset(demo.data_dir, "motion_sprites/tiny")
  assert "moonwalks" in message
  assert all(name in message for name in dataset.label_names)
  labels.write_text("\n")
  assert run(*arguments)[0] == 2
  assert "names no class" in capsys.readouterr().err
  labels.write_bytes(b"\xff\xfe\x00")
  assert run(*arguments)[0] == 2


def test_json_holds_one_document_and_stdout_nothing(
  demo, videos, tmp_path, capsys
):
  output = tmp_path / "predict.json"
  output.write_text("what was there before, and longer " * 10_000)
  arguments = ("predict", videos / "good.mp4", f"--model={demo.model}")
  capsys.readouterr()
  code, document = run(*arguments, json_to=output)
  assert code == 0
  assert document["videos"]
  assert capsys.readouterr().out == ""


def test_a_failed_run_exits_3(demo, tmp_path, capsys):
  workdir = tmp_path / "damaged"
  shutil.copytree(demo.model / "localization", workdir)
  for path in (workdir / "checkpoints").rglob("*"):
    if path.is_file() and path.parent.name == "d":
      path.write_bytes(b"x" * path.stat().st_size)
  assert run("eval", f"--workdir={workdir}")[0] == 3
  message = capsys.readouterr().err
  assert "CheckpointError" in message
  assert "is damaged" in message


def test_a_model_that_is_not_finished(demo, tmp_path, capsys):
  unfinished = tmp_path / "model"
  shutil.copytree(demo.model, unfinished)
  (unfinished / "grounding" / "grounder.json").unlink()
  assert run("predict", "a.mp4", f"--model={unfinished}")[0] == 2
  assert "no finished run (no grounder.json)" in capsys.readouterr().err
  assert run("eval", f"--workdir={unfinished / 'grounding'}")[0] == 2
  assert "no finished run (no grounder.json)" in capsys.readouterr().err
  (unfinished / "pretrain" / "encoder.json").unlink()
  assert run("predict", "a.mp4", f"--model={unfinished}")[0] == 2
  assert "no encoder.json" in capsys.readouterr().err
