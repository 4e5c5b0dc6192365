import json
import math
import os

import pytest

from clap_jax.evaluation import results
from clap_jax.storage import metadata

CARD = {"protocol": "toy", "thresholds": (0.5,)}


def rows(**metrics):
  return results.rows_of(
    metrics,
    encoder="clap",
    seed=0,
    dataset="toy/small",
    split="validation",
    task="retrieval",
    card=CARD,
  )


def test_one_row_per_metric_with_the_keys_of_the_contract():
  first, second = rows(map=1, miou=0.5)
  assert first == {
    "encoder": "clap",
    "seed": 0,
    "dataset": "toy/small",
    "split": "validation",
    "task": "retrieval",
    "metric": "map",
    "value": 1.0,
    "card": CARD,
  }
  assert isinstance(first["value"], float)
  assert second["metric"] == "miou"


def test_written_results_are_read(tmp_path):
  assert results.read(tmp_path) == []
  path = results.write(tmp_path, rows(map=0.25))
  assert path == tmp_path / "results.json"
  (row,) = results.read(tmp_path)
  assert row["value"] == 0.25
  assert row["card"] == {"protocol": "toy", "thresholds": [0.5]}
  assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"rows": [5]}'])
def test_other_documents_are_refused_by_name(tmp_path, text):
  (tmp_path / "results.json").write_text(text)
  with pytest.raises(ValueError, match=r"results\.json .*rows"):
    results.read(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_nan(tmp_path, value):
  def refuse(name):
    raise AssertionError(f"{name} is not JSON")

  text = results.write(tmp_path, rows(map=value)).read_text()
  assert json.loads(text, parse_constant=refuse)["rows"][0]["value"] is None
  nested = {"a": [1.0, value, {"b": (value, "x", None, True, 2)}]}
  clean = metadata.without_nan(nested)
  assert clean == {"a": [1.0, None, {"b": [None, "x", None, True, 2]}]}


def test_an_equal_file_is_left_alone(tmp_path):
  path = tmp_path / "a.json"
  results.write_json(path, {"a": 1})
  os.utime(path, (1, 1))
  results.write_json(path, {"a": 1})
  assert path.stat().st_mtime == 1
  results.write_json(path, {"a": 2})
  assert path.stat().st_mtime > 1
  assert json.loads(path.read_text()) == {"a": 2}


def test_a_failed_write_leaves_the_old_file(tmp_path):
  path = tmp_path / "a.json"
  results.write_json(path, {"a": 1})
  with pytest.raises(TypeError):
    results.write_json(path, {"a": object()})
  assert json.loads(path.read_text()) == {"a": 1}
