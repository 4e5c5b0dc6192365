"""The command line answers at once where it has nothing to compute."""

import json
import re
import socket
import subprocess
import sys

import pytest

from clap_jax import main
from clap_jax.interchange import import_weights
from clap_jax.interchange import source as source_lib

# What takes longer to import than a person waits for a line of help.
HEAVY = (
  "av",
  "flax",
  "grain",
  "h5py",
  "jax",
  "matplotlib",
  "optax",
  "orbax",
  "pandas",
  "scipy",
  "sentencepiece",
  "tensorflow",
  "tensorflow_datasets",
  "tokenizers",
  "uvicorn",
)
_PROGRAM = """
import contextlib, io, json, sys
from clap_jax import main
loaded, codes = {}, {}
for line in json.loads(sys.argv[1]):
  with contextlib.redirect_stdout(io.StringIO()):
    with contextlib.redirect_stderr(io.StringIO()):
      try:
        code = main.main(line)
      except SystemExit as stop:
        code = stop.code
  roots = {name.partition(".")[0] for name in sys.modules}
  loaded[" ".join(line)] = sorted(roots & set(json.loads(sys.argv[2])))
  codes[" ".join(line)] = code
print(json.dumps([loaded, codes]))
"""


def commands(capsys) -> list[str]:
  with pytest.raises(SystemExit):
    main.parse(["--help"])
  return re.search(r"\{([\w,]+)\}", capsys.readouterr().out)[1].split(",")


def answer(*lines: list[str]) -> tuple[dict, dict]:
  """Heavy modules that were loaded after each command line, and its code."""
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM, json.dumps(lines), json.dumps(HEAVY)],
    check=True,
    capture_output=True,
    text=True,
    timeout=120,
  )
  return tuple(json.loads(done.stdout))


def test_help_and_wrong_arguments_load_nothing_heavy(capsys):
  helps = [[], ["--help"], *([name, "--help"] for name in commands(capsys))]
  wrong = [
    ["no_such_command"],
    ["predict"],
    ["build", "folder", "--data_dir", "d", "--store", "no_such_store"],
    ["score", "p.json", "--ground_truth", "g.json"],
    ["train", "--config=no_such.py", "--workdir=w"],
    ["train", "--config=c.py", "--workdir=gs://bucket/w"],
    ["sweep", "--config=no_such.py", "--workdir=w"],
    ["report", "--workdir=w", "--json=no_such_folder/out.json"],
  ]
  assert len(helps) > 20
  loaded, codes = answer(*helps, *wrong)
  assert not any(loaded.values()), loaded
  for line in helps[1:]:
    assert codes[" ".join(line)] == 0, line
  for line in wrong:
    assert codes[" ".join(line)] == 2, line


def test_building_from_videos_needs_no_jax(tmp_path):
  line = ["build", "folder", f"--data_dir={tmp_path}"]
  line += ["--videos=no_such_folder", "--annotations=no_such.csv"]
  loaded, codes = answer(line)
  assert list(codes.values()) == [2]
  assert not any("jax" in modules for modules in loaded.values())


def test_importing_the_program_loads_nothing_heavy():
  code = "import sys; from clap_jax import main; print(*sys.modules)"
  done = subprocess.run(
    [sys.executable, "-c", code], check=True, capture_output=True, text=True
  )
  loaded = {name.partition(".")[0] for name in done.stdout.split()}
  assert not loaded & set(HEAVY)


def test_sources_of_weights_are_those_of_the_help():
  assert set(import_weights.SOURCES) == set(source_lib.FAMILIES)


def loop_of_links(path):
  path.symlink_to(path.name)
  return path


def socket_file(path):
  with socket.socket(socket.AF_UNIX) as bound:
    bound.bind(str(path))
  return path


def absent(path):
  return path


def long_name(path):
  return path.with_name("x" * 5000)


@pytest.mark.parametrize(
  "make", [absent, loop_of_links, socket_file, long_name]
)
def test_paths_that_cannot_be_opened_are_bad_input(tmp_path, make, capsys):
  path = make(tmp_path / "p.json")
  arguments = ["score", str(path), "--protocol", "thumos14"]
  assert main.main([*arguments, "--ground_truth", str(path)]) == 2
  error = capsys.readouterr().err
  assert path.name in error
  assert "Traceback" not in error
  assert "Errno" not in error


def test_a_demo_of_unknown_encoders_lists_those_there_are(tmp_path, capsys):
  workdir = tmp_path / "demo"
  arguments = ["demo", f"--workdir={workdir}", "--encoders=x"]
  assert main.main(arguments) == 2
  assert "clap" in capsys.readouterr().err.partition("choose from")[2]
  assert not workdir.exists()
