"""One tiny demo that all end-to-end tests share."""

import json
import pathlib
import time
from typing import NamedTuple

import pytest

from clap_jax import main

ENCODERS = ("random", "clap")


class Demo(NamedTuple):
  root: pathlib.Path
  document: dict  # what --json wrote
  wall_sec: float

  @property
  def data_dir(self) -> pathlib.Path:
    return self.root / "data"

  @property
  def model(self) -> pathlib.Path:
    return self.root / "models" / "seed0" / "clap"


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Demo:
  """The workdir of `clap demo --size tiny`; not to be changed."""
  root = tmp_path_factory.mktemp("end_to_end") / "demo"
  output = root.with_name("demo.json")
  began_sec = time.perf_counter()
  code = main.main(
    [
      "demo",
      f"--workdir={root}",
      "--size=tiny",
      f"--encoders={','.join(ENCODERS)}",
      f"--json={output}",
    ]
  )
  assert code == 0
  document = json.loads(output.read_text())
  return Demo(root, document, time.perf_counter() - began_sec)
