import pathlib

import pytest

from tests.trainers import toy_features


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> pathlib.Path:
  """Holds toy/small and features/; not to be changed."""
  path = tmp_path_factory.mktemp("faults_toy")
  toy_features.write(path)
  return path


@pytest.fixture
def figure(capsys):
  """Prints a figure beside its target, even where output is captured."""

  def show(name, value, target):
    with capsys.disabled():
      print(f"\n  {name}: {value} (target: {target})", flush=True)

  return show
