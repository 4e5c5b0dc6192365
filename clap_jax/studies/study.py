"""Runs a study and updates its report as results arrive.

WORKDIR/pieces/   what was made, by the hash of all it depends on; see pieces.py
WORKDIR/units/    one process each: its pieces (JSON) and its output (log)
WORKDIR/results.json  results.csv  claims.csv  summary.csv  report.html

A second call makes what is missing and what depends on anything that changed.
"""

import contextlib
import dataclasses
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent import futures

from clap_jax import sweep
from clap_jax.console import Progress, console
from clap_jax.evaluation import results
from clap_jax.report import (
  files,
  metric_names,
  study_claims,
  study_page,
  study_table,
)
from clap_jax.storage import output, untrusted
from clap_jax.studies import measured, pieces, planning, settings
from clap_jax.training import workdir as workdir_lib

UNITS = "units"
RESULTS_CSV, SUMMARY_CSV, REPORT = "results.csv", "summary.csv", "report.html"
CLAIMS_CSV = "claims.csv"


class Processes(sweep.Children):
  """Runs each unit in a process of its own, which may die of anything."""

  def attempts(
    self, units: Sequence[planning.Unit], shelf: pieces.Shelf, parallel: int
  ) -> Iterator[planning.Unit]:
    """Tries `parallel` units at a time; yields each once that is over."""
    with futures.ThreadPoolExecutor(max_workers=parallel) as pool:
      pending = {
        pool.submit(self._attempt, unit, shelf): unit for unit in units
      }
      for future in futures.as_completed(pending):
        future.result()
        yield pending[future]

  def watched(self):
    """While it lasts, SIGTERM and Ctrl-C stop the units, which save."""
    return sweep.stopped_by_signals(self)

  def _attempt(self, unit: planning.Unit, shelf: pieces.Shelf) -> None:
    if self.stopping:
      return
    path = shelf.workdir / UNITS / f"{_file_name(unit)}.json"
    output.make_folder(path.parent, folder=shelf.workdir)
    results.write_json(
      path, {"pieces": [dataclasses.asdict(piece) for piece in unit.pieces]}
    )
    log = path.with_suffix(".log")
    command = [sys.executable, "-m", "clap_jax.studies.worker"]
    code = self.run(path.stem, [*command, str(shelf.workdir), str(path)], log)
    if code in (0, 3) or self.stopping:
      return
    missing = [p for p in unit.pieces if not shelf.has(p.name)]
    if missing and not shelf.failure(missing[0].name).is_file():
      reason = f"its process ended with code {code}; see {log}"
      pieces.note_failure(missing[0], shelf, reason=reason)


class InThisProcess:
  """Runs units here: no start of a process each, and no protection."""

  stopping = False

  def attempts(
    self, units: Sequence[planning.Unit], shelf: pieces.Shelf, parallel: int
  ) -> Iterator[planning.Unit]:
    del parallel
    for unit in units:
      pieces.make_all(list(unit.pieces), shelf)
      yield unit

  def watched(self):
    """Nothing to do: what is under way takes signals itself."""
    return contextlib.nullcontext()


def run(
  config: settings.StudyConfig,
  *,
  workdir: str | pathlib.Path,
  read: planning.ReadConfig,
  runner: Processes | InThisProcess,
  parallel: int = 1,
) -> dict:
  """Makes what is missing; returns what results.json holds.

  Args:
    config: the study.
    workdir: of this study, or of several that share pieces.
    read: reads the config files that the study names.
    runner: of units.
    parallel: units at a time.

  Raises:
    ValueError: one of the configs is wrong anywhere.
    WorkdirBusyError: another study is at work there.
  """
  root = pathlib.Path(workdir)
  steps = planning.plan(config, read=read)
  everything = planning.pieces_of(steps)
  shelf = pieces.Shelf(root)
  with workdir_lib.locked(root):
    todo = [p for p in everything if not shelf.has(p.name)]
    console.print(
      f"{len(everything)} pieces, {len(everything) - len(todo)} of them made"
    )
    for piece in todo:  # tried again
      shelf.failure(piece.name).unlink(missing_ok=True)
    document = _write(config, root, everything)
    with Progress("study") as bar:
      for unit in _in_turn(steps, shelf, runner, parallel):
        document = _write(config, root, everything)
        bar(document["made"], document["pieces"])
        console.print(_state(unit, document, parallel))
  for failure in document["failed"]:
    console.print(
      f"failed: {failure['piece']}: {failure['reason']}", markup=False
    )
  return document


def _in_turn(
  steps: Sequence[planning.Step], shelf: pieces.Shelf, runner, parallel: int
) -> Iterator[planning.Unit]:
  """Yields each unit that has something to make once it has been tried."""
  for step in steps:
    if runner.stopping:
      return
    waiting = [
      unit
      for unit in step.units
      if not all(shelf.has(piece.name) for piece in unit.pieces)
    ]
    yield from runner.attempts(waiting, shelf, parallel)


def _state(unit: planning.Unit, document: dict, parallel: int) -> str:
  left = document["remaining_sec"]
  about = "" if document["remaining_known"] else "at least "
  text = f"{unit.label}: {document['made']} of {document['pieces']} pieces"
  if document["failed"]:
    text += f", {len(document['failed'])} failed"
  if document["made"] == document["pieces"]:
    return text
  if not left:
    return f"{text}; how long the rest takes is not known yet"
  return f"{text}, {about}{metric_names.format_seconds(left / parallel)} left"


def _write(
  config: settings.StudyConfig,
  root: pathlib.Path,
  everything: Sequence[planning.Piece],
) -> dict:
  """Writes what there is so far."""
  shelf = pieces.Shelf(root)
  made = {p.name: _record(shelf, p) for p in everything if shelf.has(p.name)}
  failed = [
    {"piece": piece.label, "reason": _reason(shelf, piece)}
    for piece in everything
    if piece.name not in made and shelf.failure(piece.name).is_file()
  ]
  rows = [
    row | {"seed": piece.seed, "head_seed": piece.head_seed}
    for piece in everything
    if piece.name in made and piece.kind not in measured.WITHOUT_RESULTS
    for row in results.read(shelf.directory(piece.name))
  ]
  remaining_sec, is_known = _remaining(everything, made)
  table = study_table.StudyTable.of(
    rows,
    titles={row.name: row.title for row in config.rows},
    reference=config.reference,
  )
  verdicts = study_claims.judge(
    table, config.claims, min_seeds=config.min_seeds
  )
  document = {
    "title": config.title,
    "pieces": len(everything),
    "made": len(made),
    "remaining_sec": remaining_sec,
    "remaining_known": is_known,
    "failed": failed,
    "claims": [verdict.as_dict() for verdict in verdicts],
    "summary": table.summary(),
    "rows": rows,
  }
  results.write_json(root / results.RESULTS_FILE, document)
  files.write_text(root / RESULTS_CSV, study_table.rows_csv(rows))
  files.write_text(root / SUMMARY_CSV, table.csv())
  files.write_text(root / CLAIMS_CSV, study_claims.csv_text(verdicts))
  study_page.write(
    root / REPORT,
    table,
    study_page.Facts(
      title=config.title,
      notes=config.notes,
      num_pieces=len(everything),
      num_made=len(made),
      failed=tuple((f["piece"], f["reason"]) for f in failed),
      wall_sec=_wall_by_kind(everything, made),
    ),
    verdicts=verdicts,
    charts=measured.charts(config, table, everything, shelf),
  )
  return document


def _record(shelf: pieces.Shelf, piece: planning.Piece) -> dict:
  return untrusted.read_json(shelf.record(piece.name))


def _reason(shelf: pieces.Shelf, piece: planning.Piece) -> str:
  path = shelf.failure(piece.name)
  return untrusted.read_json(path)["reason"]


def _wall_by_kind(everything, made) -> dict[str, tuple[int, float]]:
  """Kind -> (pieces made, seconds in all)."""
  totals: dict[str, tuple[int, float]] = {}
  for piece in everything:
    if piece.name in made:
      count, total = totals.get(piece.kind, (0, 0.0))
      seconds = made[piece.name]["wall_sec"]
      totals[piece.kind] = (count + 1, total + seconds)
  return totals


def _remaining(everything, made) -> tuple[float, bool]:
  """Seconds for the rest by the mean of each kind; whether all are known."""
  totals = _wall_by_kind(everything, made)
  missing = [piece.kind for piece in everything if piece.name not in made]
  seconds = sum(
    totals[kind][1] / totals[kind][0] for kind in missing if kind in totals
  )
  return seconds, all(kind in totals for kind in missing)


def _file_name(unit: planning.Unit) -> str:
  readable = re.sub(r"[^A-Za-z0-9._-]+", "_", unit.label)
  return f"{readable}-{unit.pieces[0].key[:8]}"
