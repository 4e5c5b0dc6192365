"""The tutorials, run."""

import math
import shutil

import pytest

from clap_jax.inference import model_directory
from tests.tutorials import activitynet_features, few_shot, own_dataset, tpu_pod

MAX_SECONDS = 12.0  # of the videos that are rendered


@pytest.mark.slow
def test_activitynet_features(shared_data, tmp_path):
  found = activitynet_features.tutorial(
    shared_data / "features/mmaction2_tests/activitynet_features", tmp_path
  )
  assert 0 <= found["metrics"]["average_map"] <= 1
  assert found["card"]["num_evaluated"] == 1


def test_tpu_pod():
  if shutil.which("gcloud") is None:
    pytest.skip("launch.sh looks for gcloud, which is not installed")
  check_printed(tpu_pod.tutorial())


def test_tpu_pod_with_a_stand_in(tmp_path, monkeypatch):
  stand_in = tmp_path / "gcloud"
  stand_in.write_text("#!/bin/sh\necho called >> called\nexit 1\n")
  stand_in.chmod(0o755)
  monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
  monkeypatch.chdir(tmp_path)
  check_printed(tpu_pod.tutorial())
  assert not (tmp_path / "called").exists()


def check_printed(printed):
  create, _, train, _, delete = printed
  assert "v5litepod-16" in create
  assert "--distributed" in train
  assert "configs/pretrain_sprites.py:full" in train
  assert "delete" in delete


@pytest.mark.slow
def test_own_dataset_and_few_shot(tmp_path):
  found = own_dataset.tutorial(tmp_path / "own")
  (video,) = found["videos"]
  assert not found["failed"]
  assert 0 < video["duration_sec"] <= MAX_SECONDS
  assert all(math.isfinite(e["score"]) for e in video["predictions"])
  pages = list((tmp_path / "own/found").rglob("*.html"))
  assert pages
  model = tmp_path / "own" / "runs"
  assert model_directory.load_model(model).label_names
  found = few_shot.tutorial(model, tmp_path / "few")
  assert found["support"] == {
    "method": "nearest_prototype",
    "shots": {"spins": 5},
    "skipped": [],
  }
  assert {e["label"] for e in found["videos"][0]["predictions"]} <= {"spins"}
