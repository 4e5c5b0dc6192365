"""Runs a study and updates its tables and page after each job.

WORKDIR/artifacts/   artifacts, named by their keys
WORKDIR/jobs/        artifacts (JSON) and output (log) of each process
WORKDIR/results.json  results.csv  claims.csv  summary.csv  report.html
"""

import pathlib
from collections.abc import Sequence

from clap_jax.evaluation import results
from clap_jax.report import claims, content, page, result_table
from clap_jax.storage import output, text_tables
from clap_jax.studies import (
  jobs,
  orchestrator,
  planning,
  property_charts,
  settings,
)
from clap_jax.studies.artifacts import DATA, FEATURES, START, ArtifactStore

RESULTS_CSV, SUMMARY_CSV, REPORT = "results.csv", "summary.csv", "report.html"
CLAIMS_CSV = "claims.csv"
_NUMBERS = {"seed": int, "head_seed": int, "value": float}  # of results.csv
_WITHOUT_RESULTS = (DATA, START, FEATURES)

Judged = tuple[result_table.ResultTable, list[claims.Verdict]]


def run(
  config: settings.StudyConfig,
  *,
  workdir: str | pathlib.Path,
  read: planning.ReadConfig,
  runner: jobs.Runner,
  parallel: int = 1,
) -> dict:
  """Makes missing artifacts; returns the document of results.json.

  Args:
    workdir: folder of the study; several studies may share it.
    read: reads the config files that the study names.

  Raises:
    ValueError: one of the configs is invalid.
    WorkdirBusyError: another study uses the workdir.
  """
  store = ArtifactStore(pathlib.Path(workdir))
  document: dict = {}

  def write(state: orchestrator.State) -> None:
    nonlocal document
    document = _write(config, store, state)

  orchestrator.run(
    planning.plan(config, read=read),
    store,
    runner,
    parallel=parallel,
    on_change=write,
  )
  return document


def _write(
  config: settings.StudyConfig,
  store: ArtifactStore,
  state: orchestrator.State,
) -> dict:
  """Writes the results so far."""
  rows = [
    row | {"seed": artifact.seed, "head_seed": artifact.head_seed}
    for artifact in state.made
    if artifact.kind not in _WITHOUT_RESULTS
    for row in results.read(store.directory(artifact.name))
  ]
  table, verdicts = judge(rows, config)
  remaining_sec, is_known = state.remaining()
  document = {
    "title": config.title,
    "artifacts": len(state.artifacts),
    "made": len(state.made),
    "remaining_sec": remaining_sec,
    "remaining_known": is_known,
    "failed": [
      {"artifact": label, "reason": reason} for label, reason in state.failed
    ],
    "claims": [verdict.as_dict() for verdict in verdicts],
    "summary": table.summary(),
    "rows": rows,
  }
  results.write_json(store.workdir / results.RESULTS_FILE, document)
  output.write_text(store.workdir / RESULTS_CSV, result_table.rows_csv(rows))
  write_tables(
    store.workdir,
    (table, verdicts),
    config,
    state=state,
    charts=property_charts.charts(config, table, state.made, store),
  )
  return document


def read_rows(path: str | pathlib.Path) -> list[dict]:
  """Reads the rows of a results.csv.

  Raises:
    TableError: the table cannot be read, or lacks a column.
    ValueError: a cell that must be a number is not.
  """
  columns = result_table.RAW_COLUMNS
  required = [name for name in columns if name != "head_seed"]
  table = text_tables.read_table(path, columns=columns, required=required)
  return [_parsed(row, path) for row in table]


def _parsed(row: text_tables.Row, path) -> dict:
  parsed: dict = {
    name: row.cells.get(name, "") for name in result_table.RAW_COLUMNS
  }
  for name, kind in _NUMBERS.items():
    text = parsed[name]
    if not text and name != "seed":  # no trained head, or an undefined value
      parsed[name] = None
      continue
    try:
      parsed[name] = kind(text)
    except ValueError:
      raise ValueError(
        f"{path}, line {row.line}: {name} must be a number, got {text!r}."
      ) from None
  return parsed


def judge(rows: Sequence[dict], config: settings.StudyConfig) -> Judged:
  """Returns the table and the verdicts for a study's raw numbers.

  Raises:
    ValueError: the rows have several splits or duplicates.
  """
  splits = sorted({row["split"] for row in rows})
  if len(splits) > 1:
    raise ValueError(
      f"the rows have the splits {', '.join(splits)}; expected one split."
    )
  titles = {row.name: row.title for row in config.rows}
  others = dict.fromkeys(row["encoder"] for row in rows)
  titles |= {name: name for name in others if name not in titles}
  table = result_table.ResultTable.of(
    rows, titles=titles, reference=config.reference
  )
  verdicts = claims.judge(table, config.claims, min_seeds=config.min_seeds)
  return table, verdicts


def write_tables(
  directory: str | pathlib.Path,
  judged: Judged,
  config: settings.StudyConfig,
  *,
  state: orchestrator.State | None = None,
  charts: Sequence[content.Chart] = (),
) -> None:
  """Writes claims.csv, summary.csv and report.html."""
  root = pathlib.Path(directory)
  output.make_folder(root)
  table, verdicts = judged
  output.write_text(root / CLAIMS_CSV, claims.csv_text(verdicts))
  output.write_text(root / SUMMARY_CSV, table.csv())
  state = state or orchestrator.State((), {}, ())
  page.write_report(
    root / REPORT,
    page.Report(
      title=config.title,
      subtitle=f"{state} are finished."
      if state.artifacts
      else "Computed from a table of raw numbers.",
      notes=config.notes,
      verdicts=verdicts,
      table=table,
      charts=charts,
      listings=[state.listing()] if state.made else (),
      failed=state.failed,
    ),
  )
