"""Texts of others in CSV files."""

import pytest

from clap_jax.report import result_table, sweep_table


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_a_formula_becomes_a_text(start):
  assert result_table.harmless(f"{start}1+1") == f"'{start}1+1"


@pytest.mark.parametrize("value", [-0.5, -3, None, True, "a=b", "", "1-2"])
def test_numbers_and_other_texts_stay(value):
  assert result_table.harmless(
    value
  ) is value or value == result_table.harmless(value)


def test_every_table_uses_it():
  row = dict.fromkeys(result_table.RAW_COLUMNS, "")
  row |= {"dataset": "=HYPERLINK(0)", "metric": "average_map", "value": -0.25}
  assert result_table.rows_csv([row]).splitlines() == [
    "dataset,split,encoder,seed,task,metric,value,head_seed",
    "'=HYPERLINK(0),,,,,average_map,-0.25,",
  ]
  entry = sweep_table.Entry(
    name="+x",
    outcome="failed",
    reason="-c",
    overrides={"a": "@b"},
    metrics={},
    curves={},
  )
  table = sweep_table.SweepTable.of([entry], metric=None)
  assert sweep_table.csv_text(table).splitlines()[1] == "'+x,failed,'@b,'-c"
