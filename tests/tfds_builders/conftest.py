"""A tiny dataset, built once: no jax, no TensorFlow and no network."""

import json
import pathlib
import subprocess
import sys

import pytest

_BUILD = """
import json, socket, sys
sys.modules['jax'] = None

def refuse(*args, **kwargs):
  raise OSError('the build opened a connection')

socket.socket.connect = refuse
from tfds_builders import build
stages = []
result = build.build('motion_sprites/tiny', data_dir=sys.argv[1],
                     on_progress=lambda *step: stages.append(step))
assert 'tensorflow' not in sys.modules
print(json.dumps({**result, 'stages': stages}))
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> dict:
  """What build() returned, its progress as "stages", and "data_dir"."""
  data_dir = tmp_path_factory.mktemp("tiny")
  done = subprocess.run(
    [sys.executable, "-c", _BUILD, str(data_dir)],
    cwd=pathlib.Path(__file__).resolve().parents[2],
    capture_output=True,
    check=False,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert len(done.stdout.splitlines()) == 1, "the build must print nothing"
  return {**json.loads(done.stdout), "data_dir": data_dir}
