"""Every trainer by its commands: train, evaluate, predict."""

import json

import jax
import numpy as np

from clap_jax.inference import encoder as encoder_lib
from clap_jax.trainers import results
from clap_jax.training import checkpoint
from tests.trainers import toy_runs


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


def test_pretraining_uses_its_moving_average_everywhere(pretrained_directory):
  workdir = pretrained_directory / "pretrain"
  rows = results.read(workdir)
  assert values_of(rows)
  assert last_evaluation(workdir) == values_of(rows)
  out = pretrained_directory / "pretrain_eval.json"
  toy_runs.clap("eval", f"--workdir={workdir}", f"--json={out}")
  assert json.loads(out.read_text())["rows"] == rows
  last, average = (
    checkpoint.restore_params(workdir, use_ema=use_ema)[0]
    for use_ema in (False, True)
  )
  loaded = encoder_lib.load_encoder(workdir).params
  jax.tree.map(np.testing.assert_array_equal, loaded, average)
  assert any(
    not np.array_equal(a, b)
    for a, b in zip(
      jax.tree.leaves(last), jax.tree.leaves(average), strict=True
    )
  )
