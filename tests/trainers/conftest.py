import pathlib
import shutil

import pytest

from tests.trainers import toy_features


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
