"""Searches: proposals, early stops, and going on after an interruption."""

import json
import threading

import pytest

from clap_jax.evaluation import results
from clap_jax.studies import artifacts, jobs, search, sweep
from clap_jax.trainers import registry

pytest.importorskip("optuna")

SPACE = {"rate": ("log_uniform", 1e-4, 1.0), "kind": ("a", "b")}


class StandIn(jobs.Processes):
  """Makes the files of runs instead of running; good near a rate of 0.01."""

  def __init__(self, *, lags=(), fail=(), stop_after=None):
    super().__init__()
    self.made = []
    self.stopped = []
    self._lags, self._fail, self._stop_after = lags, fail, stop_after
    self._told = threading.Event()

  def run(self, job, store):
    number = len(self.made)
    if self._stop_after is not None and number >= self._stop_after:
      self.stopping = True
      return
    (artifact,) = job.artifacts
    self.made.append(artifact)
    if number in self._fail:
      store.note_failure(artifact.name, "OSError: no space")
      return
    directory = store.directory(artifact.name)
    directory.mkdir(parents=True, exist_ok=True)
    rate, bonus = artifact.config["rate"], artifact.config["kind"] == "b"
    value = -abs(rate - 0.01) + 0.1 * bonus
    key = "eval/selection/score"
    lagging = number in self._lags
    lines = [
      json.dumps({"step": step, key: -9.0 if lagging else value})
      for step in (1, 2)
    ]
    (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if lagging:
      assert self._told.wait(60), "nobody asked the lagging run to stop"
      self._told.clear()
    else:
      results.write(directory, [])

  def stop(self, job):
    self.stopped.append(job.artifacts[0])
    self._told.set()


def searched(runner, workdir, num_trials, metric="score"):
  """The runs of a search, and the outcome of each."""
  store = artifacts.ArtifactStore(workdir)
  runs, pruned = search.search(
    SPACE,
    runner,
    store,
    resolve=dict,
    num_trials=num_trials,
    parallel=1,
    metric=metric,
    seed=0,
  )
  return runs, [sweep.outcome(run, store, pruned) for run in runs]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(search, "_POLL_SEC", 0.01)
  monkeypatch.setattr(registry, "check_same", lambda directory, config: None)


def test_the_search_stays_in_the_space_and_is_repeatable(tmp_path):
  made = []
  for name in ("a", "b"):
    runner = StandIn()
    runs, outcomes = searched(runner, tmp_path / name, 6)
    assert len(runs) == 6
    assert set(outcomes) == {"done"}
    made.append([made_one.config for made_one in runner.made])
  assert made[0] == made[1]
  for overrides in made[0]:
    assert 1e-4 <= overrides["rate"] <= 1.0
    assert overrides["kind"] in ("a", "b")


def test_a_lagging_run_is_pruned(tmp_path):
  runner = StandIn(lags=(6,))
  _, outcomes = searched(runner, tmp_path, 8)
  assert runner.stopped == [runner.made[6]]
  assert outcomes.count("pruned") == 1
  assert outcomes.count("done") == 7


def test_failures_do_not_end_it(tmp_path):
  _, outcomes = searched(StandIn(fail=(1, 2)), tmp_path, 5)
  assert sorted(outcomes) == ["done"] * 3 + ["failed"] * 2


def test_it_goes_on_with_the_run_it_was_stopped_in(tmp_path):
  first = StandIn(stop_after=2)
  runs, outcomes = searched(first, tmp_path, 5)
  assert outcomes == ["done", "done", "stopped"]
  second = StandIn()
  runs_after, outcomes = searched(second, tmp_path, 5)
  assert second.made[0].name == runs[2].artifact.name
  assert len(second.made) == 3
  assert len(runs_after) == 5
  assert set(outcomes) == {"done"}
  third = StandIn()
  searched(third, tmp_path, 5)
  assert third.made == []


def test_a_metric_that_is_not_evaluated(tmp_path):
  with pytest.raises(ValueError, match=r"'recall' is not evaluated.*score"):
    searched(StandIn(), tmp_path, 1, metric="recall")


def test_finished_runs_of_an_earlier_search_are_checked_first(
  tmp_path, monkeypatch
):
  searched(StandIn(), tmp_path, 3)
  checked, runner = [], StandIn()

  def refuse(directory, config):
    checked.append(directory)
    raise ValueError("another config")

  monkeypatch.setattr(registry, "check_same", refuse)
  with pytest.raises(ValueError, match="another config"):
    searched(runner, tmp_path, 6)
  assert len(checked) == 1
  assert not runner.made
