"""Bad input exits 2 with what is wrong, and before a device is touched.

One process for all cases, on a platform that does not exist: whatever touches a
device there fails with exit code 3.
"""

import json
import os
import subprocess
import sys

import pytest

from clap_jax import main
from tests import conftest

DRIVER = """
import contextlib, io, json, sys
from clap_jax import main

answers = []
for arguments in json.load(sys.stdin):
  errors = io.StringIO()
  with contextlib.redirect_stderr(errors):
    try:
      code = main.main(arguments)
    except SystemExit as stop:
      code = stop.code
  answers.append([code, errors.getvalue()])
print(json.dumps(answers))
"""


def train(*overrides, config="configs/pretrain_sprites.py:tiny"):
  return ["train", f"--config={config}", "--workdir={tmp}/run", *overrides]


# Arguments and what the message must name, all of it.
CASES = {
  "unknown key": (
    train("--config.loop.stepz=3"),
    ["--config.loop.stepz", "log_every_steps, max_rollbacks"],
  ),
  "unknown section": (
    train("--config.lop.steps=3"),
    ["'lop'", "checkpoint", "optimizer"],
  ),
  "a key of a value": (
    train("--config.loop.steps.more=3"),
    ["--config.loop.steps.more", "'more'"],
  ),
  "a whole section": (train("--config.loop=3"), ["loop"]),
  "a bucket as workdir": (
    [
      "train",
      "--config=configs/pretrain_sprites.py:tiny",
      "--workdir=az://b/r",
    ],
    ["--workdir", "az://", "gs://"],
  ),
  "a bucket of data": (
    train("--config.data.texts=gs://bucket/a.npz"),
    ["--config.data.texts", "gs://bucket/a.npz", "gcsfuse"],
  ),
  "wrong type": (train("--config.loop.steps=many"), ["loop.steps", "many"]),
  "half a step": (train("--config.loop.steps=1.5"), ["loop.steps", "1.5"]),
  "out of range": (
    train("--config.data.batch_size=0"),
    ["data.batch_size", "at least 1", "got 0"],
  ),
  "not finite": (
    train("--config.optimizer.learning_rate=nan"),
    ["optimizer.learning_rate", "finite"],
  ),
  "no choice": (
    train("--config.loss.preset=best"),
    ["loss.preset", "'best'", "captions, labels"],
  ),
  "two problems": (
    train("--config.data.batch_size=0", "--config.clip.num_frames=0"),
    ["2 problem(s)", "data.batch_size", "clip.num_frames"],
  ),
  "a key without a value": (train("--config.loop.steps"), ["loop.steps"]),
  "unknown size": (
    train(config="configs/pretrain_sprites.py:huge"),
    ["huge", "demo", "tiny"],
  ),
  "unknown argument": (
    train(config="configs/pretrain_sprites.py:tiny,sede=1"),
    ["sede", "seed"],
  ),
  "no config file": (
    train(config="configs/nothing.py"),
    ["configs/nothing.py"],
  ),
  "a folder for a config": (train(config="configs"), ["configs"]),
  "no config at all": (["train", "--workdir={tmp}/run"], ["--config"]),
  "a config without get_config": (
    train(config="{tmp}/empty.py"),
    ["get_config"],
  ),
  "a config with a syntax error": (train(config="{tmp}/broken.py"), ["broken"]),
  "a config of no trainer": (
    train(config="{tmp}/trainer.py"),
    ["trainer", "'juggle'", "pretrain, localization"],
  ),
  "no data": (
    train("--config.data.data_dir={tmp}/nowhere"),
    ["motion_sprites/tiny", "{tmp}/nowhere", "no built dataset"],
  ),
  "no data for a head": (
    train(
      "--config.data.data_dir={tmp}/nowhere",
      config="configs/grounding_sprites.py:tiny",
    ),
    ["motion_sprites/tiny", "{tmp}/nowhere"],
  ),
  "extract without a model": (
    ["extract", "--model={tmp}", "--data=x", "--out={tmp}/out"],
    ["encoder.json", "{tmp}"],
  ),
  "predict without a model": (
    ["predict", "a.mp4", "--model={tmp}"],
    ["model.json", "{tmp}"],
  ),
  "labels that are not there": (
    ["predict", "a.mp4", "--model={tmp}", "--labels={tmp}/labels.txt"],
    ["labels.txt"],
  ),
  "eval of nothing": (["eval", "--workdir={tmp}"], ["config.json", "{tmp}"]),
  "report of nothing": (
    ["report", "--workdir={tmp}"],
    ["results.json", "{tmp}"],
  ),
  "unknown dataset": (
    ["build", "motion_sprites/huge", "--data_dir={tmp}"],
    ["motion_sprites/huge", "motion_sprites/tiny", "folder"],
  ),
  "folder without annotations": (
    ["build", "folder", "--data_dir={tmp}", "--videos={tmp}"],
    ["annotations"],
  ),
  "tokenizer without data": (
    ["tokenizer", "--data=x/y", "--data_dir={tmp}", "--out={tmp}/t.model"],
    ["x/y"],
  ),
  "score of nothing": (
    [
      "score",
      "{tmp}/predictions.json",
      "--ground_truth={tmp}/truth.json",
      "--protocol=thumos14",
    ],
    ["{tmp}"],
  ),
  "unknown encoder": (
    ["demo", "--workdir={tmp}/demo", "--encoders=clap,vlad"],
    ["vlad", "random, tac, tsp, clip, clap"],
  ),
  "no encoder": (["demo", "--workdir={tmp}/demo", "--encoders="], ["encoders"]),
  "seeds that are no numbers": (
    ["demo", "--workdir={tmp}/demo", "--seeds=0,one"],
    ["--seeds", "'0,one'"],
  ),
  "a seed below zero": (
    ["demo", "--workdir={tmp}/demo", "--seeds=-1"],
    ["seeds", "-1"],
  ),
  "unknown size of the demo": (
    ["demo", "--workdir={tmp}/demo", "--size=full"],
    ["full", "tiny", "demo"],
  ),
  "nowhere to write the answer": (
    ["report", "--workdir={tmp}", "--json={tmp}/no/where.json"],
    ["--json", "where.json"],
  ),
  "a folder for the answer": (
    ["report", "--workdir={tmp}", "--json={tmp}"],
    ["--json"],
  ),
  "no command": ([], ["usage"]),
  "unknown command": (["pretrain"], ["pretrain", "train", "demo"]),
  "unknown flag": (["eval", "--workdir={tmp}", "--spilt=train"], ["--spilt"]),
  "a config flag elsewhere": (
    ["report", "--workdir={tmp}", "--config.loop.steps=3"],
    ["--config.loop.steps"],
  ),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
  """Name of a case -> (exit code, standard error, directory)."""
  directory = tmp_path_factory.mktemp("usage")
  (directory / "empty.py").write_text("")
  (directory / "broken.py").write_text("def get_config(:\n")
  (directory / "trainer.py").write_text(
    "import ml_collections\n\n"
    "def get_config(arg=''):\n"
    "  return ml_collections.ConfigDict({'trainer': 'juggle'})\n"
  )
  before = sorted(directory.rglob("*"))
  commands = [
    [argument.format(tmp=directory) for argument in arguments]
    for arguments, _ in CASES.values()
  ]
  result = subprocess.run(
    [sys.executable, "-c", DRIVER],
    input=json.dumps(commands),
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
    cwd=conftest.REPOSITORY,
    env=os.environ | {"JAX_PLATFORMS": "there_is_no_such_platform"},
  )
  assert result.returncode == 0, result.stderr
  found = json.loads(result.stdout.splitlines()[-1])
  left = [p for p in sorted(directory.rglob("*")) if p not in before]
  assert not [p for p in left if "__pycache__" not in str(p)], left
  return {
    name: (*answer, directory)
    for name, answer in zip(CASES, found, strict=True)
  }


@pytest.mark.parametrize("name", CASES)
def test_bad_input(answers, name):
  code, message, directory = answers[name]
  assert code == 2, message
  assert "Traceback" not in message
  for words in CASES[name][1]:
    assert words.format(tmp=directory) in message


@pytest.mark.parametrize(
  "command",
  [
    "build",
    "data",
    "tokenizer",
    "train",
    "extract",
    "eval",
    "predict",
    "score",
    "report",
    "demo",
  ],
)
def test_help_is_worth_reading(command, capsys):
  with pytest.raises(SystemExit) as stop:
    main.main([command, "--help"])
  assert stop.value.code == 0
  text = capsys.readouterr().out
  assert "--json" in text
  assert len(text.splitlines()) > 8
