import pathlib
import shutil

import pytest

from tests.trainers import toy_features, toy_runs


@pytest.fixture(scope="session")
def toy_directory(tmp_path_factory) -> pathlib.Path:
  """Holds toy/small and features/; not to be changed."""
  path = tmp_path_factory.mktemp("toy_features")
  toy_features.write(path)
  return path


@pytest.fixture
def own_toy_directory(toy_directory, tmp_path) -> pathlib.Path:
  """A copy that a test may damage."""
  return pathlib.Path(shutil.copytree(toy_directory, tmp_path / "toy"))


@pytest.fixture(scope="session")
def pretrained_directory(tmp_path_factory) -> pathlib.Path:
  """Holds toy/small, pretrain/ with a moving average, and its features/."""
  path = tmp_path_factory.mktemp("pretrained")
  workdir = toy_runs.pretrain(
    path,
    encoder="clap",
    values=toy_runs.SMALL_TOWERS
    | {"optimizer.ema_decay": 0.9, "optimizer.learning_rate": 0.01},
  )
  toy_runs.clap(
    "extract",
    f"--model={workdir}",
    "--data=toy/small",
    f"--data_dir={path}",
    "--stride_sec=1.0",
    f"--out={path / 'features'}",
  )
  return path
