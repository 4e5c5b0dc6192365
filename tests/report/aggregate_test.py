"""What the report claims about the numbers is what the numbers say."""

import itertools
import math

import pytest

from clap_jax.report import aggregate, content, metric_names


def row(encoder, value, *, seed=0, metric="average_map", task="localization"):
  return content.ResultRow(
    encoder, seed, "sprites", "validation", task, metric, value
  )


def table(*rows):
  (only,) = aggregate.tables(rows)
  return only


def test_rows_stand_in_the_named_order_and_unknown_ones_last():
  names = ("zeta", "clap", "tsp", "random", "clip", "tac", "beta")
  got = table(*(row(name, 0.1) for name in names))
  assert got.encoders == (
    "random",
    "tac",
    "tsp",
    "clip",
    "clap",
    "beta",
    "zeta",
  )


def test_the_headline_metric_is_the_first_column():
  got = table(
    row("clap", 0.5, metric="map@0.50"), row("clap", 0.4), row("tac", 0.3)
  )
  assert got.metrics == ("average_map", "map@0.50")
  assert got.cells["tac", "map@0.50"].rows == ()


@pytest.mark.parametrize(
  "values", list(itertools.permutations((0.1, 0.33, 0.41)))
)
def test_ordering_and_verdict_follow_the_numbers(values):
  measured = dict(zip(("random", "tac", "clap"), values, strict=True))
  got = table(*(row(name, value) for name, value in measured.items()))
  ranked = sorted(measured, key=lambda name: -measured[name])
  expected = " > ".join(f"{name} {measured[name]:.3f}" for name in ranked)
  assert aggregate.ordering(got) == expected
  holds = ranked == ["clap", "tac", "random"]
  claim = aggregate.verdict([got])
  assert ("does not hold" not in claim) == holds
  assert ("holds on average mAP" in claim) == holds


def test_equal_rounded_values_are_not_called_better():
  got = table(row("clap", 0.4101), row("tac", 0.4099), row("random", 0.1))
  assert aggregate.ordering(got) == "clap 0.410 ≈ tac 0.410 > random 0.100"
  assert "does not hold" in aggregate.verdict([got])
  assert got.best("average_map") == {"clap", "tac"}


def test_lower_is_better_for_ranks():
  rows = [
    row(name, value, metric="median_rank", task="retrieval")
    for name, value in (("clap", 3.0), ("tac", 8.0))
  ]
  got = table(*rows)
  assert aggregate.ordering(got) == "clap 3.00 < tac 8.00"
  assert got.best("median_rank") == {"clap"}
  assert "holds on median rank" in aggregate.verdict([got])


def test_not_a_number_is_left_out_of_means_orders_and_bests():
  got = table(
    row("clap", math.nan),
    row("tac", 0.2),
    row("tac", math.nan, seed=1),
    row("random", 0.1),
  )
  assert got.cells["tac", "average_map"].mean == 0.2
  assert math.isnan(got.cells["clap", "average_map"].mean)
  assert math.isnan(got.cells["tac", "average_map"].spread)
  assert aggregate.ordering(got) == "tac 0.200 > random 0.100"
  assert got.best("average_map") == {"tac"}
  nothing = table(row("clap", math.nan))
  assert aggregate.ordering(nothing) == ""
  assert aggregate.verdict([nothing]) == ""
  assert nothing.best("average_map") == frozenset()


def test_seed_note_tells_overlapping_from_separate():
  separate = [row("clap", v, seed=s) for s, v in enumerate((0.40, 0.42))]
  separate += [row("tac", v, seed=s) for s, v in enumerate((0.30, 0.33))]
  assert "do not overlap" in aggregate.seed_note(table(*separate))
  mixed = [*separate, row("tac", 0.41, seed=2)]
  note = aggregate.seed_note(table(*mixed))
  assert note == "2 to 3 seeds; the ranges of clap and tac overlap."
  assert "One seed" in aggregate.seed_note(table(row("clap", 0.4)))


def test_spread_is_the_sample_deviation():
  got = table(*(row("clap", v, seed=s) for s, v in enumerate((0.1, 0.2, 0.3))))
  cell = got.cells["clap", "average_map"]
  assert cell.mean == pytest.approx(0.2)
  assert cell.spread == pytest.approx(0.1)


def test_contradicting_rows_are_refused_and_repeats_count_once():
  got = table(row("clap", 0.4), row("clap", 0.4))
  assert len(got.cells["clap", "average_map"].rows) == 1
  with pytest.raises(ValueError, match=r"Two values for localization.*0\.5"):
    aggregate.tables([row("clap", 0.4), row("clap", 0.5)])


def test_verdict_names_where_the_order_holds_and_where_not():
  good = table(row("clap", 0.4), row("tac", 0.3))
  bad = table(
    row("clap", 0.2, metric="r1@0.5", task="grounding"),
    row("tac", 0.3, metric="r1@0.5", task="grounding"),
  )
  claim = aggregate.verdict([good, bad])
  assert "holds on average mAP" in claim
  assert "but not on R@1 IoU 0.5" in claim


def test_tables_with_fewer_encoders_are_judged_apart():
  whole = table(row("clap", 0.4), row("tac", 0.3), row("random", 0.1))
  part = table(
    row("clap", 0.2, metric="r@1", task="retrieval"),
    row("random", 0.3, metric="r@1", task="retrieval"),
  )
  assert aggregate.verdict([whole, part]) == (
    "The expected order, clap > tac > random, holds on average mAP"
    " (temporal localization). The expected order, clap > random, does not"
    " hold on R@1 (retrieval)."
  )


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
