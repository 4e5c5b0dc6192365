"""The notebooks, their code run in order."""

import ast
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests import conftest
from tests.inference import toy_model

NOTEBOOKS = sorted((conftest.REPOSITORY / "docs/notebooks").glob("*.ipynb"))


def code_of(notebook) -> list[str]:
  cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
  return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_form(notebook):
  """Version 4.5, every cell with an id, and no output that could be old."""
  document = json.loads(notebook.read_text(encoding="utf-8"))
  assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
  ids = [cell["id"] for cell in document["cells"]]
  assert len(set(ids)) == len(ids)
  for cell in document["cells"]:
    assert cell["cell_type"] in ("code", "markdown")
    assert not cell.get("outputs") and cell.get("execution_count") is None
  for code in code_of(notebook):
    ast.parse(code)


def test_quickstart(tmp_path):
  """With an encoder as it is before training, and a video of the tiny size."""
  if importlib.util.find_spec("matplotlib") is None:
    pytest.skip("matplotlib is not installed (pip install clap_jax[plot])")
  (notebook,) = (n for n in NOTEBOOKS if n.name == "quickstart.ipynb")
  model = tmp_path / "workdir/demo/models/seed0/clap"
  model.mkdir(parents=True)
  toy_model.write_imported(model, toy_model.make_encoder(tmp_path))
  code = "\n\n".join(code_of(notebook))
  small = code.replace('get_config("demo")', 'get_config("tiny")')
  assert small != code
  (tmp_path / "notebook.py").write_text(
    f"{small}\n\nassert found.predictions and index.videos\n"
  )
  environment = {
    "PYTHONPATH": str(conftest.REPOSITORY),
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
  }
  done = subprocess.run(
    [sys.executable, "notebook.py"],
    cwd=tmp_path,
    env=os.environ | environment,
    capture_output=True,
    text=True,
    check=False,
    stdin=subprocess.DEVNULL,
  )
  assert done.returncode == 0, done.stderr
  assert "zero-shot similarity" in done.stdout
  for name in ("moments.png", "similarity.png"):
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
