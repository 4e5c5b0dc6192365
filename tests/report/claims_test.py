"""Verdicts on the claims of a study that were named beforehand."""

import math

import numpy as np
import pytest
import scipy.stats

from clap_jax.metrics import intervals
from clap_jax.report import claims as claims_lib
from clap_jax.report import page, result_table

BETTER = claims_lib.Claim("clap", "tac", "localization", "average_map")
WORSE = claims_lib.Claim("tac", "clap", "localization", "average_map")
UNMEASURED = claims_lib.Claim("clap", "tsp", "grounding", "r1@0.5")
CLAP = (0.41, 0.44, 0.40, 0.47, 0.43, 0.45, 0.42, 0.46)
TAC = (0.38, 0.42, 0.39, 0.42, 0.41, 0.41, 0.40, 0.43)


def table(**values):
  rows = [
    {
      "encoder": name, "seed": seed, "dataset": "d/x", "split": "validation",
      "task": "localization", "metric": "average_map", "value": value,
      "head_seed": 0,
    }
    for name, of_seeds in values.items()
    for seed, value in enumerate(of_seeds)
  ]  # fmt: skip
  titles = dict.fromkeys(values, "")
  return result_table.ResultTable.of(rows, titles=titles, reference="clap")


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ((0.01, 0.04, 0.03, 0.005), (0.03, 0.06, 0.06, 0.02)),
    ((0.02,), (0.02,)),
    ((), ()),
    ((0.9, 0.8, 1.0), (1.0, 1.0, 1.0)),
    ((0.001, 0.001), (0.002, 0.002)),
  ],
)
def test_holm(given, expected):
  assert intervals.holm(given) == pytest.approx(list(expected))


def test_a_p_value_is_of_the_paired_t_test():
  differences = np.subtract(CLAP, TAC)
  assert intervals.p_value(differences) == pytest.approx(
    scipy.stats.ttest_rel(CLAP, TAC).pvalue
  )
  assert intervals.p_value([0.1]) == 1.0
  assert intervals.p_value([0.0, 0.0, 0.0]) == 1.0
  assert intervals.p_value([0.1, 0.1]) == 0.0


def test_a_claim_holds_after_correction_or_not():
  claims = (BETTER, WORSE, UNMEASURED)
  verdicts = claims_lib.judge(table(clap=CLAP, tac=TAC), claims, min_seeds=8)
  p = scipy.stats.ttest_rel(CLAP, TAC).pvalue
  assert [v.verdict for v in verdicts] == [
    claims_lib.HOLDS,
    claims_lib.DOES_NOT_HOLD,  # certainly another sign is no support
    claims_lib.TOO_FEW_SEEDS,
  ]
  assert verdicts[0].p == pytest.approx(p)
  # All three are corrected for, also the one without a number.
  assert verdicts[0].corrected_p == pytest.approx(3 * p)
  assert verdicts[2].corrected_p == 1.0
  entry = verdicts[0].as_dict()
  assert entry["effect"] == pytest.approx(np.mean(np.subtract(CLAP, TAC)))
  assert entry["low_95"] > 0
  assert verdicts[2].as_dict()["effect"] is None


def test_correction_can_overturn_a_claim():
  weak = tuple(
    t + d
    for t, d in zip(
      TAC, (0.03, -0.01, 0.02, 0.02, -0.01, 0.03, 0.01, 0.0), strict=True
    )
  )
  made = table(clap=weak, tac=TAC)
  (alone,) = claims_lib.judge(made, (BETTER,), min_seeds=8)
  assert alone.corrected_p == alone.p < 0.1
  family = claims_lib.judge(made, (BETTER, UNMEASURED), min_seeds=8)
  assert family[0].corrected_p == pytest.approx(2 * alone.p)
  assert family[0].verdict == claims_lib.DOES_NOT_HOLD


def test_too_few_seeds_give_no_verdict():
  made = table(clap=CLAP[:7], tac=TAC[:7])
  (verdict,) = claims_lib.judge(made, (BETTER,), min_seeds=8)
  assert verdict.verdict == claims_lib.TOO_FEW_SEEDS
  assert verdict.corrected_p == 1.0
  assert math.isfinite(verdict.interval.low)  # shown all the same


def test_the_page_plots_each_claim_and_labels_the_rest():
  made = table(clap=CLAP, tac=TAC)
  verdicts = claims_lib.judge(made, (BETTER, UNMEASURED), min_seeds=8)
  text = page.render(
    page.Report(title="A study", table=made, verdicts=verdicts)
  )
  claims = text.partition('id="claims"')[2].partition("</section>")[0]
  assert claims.count('class="one"') == len(CLAP)
  assert "clap &gt; tac, localization, average mAP" in claims
  assert ">holds<" in claims
  assert "too few seeds" in claims
  assert "Exploratory" in text
