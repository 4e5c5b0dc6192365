"""A tiny study, run for real: what it writes, and how it goes on."""

import csv
import json
import pathlib
import subprocess
import sys
from html import parser

import jax
import pytest

from clap_jax import config as config_lib
from clap_jax import main
from clap_jax.commands import configs
from clap_jax.evaluation import results
from clap_jax.studies import (
  artifacts,
  jobs,
  planning,
  property_charts,
  settings,
  study,
  worker,
)
from clap_jax.training import checkpoint
from tests import conftest
from tests.benchmarks import error_costs

ROWS = ("random", "clap")
TITLES = (  # of the properties
  "Ambiguity of captions",
  "Background that looks like action",
  "Hardness of distractors",
  "Noise in the boundaries",
  "Number of classes",
  "Share of background",
)


def command(workdir, *others):
  return [
    "study", "claim", "--config=configs/study_claim.py:tiny,scratch",
    f"--workdir={workdir}", "--in_process", f"--rows={','.join(ROWS)}",
    "--tasks=localization", *others,
  ]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  root = tmp_path_factory.mktemp("study")
  assert main.main(command(root)) == 0
  return root


def document(root):
  return json.loads((root / "results.json").read_text())


def test_every_row_has_every_task_for_every_seed(made):
  found = document(made)
  assert found["failed"] == []
  assert found["made"] == found["artifacts"] == 1 + len(ROWS) * 3
  runs = {(r["encoder"], r["seed"], r["task"]) for r in found["rows"]}
  assert runs == {
    (row, 0, task) for row in ROWS for task in ("localization", "retrieval")
  }
  for row in found["rows"]:
    assert row["card"]


def test_the_table_is_recomputed_from_the_raw_numbers(made, tmp_path, capsys):
  found = document(made)
  assert {claim["verdict"] for claim in found["claims"]} == {"too few seeds"}
  assert len(found["claims"]) == 8
  with (made / "results.csv").open() as file:
    lines = list(csv.DictReader(file))
  heads = {line["task"]: line["head_seed"] for line in lines}
  assert heads == {"localization": "0", "retrieval": ""}
  again = tmp_path / "again"
  arguments = [
    "study", "recompute", str(made / "results.csv"), f"--workdir={again}",
    "--config=configs/study_claim.py:tiny,scratch", "--rows=random,clap",
  ]  # fmt: skip
  assert main.main(arguments) == 0
  for name in ("claims.csv", "summary.csv"):
    assert (again / name).read_text() == (made / name).read_text()
  assert "too few seeds" in (again / "report.html").read_text()
  assert capsys.readouterr().err.count("too few seeds") == 8


@pytest.mark.parametrize(
  "columns",
  [
    "dataset,split,encoder,seed,task,metric,value",
    "dataset,split,encoder,seed,head_seed,task,metric,value",
  ],
)
def test_columns_in_any_order_and_without_head_seed(tmp_path, columns):
  row = {
    "dataset": "d",
    "split": "validation",
    "encoder": "clap",
    "seed": 1,
    "head_seed": None,
    "task": "retrieval",
    "metric": "text_to_video/r@5",
    "value": 0.5,
  }
  cells = [str(row[name] or "") for name in columns.split(",")]
  file = tmp_path / "results.csv"
  file.write_text(f"{columns}\n{','.join(cells)}\n")
  assert study.read_rows(file) == [row]


def test_the_published_numbers_can_be_read_by_position():
  file = conftest.REPOSITORY / "docs" / "the_claim.csv"
  with file.open(newline="") as lines:
    header = next(csv.reader(lines))
  assert header[:7] == (
    ["dataset", "split", "encoder", "seed", "task", "metric", "value"]
  )


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["recompute"], "results.csv"),
    (["claim", "numbers.csv", "--workdir=x"], "results.csv"),
    (["claim"], "--workdir"),
    (["recompute", "{file}"], "line 3: value"),
  ],
)
def test_wrong_commands(tmp_path, capsys, arguments, message):
  file = tmp_path / "results.csv"
  file.write_text(
    "dataset,split,encoder,seed,head_seed,task,metric,value\n"
    "d,validation,clap,1,0,localization,average_map,0.5\n"
    "d,validation,clap,2,0,localization,average_map,much\n"
  )
  assert main.main(["study", *(a.format(file=file) for a in arguments)]) == 2
  assert message in capsys.readouterr().err


def test_the_cost_of_errors_is_read_off_the_artifacts(made):
  rows = error_costs.measure(quick=False, study=made)
  values = {row["name"]: row["value"] for row in rows}
  measured = {
    (r["encoder"], r["metric"]): r["value"]
    for r in document(made)["rows"]
    if r["task"] == "localization"
  }
  for name in ROWS:
    dataset = f"motion_sprites/tiny-classes_6, {name}"
    assert values[f"{dataset}: average mAP"] <= (
      measured[name, "average_map"] + 1e-6
    )
    shares = [v for k, v in values.items() if k.startswith(f"{dataset}: share")]
    assert 0.0 < sum(shares) <= 1.0 + 1e-9
    assert values[f"{dataset}: cost of background"] >= -1e-9


def test_novel_classes_were_not_seen(made):
  for path in (made / "artifacts").glob("pretrain-*/encoder.json"):
    facts = json.loads(path.read_text())
    seen = set(facts["training"]["seen_classes"])
    assert seen <= {"slides", "rolls", "hops", "bounces"}


def test_the_summary_pairs_seeds(made):
  found = document(made)
  values = {
    (r["encoder"], r["seed"]): r["value"]
    for r in found["rows"]
    if r["metric"] == "text_to_video/r@5"
  }
  (entry,) = [
    e for e in found["summary"]
    if e["row"] == "random" and e["metric"] == "text_to_video/r@5"
  ]  # fmt: skip
  gain = values["clap", 0] - values["random", 0]
  assert entry["pairs"] == entry["seeds"] == 1
  assert entry["reference_minus_row"] == pytest.approx(gain)
  with (made / "summary.csv").open() as file:
    lines = list(csv.DictReader(file))
  assert len(lines) == len(found["summary"])
  with (made / "results.csv").open() as file:
    assert len(list(csv.DictReader(file))) == len(found["rows"])


def test_the_page_needs_nothing_else(made):
  text = (made / "report.html").read_text()
  loaded = []

  class Loads(parser.HTMLParser):
    def handle_starttag(self, tag, attrs):
      loaded.extend(v for k, v in attrs if k in ("src", "srcset", "data"))
      loaded.extend(v for k, v in attrs if k == "href" and v[:1] != "#")

  Loads().feed(text)
  assert not loaded
  for row in ROWS:
    assert row in text
  assert text.count("<svg") >= 5
  assert "Not finished" not in text


def test_a_second_call_makes_nothing(made):
  def times():
    paths = (made / "artifacts").glob("*/*.json")
    return {path: path.stat().st_mtime_ns for path in paths}

  before = times()
  assert before
  assert main.main(command(made)) == 0
  assert times() == before


def tiny_plan(rows=("random",)):
  config = config_lib.resolve(
    settings.StudyConfig,
    configs.read("configs/study_claim.py:tiny", []),
  )
  return settings.with_rows(config, rows)


def read(name):
  return configs.read(name, [])


KINDS = ("data", "start", "pretrain", "features", "localization", "grounding",
         "fewshot")  # fmt: skip


def test_properties_are_plotted_over_what_was_measured(tmp_path, monkeypatch):
  share = {"gaps_0.25": 0.3, "gaps_2.5": 0.8}

  def stand_in(artifact, directory, inputs):
    gain = 0.1 * (artifact.row == "clap") * len(artifact.dataset)
    row = {
      "encoder": artifact.row, "seed": artifact.seed,
      "dataset": artifact.dataset, "split": "validation",
      "task": artifact.kind, "metric": "average_map", "value": 0.5 + gain,
      "card": {},
    }  # fmt: skip
    results.write(directory, [row])

  monkeypatch.setattr(artifacts, "_MAKERS", dict.fromkeys(KINDS, stand_in))
  monkeypatch.setattr(
    property_charts,
    "_background_share",
    lambda _, dataset: share.get(dataset.partition("-")[2], 0.5),
  )
  name = "configs/study_claim.py:tiny,properties"
  config = config_lib.resolve(settings.StudyConfig, configs.read(name, []))
  found = study.run(
    config, workdir=tmp_path, read=read, runner=jobs.InThisProcess()
  )
  num_rows = 4 + 3 * 3 + 8 * 2 + 2 * 3
  assert found["made"] == found["artifacts"] == 14 + 14 + num_rows * 4
  assert found["claims"] == []
  text = (tmp_path / "report.html").read_text()
  for title in TITLES:
    assert f"{title}: Temporal localization" in text
    assert f"{title}: what clap adds" in text
  assert "share of the time that no action covers" in text


def test_what_fails_is_set_apart_and_tried_again(tmp_path, monkeypatch):
  made = []

  def stand_in(artifact, directory, inputs):
    if artifact.kind == "features" and artifact.row == "tac" and not made:
      raise OSError("no space")
    row = {
      "encoder": artifact.row, "seed": artifact.seed,
      "dataset": artifact.dataset, "split": "validation",
      "task": artifact.kind, "metric": "average_map", "value": 0.5, "card": {},
    }  # fmt: skip
    results.write(directory, [row])

  monkeypatch.setattr(artifacts, "_MAKERS", dict.fromkeys(KINDS, stand_in))
  config = tiny_plan(("tac", "clap"))

  def go():
    return study.run(
      config, workdir=tmp_path, read=read, runner=jobs.InThisProcess()
    )

  first = go()
  reasons = {f["artifact"]: f["reason"] for f in first["failed"]}
  assert reasons["features tac seed 0 tiny-classes_6"] == "OSError: no space"
  assert "not made" in reasons["localization tac seed 0 tiny-classes_6"]
  assert len(reasons) == 4
  assert {r["encoder"] for r in first["rows"] if r["task"] == "fewshot"} == {
    "clap"
  }
  assert "no space" in (tmp_path / "report.html").read_text()
  made.append(True)
  second = go()
  assert second["failed"] == []
  assert second["made"] == second["artifacts"]


def test_a_process_that_dies_is_a_failure_of_its_job(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "executable", "/bin/false")
  found = study.run(
    tiny_plan(), workdir=tmp_path, read=read, runner=jobs.Processes()
  )
  assert [f["reason"][:30] for f in found["failed"]] == [
    "its process ended with code 1;"
  ] * 2


def test_a_job_in_a_process_of_its_own(tmp_path):
  ((job,), *_) = planning.plan(tiny_plan(), read=read)
  store = artifacts.ArtifactStore(tmp_path)
  assert list(jobs.Processes().run_all([job], store, parallel=1)) == [job]
  assert store.has(job.artifacts[0].name)
  (path,) = (tmp_path / "jobs").glob("*.json")
  assert worker.read_job(path) == job


def test_a_worker_leaves_with_its_parent(tmp_path):
  script = (
    "import os, subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', '''\n"
    "import time\n"
    "from clap_jax.studies import worker\n"
    "worker._leave_with_parent()\n"
    'print("up", flush=True)\n'
    "time.sleep(600)\n"
    "'''], stdout=subprocess.PIPE, text=True)\n"
    "child.stdout.readline()\n"
    "print(child.pid, flush=True)\n"
  )
  parent = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, check=True,
    timeout=300,
  )  # fmt: skip
  child = pathlib.Path("/proc", parent.stdout.strip())
  deadline = 120
  for _ in range(deadline):
    if not child.exists():
      return
    subprocess.run(["sleep", "1"], check=True)
  pytest.fail(f"process {child.name} outlived its parent")


@pytest.mark.slow
def test_all_rows(tmp_path):
  arguments = [
    "study", "claim", "--in_process", f"--workdir={tmp_path}", "--seeds=0,1",
    "--config=configs/study_claim.py:tiny",
  ]  # fmt: skip
  assert main.main(arguments) == 0
  found = document(tmp_path)
  assert found["made"] == found["artifacts"] == 1 + 2 + 2 * 11 * 5
  runs = {(r["encoder"], r["seed"], r["task"]) for r in found["rows"]}
  assert len(runs) == 11 * 2 * 4
  metrics = {(r["task"], r["metric"]) for r in found["rows"]}
  claimed = {(claim["task"], claim["metric"]) for claim in found["claims"]}
  assert claimed - metrics == {
    ("fewshot", "1way_5shot/prototypes/average_map")  # tiny has but 1 shot
  }
  records = [
    json.loads(path.read_text())
    for path in (tmp_path / "artifacts").glob("pretrain-*/artifact.json")
  ]
  assert len(records) == 22
  for record in records:
    if record["row"] != "random":
      own = tower(tmp_path, record["name"])
      start = tower(tmp_path, record["inputs"]["start"])
      assert (own == start) == (record["row"] == "clap_frozen_tower")


def tower(root, name):
  params, _ = checkpoint.restore_params(root / name)
  return b"".join(
    leaf.tobytes() for leaf in jax.tree.leaves(params["params"]["video_tower"])
  )


@pytest.mark.slow
def test_properties(tmp_path):
  arguments = [
    "study", "properties", "--in_process", f"--workdir={tmp_path}",
    "--config=configs/study_claim.py:tiny,properties",
  ]  # fmt: skip
  assert main.main(arguments) == 0
  found = document(tmp_path)
  assert len({row["dataset"] for row in found["rows"]}) == 14
  text = (tmp_path / "report.html").read_text()
  for title in TITLES:
    assert f"{title}: Temporal localization" in text
    assert f"{title}: what clap adds" in text
