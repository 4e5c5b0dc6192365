import numpy as np
import pytest

from clap_jax.metrics import calibration


def drawn(slope, offset, count=20_000, seed=0):
  """Logits whose truth follows a known sigmoid."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 2, count)
  probability = 1 / (1 + np.exp(-(slope * logits + offset)))
  return logits, rng.random(count) < probability


def test_a_known_sigmoid_is_found_again():
  logits, is_absent = drawn(0.7, -0.4)
  fitted = calibration.fit_absence(logits, is_absent=is_absent)
  assert fitted.slope == pytest.approx(0.7, abs=0.03)
  assert fitted.offset == pytest.approx(-0.4, abs=0.05)
  error = calibration.calibration_error(
    fitted.probability(logits), happened=is_absent
  )
  assert error < 0.02
  overconfident = 1 / (1 + np.exp(-5 * logits))
  assert calibration.calibration_error(overconfident, happened=is_absent) > 0.1


def test_the_threshold_has_the_best_f1():
  logits, is_absent = drawn(1.0, 0.0, count=300)
  fitted = calibration.fit_absence(logits, is_absent=is_absent)

  def f1(called):
    return 2 * (called & is_absent).sum() / (called.sum() + is_absent.sum())

  best = max(f1(logits >= value) for value in logits)
  assert f1(fitted.is_absent(logits)) == pytest.approx(best)


def test_kinds_that_are_wholly_apart_stay_finite():
  logits = np.array([-3.0, -2.0, 2.0, 3.0])
  is_absent = logits > 0
  fitted = calibration.fit_absence(logits, is_absent=is_absent)
  assert np.isfinite([fitted.slope, fitted.offset]).all()
  np.testing.assert_array_equal(fitted.is_absent(logits), is_absent)
  assert 0 < fitted.probability(-3.0) < 0.3
  assert 0.7 < fitted.probability(3.0) < 1
  assert fitted.probability(1e6) <= 1.0


def test_an_uninformative_score_stays_undecided():
  logits = np.zeros(10)
  fitted = calibration.fit_absence(logits, is_absent=np.arange(10) < 5)
  np.testing.assert_allclose(fitted.probability(logits), 0.5)


@pytest.mark.parametrize(
  ("logits", "is_absent"),
  [([1.0, 2.0], [True, True]), ([1.0, np.nan], [True, False])],
)
def test_what_cannot_be_calibrated(logits, is_absent):
  with pytest.raises(ValueError, match="calibration needs"):
    calibration.fit_absence(np.array(logits), is_absent=np.array(is_absent))
