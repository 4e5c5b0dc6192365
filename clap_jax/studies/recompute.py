"""Recomputes the tables of a study from its raw numbers."""

import pathlib
from collections.abc import Sequence

from clap_jax.report import files, study_claims, study_page, study_table
from clap_jax.storage import output, text_tables
from clap_jax.studies import settings, study

_NUMBERS = {"seed": int, "head_seed": int, "value": float}


def read_rows(path: str | pathlib.Path) -> list[dict]:
  """The rows of a results.csv.

  Raises:
    TableError: the table cannot be read, or lacks a column.
    ValueError: a cell holds something else than a number; with its line.
  """
  columns = study_table.RAW_COLUMNS
  table = text_tables.read_table(path, columns=columns, required=columns)
  return [_parsed(row, path) for row in table]


def _parsed(row: text_tables.Row, path) -> dict:
  parsed: dict = {name: row.cells[name] for name in study_table.RAW_COLUMNS}
  for name, kind in _NUMBERS.items():
    text = parsed[name]
    if not text and name != "seed":  # no head is trained; no finite value
      parsed[name] = None
      continue
    try:
      parsed[name] = kind(text)
    except ValueError:
      raise ValueError(
        f"{path}, line {row.line}: {name} must be a number, got {text!r}."
      ) from None
  return parsed


def recompute(
  rows: Sequence[dict], config: settings.StudyConfig
) -> tuple[study_table.StudyTable, list[study_claims.Verdict]]:
  """The table and the verdicts of a study's raw numbers.

  Raises:
    ValueError: the rows are of several splits, or hold a number twice.
  """
  splits = sorted({row["split"] for row in rows})
  if len(splits) > 1:
    raise ValueError(
      f"The rows are of the splits {', '.join(splits)}; a table is of one."
    )
  titles = {row.name: row.title for row in config.rows}
  titles |= {
    r["encoder"]: r["encoder"] for r in rows if r["encoder"] not in titles
  }
  table = study_table.StudyTable.of(
    rows, titles=titles, reference=config.reference
  )
  verdicts = study_claims.judge(
    table, config.claims, min_seeds=config.min_seeds
  )
  return table, verdicts


def write(
  rows: Sequence[dict],
  config: settings.StudyConfig,
  directory: str | pathlib.Path,
) -> list[study_claims.Verdict]:
  """Writes claims.csv, summary.csv and report.html of raw numbers."""
  root = pathlib.Path(directory)
  table, verdicts = recompute(rows, config)
  output.make_folder(root)
  files.write_text(root / study.CLAIMS_CSV, study_claims.csv_text(verdicts))
  files.write_text(root / study.SUMMARY_CSV, table.csv())
  facts = study_page.Facts(
    title=config.title,
    notes=config.notes,
    num_pieces=0,
    num_made=0,
    failed=(),
    wall_sec={},
  )
  study_page.write(root / study.REPORT, table, facts, verdicts=verdicts)
  return verdicts
