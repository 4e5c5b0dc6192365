"""Means, intervals and paired differences of a study; its page."""

import math

import numpy as np
import pytest
import scipy.stats

from clap_jax.metrics import intervals
from clap_jax.report import content, metric_names, page, result_table, strips

TITLES = {"tac": "class loss", "clap": "ours"}
VALUES = {"tac": (0.1, 0.3, 0.2), "clap": (0.3, 0.4, 0.45)}


def rows(values=VALUES, metric="average_map", task="localization"):
  return [
    {
      "encoder": name, "seed": seed, "dataset": "d/x", "split": "validation",
      "task": task, "metric": metric, "value": value, "card": {},
    }
    for name, of_seeds in values.items()
    for seed, value in enumerate(of_seeds)
  ]  # fmt: skip


def table(entries):
  return result_table.ResultTable.of(entries, titles=TITLES, reference="clap")


def test_intervals_are_students():
  found = intervals.estimate(VALUES["clap"])
  low, high = scipy.stats.t.interval(
    0.95, 2, loc=np.mean(VALUES["clap"]), scale=scipy.stats.sem(VALUES["clap"])
  )
  assert (found.low, found.high) == pytest.approx((low, high))
  assert math.isnan(intervals.estimate([0.5]).low)
  assert math.isnan(intervals.estimate([]).mean)


def test_differences_are_paired_by_seed():
  made = table(rows() + rows({"tac": (0.9,)}, metric="map@0.50"))
  cell = made.cell("d/x", "localization", "average_map", row="tac")
  gains = np.subtract(VALUES["clap"], VALUES["tac"])
  low, high = scipy.stats.t.interval(
    0.95, 2, loc=gains.mean(), scale=scipy.stats.sem(gains)
  )
  assert cell.difference.mean == pytest.approx(gains.mean())
  assert (cell.difference.low, cell.difference.high) == pytest.approx(
    (low, high)
  )
  assert cell.is_clear == (low > 0 or high < 0)
  own = made.cell("d/x", "localization", "average_map", row="clap")
  assert own.num_pairs == 0
  assert not own.is_clear
  alone = made.cell("d/x", "localization", "map@0.50", row="tac")
  assert alone.num_pairs == 0
  assert math.isnan(alone.difference.mean)


def test_undefined_values_are_left_out():
  made = table(rows({"tac": (0.1, None, 0.3), "clap": (0.2, 0.3)}))
  cell = made.cell("d/x", "localization", "average_map", row="tac")
  assert sorted(cell.values) == [0, 2]
  assert cell.num_pairs == 1


def with_heads(of_heads):
  """{row: {seed: values by head}} as rows."""
  return [
    rows({name: (value,)})[0] | {"seed": seed, "head_seed": head}
    for name, seeds in of_heads.items()
    for seed, values in seeds.items()
    for head, value in enumerate(values)
  ]


def test_a_seed_is_the_mean_of_its_heads():
  made = table(
    with_heads(
      {
        "clap": {4: (0.3, 0.6), 5: (0.5, 0.7), 6: (0.9, 0.9)},
        "tac": {4: (0.2, 0.4), 5: (0.5,), 6: (0.1, None)},
      }
    )
  )
  clap = made.cell("d/x", "localization", "average_map", row="clap")
  assert clap.values == pytest.approx({4: 0.45, 5: 0.6, 6: 0.9})
  # A seed that lacks a head, or has one without a value, is left out.
  tac = made.cell("d/x", "localization", "average_map", row="tac")
  assert tac.values == pytest.approx({4: 0.3})
  assert tac.difference.mean == pytest.approx(0.15)
  assert tac.num_pairs == 1


def test_a_number_given_twice_is_an_error():
  with pytest.raises(ValueError, match="tac, seed 0, head None has two values"):
    table(rows() + rows())


def test_the_summary_is_json_and_csv():
  made = table(rows())
  entries = made.summary()
  assert [e["row"] for e in entries] == ["tac", "clap"]
  assert entries[1]["reference_minus_row"] is None
  lines = made.csv().splitlines()
  assert lines[0].startswith("dataset,task,metric,row,status,seeds,mean")
  assert {entry["status"] for entry in entries} == {"exploratory"}
  assert len(lines) == 3


def test_the_page_shows_what_there_is():
  made = table(rows())
  report = page.Report(
    title="<A study>", subtitle="3 of 4 artifacts", notes=("a & b",),
    table=made, failed=(("fewshot tac", "<gone>"),),
    listings=[content.Listing("Time", ("Kind",), [("data",)])],
  )  # fmt: skip
  text = page.render(report)
  assert "&lt;A study&gt;" in text
  assert "&lt;gone&gt;" in text
  assert "3 of 4 artifacts" in text
  assert "clap minus the row" in text
  assert "0.383 ± 0.190" in text  # of clap, and its difference to tac
  assert "class loss" in text
  assert ">data<" in text
  empty = page.render(page.Report(title="Nothing yet", table=table([])))
  assert 'id="results"' not in empty


def test_columns_are_of_the_dataset():
  other = [row | {"dataset": "d/y"} for row in rows(metric="map@0.50")]
  made = table(rows() + other)
  assert made.metrics("localization") == ("average_map", "map@0.50")
  assert made.metrics("localization", "d/y") == ("map@0.50",)
  assert made.primary("localization", "d/x") == "average_map"


def test_a_plot_marks_mean_interval_and_seeds():
  rows_of_plot = [
    strips.Strip("clap", intervals.Interval(0.5, 0.4, 0.6), (0.45, 0.55)),
    strips.Strip("tac", intervals.estimate([-0.1])),
    strips.Strip("tsp", intervals.estimate([])),
  ]
  svg = strips.strips_svg(rows_of_plot, label="plot")
  assert svg.count('class="one"') == 2
  assert svg.count('class="mean"') == 2
  assert svg.count('class="line"') == 1
  assert "95 % interval 0.400 to 0.600" in svg
  assert strips.strips_svg([], label="") == ""


def test_the_headline_of_few_shot_localization():
  methods = ("nearest_prototype", "prototypes", "text_only")
  metrics = [
    f"{n}way_{k}shot/{method}/{name}"
    for n in (1, 5)
    for k in (1, 5)
    for method in methods
    for name in ("map@0.50", "average_map")
  ]
  best = metric_names.primary("fewshot", metrics)
  assert best == "5way_1shot/prototypes/average_map"
  name = metric_names.describe(best)
  assert name.text == "5-way 1-shot average mAP, prototypes"
  assert "5 classes" in name.meaning and "1 example" in name.meaning
