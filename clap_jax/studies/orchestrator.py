"""Runs jobs step by step; keeps finished artifacts, continues after failures.

A second call makes missing and failed artifacts.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from clap_jax.console import console
from clap_jax.report import content, metric_names
from clap_jax.studies import jobs, planning
from clap_jax.studies.artifacts import Artifact, ArtifactStore
from clap_jax.training import workdir as workdir_lib


@dataclasses.dataclass(frozen=True)
class State:
  """Progress of artifacts: records of the finished, reasons of failures."""

  artifacts: Sequence[Artifact]
  records: Mapping[str, dict]  # name -> record of a finished artifact
  failed: Sequence[tuple[str, str]]  # label, reason

  @classmethod
  def of(cls, artifacts: Sequence[Artifact], store: ArtifactStore) -> "State":
    names = [a.name for a in artifacts]
    records = {name: store.record(name) for name in names if store.has(name)}
    reasons = [
      (a.label, store.failure(a.name))
      for a in artifacts
      if a.name not in records
    ]
    return cls(
      artifacts,
      records,
      [(label, reason) for label, reason in reasons if reason is not None],
    )

  @property
  def made(self) -> list[Artifact]:
    return [a for a in self.artifacts if a.name in self.records]

  @property
  def missing(self) -> list[Artifact]:
    return [a for a in self.artifacts if a.name not in self.records]

  def wall_sec(self) -> dict[str, tuple[int, float]]:
    """Returns kind -> (number of finished artifacts, total seconds)."""
    totals: dict[str, tuple[int, float]] = {}
    for artifact in self.made:
      count, total = totals.get(artifact.kind, (0, 0.0))
      seconds = self.records[artifact.name]["wall_sec"]
      totals[artifact.kind] = (count + 1, total + seconds)
    return totals

  def remaining(self) -> tuple[float, bool]:
    """Estimates the remaining seconds from the mean of each kind.

    Returns:
      (seconds, True if the mean of every missing kind is known).
    """
    totals = self.wall_sec()
    kinds = [artifact.kind for artifact in self.missing]
    seconds = sum(
      totals[kind][1] / totals[kind][0] for kind in kinds if kind in totals
    )
    return seconds, all(kind in totals for kind in kinds)

  def listing(self) -> content.Listing:
    """Returns the time spent, as a table of a page."""
    time = metric_names.format_seconds
    return content.Listing(
      "Time",
      ("Kind", "Artifacts", "Total", "Mean"),
      [
        (kind, str(count), time(total), time(total / count))
        for kind, (count, total) in self.wall_sec().items()
      ],
      note="For a resumed artifact, the time since it was resumed.",
    )

  def __str__(self) -> str:
    text = f"{len(self.records)} of {len(self.artifacts)} artifacts"
    return f"{text}, {len(self.failed)} failed" if self.failed else text


def run(
  steps: planning.Steps,
  store: ArtifactStore,
  runner: jobs.Runner,
  *,
  parallel: int = 1,
  on_change: Callable[[State], object] = lambda state: None,
) -> State:
  """Makes missing artifacts.

  Args:
    store: store of the workdir, which several studies may share.
    on_change: called before the first job and after every one; the last call
      gets the returned state.

  Raises:
    WorkdirBusyError: another call uses the workdir.
  """
  artifacts = planning.artifacts_of(steps)
  with workdir_lib.locked(store.workdir), runner.stopped_by_signals():
    for artifact in artifacts:
      if not store.has(artifact.name):  # tried again
        store.forget_failure(artifact.name)
    state = State.of(artifacts, store)
    console.print(f"{state} are finished")
    on_change(state)
    for step in steps:
      waiting = [
        job
        for job in step
        if not all(store.has(artifact.name) for artifact in job.artifacts)
      ]
      if runner.stopping:
        break
      for job in runner.run_all(waiting, store, parallel=parallel):
        state = State.of(artifacts, store)
        on_change(state)
        if not runner.stopping:
          console.print(f"{job.label}: {state}{_time_left(state, parallel)}")
  for label, reason in state.failed:
    console.print(f"failed: {label}: {reason}", markup=False)
  return state


def _time_left(state: State, parallel: int) -> str:
  seconds, is_known = state.remaining()
  if not state.missing:
    return ""
  if not seconds:
    return "; remaining time not known yet"
  about = "" if is_known else "at least "
  return f", {about}{metric_names.format_seconds(seconds / parallel)} left"
