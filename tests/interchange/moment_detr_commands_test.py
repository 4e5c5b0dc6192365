"""From a public checkpoint through the commands, as the documents say."""

import json

import numpy as np
import pytest

from tests.interchange import published_moment_detr as published_lib
from tests.trainers import toy_runs

NUM_STEPS = 20  # of two seconds
MOMENTS = [([[2, 6]], [1, 2]), ([[10, 12], [20, 30]], [5, 10, 11, 12, 13, 14])]


def write_split(directory, name, videos, first):
  """Two queries of each video in the benchmark's form; returns them."""
  records = [
    {
      "qid": first + 2 * number + place,
      "query": f"{video} does {place}",
      "vid": f"{video}_0.0_40.0",
      "duration": 2 * NUM_STEPS,
      "relevant_windows": windows,
      "relevant_clip_ids": ids,
      "saliency_scores": ([[4, 2, 3], [1, 2, 1], [0, 0, 1]] * 2)[: len(ids)],
    }
    for number, video in enumerate(videos)
    for place, (windows, ids) in enumerate(MOMENTS)
  ]
  text = "".join(json.dumps(record) + "\n" for record in records)
  (directory / f"{name}.jsonl").write_text(text)
  return records


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Annotations, features and texts as they are published."""
  directory = tmp_path_factory.mktemp("highlights")
  rng = np.random.default_rng(0)
  records = write_split(directory, "train", "abcd", 1)
  records += write_split(directory, "val", "ij", 101)
  (directory / "ids.txt").write_text("a\nb\n")
  for folder in ("features", "texts"):
    (directory / folder).mkdir()
  for record in records:
    np.savez(
      directory / "features" / f"{record['vid']}.npz",
      features=rng.normal(size=(NUM_STEPS, 22)).astype(np.float32),
    )
    np.savez(
      directory / "texts" / f"qid{record['qid']}.npz",
      last_hidden_state=rng.normal(size=(6, 16)).astype(np.float32),
    )
  return directory


def flags_of(data):
  files = "--config.data.queries.files"
  return (
    f"--config.data.features_dir={data / 'features'}",
    "--config.data.files.names=('{id}.npz',)",
    f"{files}.train={data / 'train.jsonl'}",
    f"{files}.val={data / 'val.jsonl'}",
    f"--config.data.queries.texts={data / 'texts'}/qid{{id}}.npz",
    f"--config.data.queries.held_out={data / 'ids.txt'}",
  )


def numbers(path):
  return json.loads(path.read_text())


def metrics_of(path):
  return {row["metric"]: row["value"] for row in numbers(path)["rows"]}


def test_import_evaluate_train_predict_score(data, tmp_path):
  tensors = {  # fewer layers compile faster
    name: array
    for name, array in published_lib.public_tensors(
      published_lib.small()
    ).items()
    if not name.startswith("transformer.encoder.layers.1.")
  }
  options = json.loads(published_lib.OPTIONS.read_text())
  checkpoint, head = tmp_path / "model_best.npz", tmp_path / "head"
  np.savez(checkpoint, **{f"model.{k}": v for k, v in tensors.items()})
  (tmp_path / "opt.json").write_text(json.dumps(options | {"enc_layers": 1}))
  toy_runs.clap(
    "import",
    checkpoint,
    "--source=moment_detr",
    f"--out={head}",
    f"--json={tmp_path / 'import.json'}",
  )
  flags = flags_of(data)
  toy_runs.clap(
    "eval", f"--workdir={head}", *flags, f"--json={tmp_path / 'eval.json'}"
  )
  before = metrics_of(tmp_path / "eval.json")
  assert {"MR-full-mAP", "HL-min-VeryGood-mAP"} <= before.keys()
  assert "absent_f1" not in before  # an import has no calibration

  needed = numbers(tmp_path / "import.json")["flags"]
  needed = [flag.replace("'", "") for flag in needed]  # the shell's
  workdir = tmp_path / "run"
  toy_runs.clap(
    "train",
    "--config=configs/grounding_qvhighlights.py:full,kind=detr",
    f"--workdir={workdir}",
    *needed,
    *flags,
    "--config.data.batch_size=8",
    "--config.loop.epochs=None",
    "--config.loop.steps=2",
    "--config.checkpoint.save_every_percent=100",
    "--config.detr.dropout_rate=0.0",
    "--config.detr.input_dropout_rate=0.0",
  )
  values = metrics_of(workdir / "results.json")
  assert "absent_f1" in values
  written = workdir / "metrics.jsonl"
  steps = [json.loads(line) for line in written.read_text().splitlines()]
  names = {name.rpartition("/")[2] for step in steps for name in step}
  assert {"label", "span", "iou", "saliency", "label_0"} <= names

  lines = [
    json.loads(line)
    for line in (workdir / "predictions.jsonl").read_text().splitlines()
  ]
  toy_runs.clap(
    "score",
    workdir / "predictions.jsonl",
    f"--ground_truth={data / 'val.jsonl'}",
    "--protocol=qvhighlights",
    f"--json={tmp_path / 'score.json'}",
  )
  scored = numbers(tmp_path / "score.json")["metrics"]
  for name, value in scored.items():
    assert values[name] == pytest.approx(value, abs=0.011), name

  one = lines[0]
  toy_runs.clap(
    "predict",
    data / "features" / f"{one['vid']}.npz",
    f"--model={workdir}",
    f"--query={one['query']}",
    f"--texts={data / 'texts'}/qid{one['qid']}.npz",
    f"--json={tmp_path / 'predict.json'}",
  )
  (entry,) = numbers(tmp_path / "predict.json")["videos"]
  assert len(entry["predictions"]) == 10
  found = [moment["score"] for moment in entry["predictions"]]
  expected = [window[2] for window in one["pred_relevant_windows"]]
  np.testing.assert_allclose(found, expected, atol=1e-5)
  np.testing.assert_allclose(
    entry["highlights"][one["query"]], one["pred_saliency_scores"], atol=1e-5
  )
