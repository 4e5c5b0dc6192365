"""Sweeps: what is run, what is left alone, and what the summary says."""

import contextlib
import csv
import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from clap_jax.evaluation import results
from clap_jax.report import content, sweep_table
from clap_jax.report import page as page_lib
from clap_jax.studies import artifacts, orchestrator, sweep
from clap_jax.trainers import registry
from configs.parts import sweeps
from tests import conftest
from tests.trainers import toy_features


def test_grid_and_together():
  axes = {"a.b": (1, 2), "c": ("x", "y")}
  assert list(sweeps.grid(axes)) == [
    {"a.b": 1, "c": "x"},
    {"a.b": 1, "c": "y"},
    {"a.b": 2, "c": "x"},
    {"a.b": 2, "c": "y"},
  ]
  assert list(sweeps.together(axes)) == [
    {"a.b": 1, "c": "x"},
    {"a.b": 2, "c": "y"},
  ]
  with pytest.raises(ValueError, match="differ in length"):
    list(sweeps.together({"x": (1,), "y": (1, 2)}))


def test_names_are_safe_and_differ():
  names = {
    sweep.name_of(overrides)
    for overrides in (
      {"a.rate": 1e-3},
      {"b.rate": 1e-3},
      {"a.rate": 1.0000001e-3},
      {"a.name": "../../etc/passwd"},
      {"a.name": "x" * 500},
      {"a.name": "-rf *; $(touch x)"},
      {},
    )
  }
  assert len(names) == 7
  for name in names:
    assert len(name) < 100
    assert "/" not in name
    assert not name.startswith(("-", "."))
    assert not set(name) & set(" *;$()")


def plan(points, workdir):
  store = artifacts.ArtifactStore(workdir)
  return sweep.plan(points, store, resolve=dict), store


@pytest.mark.parametrize(
  ("points", "message"), [([], "no runs"), ([{"a": 1}, {"a": 1}], "twice")]
)
def test_wrong_points(tmp_path, points, message):
  with pytest.raises(ValueError, match=message):
    plan(points, tmp_path)


def entry(name, value, *, outcome="done", **overrides):
  curve = content.Curve(name=name, steps=(1, 2), values=(2.0, 1.0))
  return sweep_table.Entry(
    name=name,
    outcome=outcome,
    reason="" if outcome == "done" else "=cmd|' /C calc'!A0",
    overrides=overrides,
    metrics={} if value is None else {"loc/val/average_map": value},
    curves={"train/loss": curve},
  )


@pytest.mark.parametrize("name", ["runs", "summary.csv", "summary.html"])
def test_links_are_refused_before_the_first_run(tmp_path, name):
  (tmp_path / name).symlink_to("elsewhere")
  with pytest.raises(ValueError, match="symbolic link"):
    plan([{"a": 1}], tmp_path)


def test_summary():
  table = sweep_table.SweepTable.of(
    [
      entry("a", 0.2, rate=1e-3, kind="<b>x</b>"),
      entry("b", None, outcome="failed", rate=1e-1),
      entry("c", 0.5, rate=1e-2, kind="y"),
    ],
    metric=None,
  )
  assert [e.name for e in table.ranked] == ["c", "a", "b"]
  rows = list(csv.DictReader(sweep_table.csv_text(table).splitlines()))
  assert [row["rate"] for row in rows] == ["0.001", "0.1", "0.01"]
  assert rows[1]["outcome"] == "failed"
  assert rows[1]["reason"].startswith("'=")  # no formula
  page = page_lib.render(sweep.report(table, "A & B"))
  assert "<b>x</b>" not in page
  assert "&lt;b&gt;x&lt;/b&gt;" in page
  assert page.count("<polyline") == 2
  assert "A &amp; B" in page
  assert "http" not in page.replace("http-equiv", "").replace(
    "http://www.w3.org", ""
  )
  with pytest.raises(ValueError, match="choose from loc/val/average_map"):
    sweep_table.SweepTable.of(table.entries, metric="recall")


class StandIn:
  """Makes the files of runs instead of running; one cannot be made."""

  stopping = False

  def __init__(self):
    self.made = []

  def run_all(self, jobs, store, *, parallel):
    for job in jobs:
      (artifact,) = job.artifacts
      self.made.append(artifact.config["a"])
      if artifact.config["a"] == 1:
        store.note_failure(artifact.name, "OSError: no space")
      else:
        directory = store.directory(artifact.name)
        directory.mkdir(parents=True, exist_ok=True)
        results.write(directory, [])
      yield job

  def stopped_by_signals(self):
    return contextlib.nullcontext()


def test_failures_are_isolated_and_what_is_done_stays(tmp_path, monkeypatch):
  monkeypatch.setattr(registry, "check_same", lambda directory, config: None)
  runs, store = plan([{"a": n} for n in range(4)], tmp_path)
  directory = store.directory(runs[3].artifact.name)
  directory.mkdir(parents=True)
  results.write_json(
    directory / artifacts.RECORD_FILE,
    {"wall_sec": 1.0} | dataclasses.asdict(runs[3].artifact),
  )
  results.write(directory, [])
  runner = StandIn()
  state = orchestrator.run([[run.job for run in runs]], store, runner)
  assert sorted(runner.made) == [0, 1, 2]
  assert state.failed == [(runs[1].artifact.label, "OSError: no space")]
  table = sweep.summarize(runs, store, metric=None, title="t")
  assert [e.overrides["a"] for e in table.unfinished] == [1]
  assert table.unfinished[0].reason == "OSError: no space"
  assert sweep.document(table)["failed_runs"] == 1


CONFIG = """
from configs import localization_sprites
from configs.parts import sweeps

get_config = localization_sprites.get_config


def sweep():
  return sweeps.grid(KEYS)
"""


def clap_sweep(directory, workdir, keys, *extra):
  config = directory / "swept.py"
  config.write_text(CONFIG.replace("KEYS", repr(keys)), encoding="utf-8")
  values = toy_features.overrides(directory) | {"loop.log_every_steps": 1}
  return [
    sys.executable,
    "-m",
    "clap_jax.main",
    "sweep",
    f"--config={config}:tiny",
    f"--workdir={workdir}",
    *(f"--config.{key}={value}" for key, value in values.items()),
    *extra,
  ]


def run(command):
  return subprocess.run(
    command,
    cwd=conftest.REPOSITORY,
    capture_output=True,
    text=True,
    timeout=900,
    check=False,
  )


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp("sweep_toy")
  toy_features.write(path)
  return path


def test_a_wrong_key_is_found_before_the_first_run(toy, tmp_path):
  result = run(clap_sweep(toy, tmp_path / "w", {"optimizer.rate": (1,)}))
  assert result.returncode == 2
  assert "unknown key 'rate'" in result.stderr
  assert not (tmp_path / "w").exists()


def test_a_wrong_metric_costs_no_summary(tmp_path):
  (run,), store = plan([{"a": 1}], tmp_path)
  directory = store.directory(run.artifact.name)
  directory.mkdir(parents=True)
  row = {"task": "loc", "split": "val", "metric": "average_map", "value": 0.5}
  (directory / "results.json").write_text(json.dumps({"rows": [row]}))
  with pytest.raises(ValueError, match="choose from loc/val/average_map"):
    sweep.summarize([run], store, metric="recall", title="t")
  assert "0.5" in (tmp_path / "summary.csv").read_text()
  assert (tmp_path / "summary.html").exists()


def test_results_of_another_config_are_not_taken_over(toy, tmp_path):
  overrides = {"optimizer.learning_rate": 1e-3}
  directory = tmp_path / "w" / "runs" / sweep.name_of(overrides)
  directory.mkdir(parents=True)
  (directory / "results.json").write_text('{"rows": []}')
  (directory / "config.json").write_text('{"loop": {"steps": 2}}')
  keys = {name: (value,) for name, value in overrides.items()}
  result = run(clap_sweep(toy, tmp_path / "w", keys, "--config.loop.steps=7"))
  assert result.returncode == 2
  assert "another config" in result.stderr and "steps" in result.stderr
  assert sorted(path.name for path in directory.iterdir()) == [
    "config.json",
    "results.json",
  ]


@pytest.mark.slow
def test_the_command_goes_on_where_it_was_stopped(toy, tmp_path):
  """Stopped in its first run, then run to the end; one point cannot work."""
  workdir = tmp_path / "w"
  keys = {"optimizer.learning_rate": (1e-3, 3e-3), "mesh.tensor": (1, 3)}
  command = clap_sweep(toy, workdir, keys, "--config.loop.steps=400")
  process = subprocess.Popen(command, cwd=conftest.REPOSITORY)
  deadline = time.monotonic() + 600
  while not list(workdir.glob("runs/*/metrics.jsonl")):
    assert process.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.1)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=300) == 0
  output = tmp_path / "sweep.json"
  result = run([*command, "--parallel=2", f"--json={output}"])
  assert result.returncode == 3, result.stderr
  runs = json.loads(output.read_text())["runs"]
  outcomes = [(r["overrides"]["mesh.tensor"], r["outcome"]) for r in runs]
  assert outcomes == [(1, "done")] * 2 + [(3, "failed")] * 2
  assert "mesh" in runs[-1]["reason"]
  rows = list(csv.DictReader((workdir / "summary.csv").open()))
  assert len(rows) == 4
  assert "<polyline" in (workdir / "summary.html").read_text()
  logs = [path.read_text() for path in workdir.glob("jobs/*.log")]
  assert any("asked to stop: saved at step" in log for log in logs)
