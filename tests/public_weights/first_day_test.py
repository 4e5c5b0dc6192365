"""From nothing to moments in a real video: two commands, random weights.

The path is what is shown: random weights find nothing. They have the size S, so
that the table's own import takes them.
"""

import json
import os
import subprocess
import sys

import pytest

from clap_jax.public_weights import cache
from tests import conftest
from tests.public_weights import server, stand_ins

NAME = "open_clip-vit-b-32"
QUERY = "a woman jumps into the sand"


def clap(*arguments, **environment):
  done = subprocess.run(
    [sys.executable, "-m", "clap_jax.main", *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
    cwd=conftest.REPOSITORY,
    env=os.environ | environment,
  )
  assert done.returncode == 0, done.stderr
  return done


def test_get_and_predict(shared_data, tmp_path):
  video = shared_data / "videos" / "women_long_jump.mp4"
  if not video.is_file():
    pytest.skip(f"{video} is missing")
  stand_ins.write_open_clip(tmp_path / "served", "S", side_px=64, patch_px=32)
  environment = {cache.VARIABLE: str(tmp_path / "cache")}
  out = tmp_path / "got.json"
  with server.serving(tmp_path / "served") as site:
    clap("get", NAME, "--from", site.address, "--json", out, **environment)
  got = json.loads(out.read_text())
  assert got.keys() >= {"name", "source", "sha256", "licence", "directory"}
  assert got["name"] == NAME and len(got["sha256"]) == 64
  clap(
    *("predict", video, "--model", NAME, "--query", QUERY),
    *("--json", tmp_path / "found.json"),
    **environment,
  )
  document = json.loads((tmp_path / "found.json").read_text())
  (found,) = document["videos"]
  assert found["method"] == "zero-shot similarity"
  assert not document["failed"]
  assert found["duration_sec"] > 1
  for moment in found["predictions"]:
    assert moment["query"] == QUERY
    assert 0 <= moment["start_sec"] < moment["end_sec"]
    assert moment["end_sec"] <= found["duration_sec"]
