"""Searches: proposals, early stops, and going on after an interruption."""

import json
import threading

import pytest

from clap_jax import sweep, sweep_search
from clap_jax.evaluation import results
from clap_jax.report import sweep_table

pytest.importorskip("optuna")

SPACE = {"rate": ("log_uniform", 1e-4, 1.0), "kind": ("a", "b")}


class StandIn(sweep.Runner):
  """Makes the files of runs instead of running; good near a rate of 0.01."""

  def __init__(self, *, lags=(), fail=(), stop_after=None):
    super().__init__("config.py")
    self.made = []
    self.stopped = []
    self._lags, self._fail, self._stop_after = lags, fail, stop_after
    self._told = threading.Event()

  def __call__(self, run):
    number = len(self.made)
    if self._stop_after is not None and number >= self._stop_after:
      self.stopping = True
      return sweep_table.STOPPED
    self.made.append(run)
    if number in self._fail:
      return "failed with exit code 3"
    run.directory.mkdir(parents=True, exist_ok=True)
    rate, bonus = run.overrides["rate"], run.overrides["kind"] == "b"
    value = -abs(rate - 0.01) + 0.1 * bonus
    key = "eval/selection/score"
    lagging = number in self._lags
    lines = [
      json.dumps({"step": step, key: -9.0 if lagging else value})
      for step in (1, 2)
    ]
    (run.directory / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if lagging:
      assert self._told.wait(60), "nobody asked the lagging run to stop"
      self._told.clear()
      return sweep_table.STOPPED
    results.write(run.directory, [])
    return sweep_table.DONE

  def stop(self, run):
    self.stopped.append(run)
    self._told.set()


def search(runner, workdir, num_trials, **kwargs):
  return sweep_search.search(
    SPACE,
    runner,
    workdir=workdir,
    num_trials=num_trials,
    parallel=1,
    metric="score",
    seed=0,
    **kwargs,
  )


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(sweep_search, "_POLL_SEC", 0.01)


def test_the_search_stays_in_the_space_and_is_repeatable(tmp_path):
  made = []
  for name in ("a", "b"):
    runner = StandIn()
    runs, outcomes = search(runner, tmp_path / name, 6)
    assert len(runs) == 6
    assert set(outcomes.values()) == {"done"}
    made.append([run.overrides for run in runner.made])
  assert made[0] == made[1]
  for overrides in made[0]:
    assert 1e-4 <= overrides["rate"] <= 1.0
    assert overrides["kind"] in ("a", "b")


def test_a_lagging_run_is_given_up(tmp_path):
  runner = StandIn(lags=(6,))
  _, outcomes = search(runner, tmp_path, 8)
  assert runner.stopped == [runner.made[6]]
  assert list(outcomes.values()).count(sweep_search.GIVEN_UP) == 1
  assert list(outcomes.values()).count("done") == 7


def test_failures_do_not_end_it(tmp_path):
  _, outcomes = search(StandIn(fail=(1, 2)), tmp_path, 5)
  assert (
    sorted(outcomes.values()) == ["done"] * 3 + ["failed with exit code 3"] * 2
  )


def test_it_goes_on_with_the_run_it_was_stopped_in(tmp_path):
  first = StandIn(stop_after=2)
  runs, outcomes = search(first, tmp_path, 5)
  assert list(outcomes.values()) == ["done", "done", "stopped"]
  second = StandIn()
  runs_after, outcomes = search(second, tmp_path, 5)
  assert second.made[0].directory == runs[2].directory
  assert len(second.made) == 3
  assert len(runs_after) == 5
  assert set(outcomes.values()) == {"done"}
  third = StandIn()
  search(third, tmp_path, 5)
  assert third.made == []


def test_a_metric_that_is_not_evaluated(tmp_path):
  with pytest.raises(ValueError, match=r"'recall' is not evaluated.*score"):
    sweep_search.search(
      SPACE,
      StandIn(),
      workdir=tmp_path,
      num_trials=1,
      parallel=1,
      metric="recall",
      seed=0,
    )


def test_finished_runs_of_an_earlier_search_are_checked_first(tmp_path):
  search(StandIn(), tmp_path, 3)
  checked, runner = [], StandIn()

  def refuse(run):
    checked.append(run)
    raise ValueError("another config")

  with pytest.raises(ValueError, match="another config"):
    search(runner, tmp_path, 6, check=refuse)
  assert len(checked) == 1 and checked[0].done
  assert not runner.made
