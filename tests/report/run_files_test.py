"""What a run leaves behind becomes content."""

import math

import pytest

from clap_jax.report import content, run_files

ROW = {
  "encoder": "clap",
  "seed": 0,
  "dataset": "motion_sprites/demo",
  "split": "validation",
  "task": "localization",
  "metric": "average_map",
  "value": 0.41,
}


def test_whole_rows_pass():
  rows = [{**ROW, "card": {"protocol": "x"}}, {**ROW, "value": None}]
  run_files.check_result_rows(rows)


def test_a_row_without_a_key_is_named():
  broken = {key: value for key, value in ROW.items() if key != "metric"}
  with pytest.raises(ValueError, match=r"Row 1 .* lacks \['metric'\]"):
    run_files.check_result_rows([ROW, broken])


@pytest.mark.parametrize(
  ("key", "value"), [("dataset", 5), ("encoder", [1]), ("value", "x")]
)
def test_a_row_of_other_types_is_named(key, value):
  with pytest.raises(ValueError, match=rf"Row 0 .*{key} is "):
    run_files.check_result_rows([ROW | {key: value}])


def test_curve_survives_a_killed_run(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text(
    '{"step": 1, "train/loss": 3.0}\n'
    '{"step": 2, "train/loss": 9.0}\n'
    '{"step": 2, "train/lo\n'  # killed here, resumed below
    '{"step": 2, "train/loss": 2.0, "eval/map": 0.1}\n'
    '{"step": 3, "train/loss": null}\n'
  )
  curve = run_files.curve(path, "train/loss", name="clap")
  assert curve.steps == (1, 2, 3)
  assert curve.values[:2] == (3.0, 2.0)
  assert math.isnan(curve.values[2])
  assert run_files.curve(path, "eval/map", name="x").steps == (2,)
  assert run_files.curve(path, "absent", name="x").steps == ()


def test_predictions_of_labels_and_of_queries():
  found = run_files.segments(
    [
      {"start_sec": 1, "end_sec": 2, "score": 0.5, "label": "spins"},
      {"start_sec": 1, "end_sec": 2, "score": 0.5, "query": "it spins"},
    ]
  )
  assert found[0] == content.Segment(1.0, 2.0, "spins", 0.5)
  assert found[1].label == "it spins"
