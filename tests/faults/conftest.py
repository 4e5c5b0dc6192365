import pathlib

import pytest

from tests.trainers import toy_features


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> pathlib.Path:
  """Holds toy/small and features/; not to be changed."""
  path = tmp_path_factory.mktemp("faults_toy")
  toy_features.write(path)
  return path
