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
  for path in (local / "features").rglob("*.npz"):
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
