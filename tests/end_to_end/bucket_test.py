"""All stages with everything in a bucket give what they give locally."""

import json
import pathlib
import sys

import numpy as np
import pytest

from clap_jax.commands import addresses
from clap_jax.storage import arrays, leases, locations, output, untrusted
from clap_jax.training import checkpoint
from tests.trainers import toy_runs
from tests.training import fit_test


def stages(root):
  """Every stage on `root`/data; returns nothing."""
  data = f"{root}/data"
  toy_runs.clap(
    *("tokenizer", "--data=toy/small", f"--data_dir={data}"),
    *("--vocab_size=64", f"--out={root}/tokenizer.model"),
  )
  values = toy_runs.dataset_overrides(data) | toy_runs.SMALL_TOWERS
  values |= {"data.tokenizer": f"{root}/tokenizer.model"}
  train(root, "pretrain", "pretrain_sprites.py:tiny,encoder=clap", values)
  toy_runs.clap(
    *("extract", f"--model={root}/pretrain", "--data=toy/small"),
    *(f"--data_dir={data}", "--stride_sec=1.0", f"--out={root}/features"),
  )
  values = toy_runs.dataset_overrides(data) | {
    "data.features_dir": f"{root}/features",
    "loop.steps": 2,
  }
  train(root, "localize", "localization_sprites.py:tiny", values)
  toy_runs.clap(
    *("eval", f"--workdir={root}/localize", f"--json={root}/eval.json")
  )
  toy_runs.clap(
    *("data", "inspect", "toy/small", f"--data_dir={data}"),
    *("--videos=1", "--out=page.html", f"--json={root}/inspect.json"),
  )

  output.write_text(
    locations.at(root) / "queries.txt", "v1 0.0 1.0##a square spins.\n"
  )
  toy_runs.clap(
    *("texts", f"--model={root}/pretrain", f"--queries={root}/queries.txt"),
    f"--out={root}/queries.npz",
  )


def train(root, workdir, config, values):
  toy_runs.clap(
    *("train", f"--config=configs/{config}", f"--workdir={root}/{workdir}"),
    *(f"--config.{key}={value}" for key, value in values.items()),
  )


@pytest.mark.faults
def test_all_stages_are_those_of_a_local_directory(
  bucket, tmp_path, monkeypatch
):
  monkeypatch.setattr(leases, "DURATION_SEC", 20.0)
  toy_runs.build(tmp_path / "local" / "data")
  remote = locations.at(bucket.url)
  for path in (tmp_path / "local" / "data" / "toy").rglob("*"):
    if path.is_file():
      name = path.relative_to(tmp_path / "local").as_posix()
      output.copy(path, remote / name)
  (tmp_path / "local" / "data" / "tokenizer.model").unlink()
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  stages(tmp_path / "local")
  pathlib.Path("page.html").unlink()
  stages(bucket.url)
  assert [path.name for path in pathlib.Path().iterdir()] == ["page.html"]
  local = tmp_path / "local"
  for workdir in ("pretrain", "localize"):
    fit_test.assert_same_bits(
      checkpoint.restore_params(local / workdir)[0],
      checkpoint.restore_params(remote / workdir)[0],
    )
    metrics = [
      [(row["metric"], row["value"]) for row in read(root, workdir)]
      for root in (local, remote)
    ]
    assert metrics[0] == metrics[1]
  for path in (*(local / "features").rglob("*.npz"), local / "queries.npz"):
    name = path.relative_to(local).as_posix()
    one, other = arrays.read_npz(path), arrays.read_npz(remote / name)
    assert one.keys() == other.keys()
    for key, value in one.items():
      np.testing.assert_array_equal(value, other[key])
  assert untrusted.read_json(remote / "eval.json")["rows"]
  # etils and Orbax must not have taken TensorFlow for the bucket.
  assert "tensorflow" not in sys.modules


def read(root, workdir):
  return untrusted.read_json(root / workdir / "results.json")["rows"]


def test_a_score_is_that_of_local_files(bucket, tmp_path):
  truth = {"subset": "validation"}
  truth["annotations"] = [{"label": "jump", "segment": [0, 10]}]
  found = [{"label": "jump", "segment": [0, 9], "score": 0.9}]
  documents = []
  for root in (tmp_path, locations.at(bucket.url)):
    output.write_json(root / "truth.json", {"database": {"a": truth}})
    output.write_json(root / "found.json", {"results": {"a": found}})
    toy_runs.clap(
      *("score", f"{root}/found.json", f"--ground_truth={root}/truth.json"),
      *("--protocol=activitynet", f"--json={root}/score.json"),
    )
    documents.append(untrusted.read_json(root / "score.json"))
  assert documents[0] == documents[1]


def accepted_flags():
  return [
    (command, name)
    for command, names in addresses.ACCEPTED.items()
    for name in names
  ]


def test_the_page_lists_what_takes_addresses():
  page = pathlib.Path(addresses.__file__).parents[2] / "docs" / "storage.md"
  text = page.read_text(encoding="utf-8")
  for command, name in accepted_flags():
    flag = "predictions" if name == "predictions" else f"`--{name}`"
    assert f"`clap {command}`" in text and flag in text, (command, name)
  for key in addresses.ACCEPTED_KEYS:
    assert f"`{key}`" in text
  json.dumps(text)
