"""Error kinds on a scene where each occurs once; what removing them adds."""

import dataclasses

import numpy as np
import pytest

from clap_jax.metrics import detection, diagnosis, protocols
from clap_jax.metrics.tables import DetectionTable, SegmentTable

PROTOCOL = dataclasses.replace(
  protocols.PROTOCOLS["activitynet"], thresholds=(0.5,)
)
TRUTH = SegmentTable.from_columns(
  video=["v", "v", "v"],
  label=["a", "b", "a"],
  start_sec=[0, 20, 100],
  end_sec=[10, 30, 170],
)
# One of each kind, best first, then a class that does not exist.
PREDICTIONS = DetectionTable.from_columns(
  video=["v", "v", "v", "v", "v", "w", "v"],
  label=["a", "a", "a", "a", "a", "a", "z"],
  start_sec=[0, 1, 20, 7, 27, 0, 0],
  end_sec=[10, 10, 30, 17, 39, 10, 10],
  score=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 1.0],
)


def test_each_kind_is_named():
  predictions, truth, _ = detection.prepare(PREDICTIONS, TRUTH, PROTOCOL)
  ranked = detection.ranked(predictions, truth, PROTOCOL)
  hits, taken_by = diagnosis._matches(ranked, truth, PROTOCOL)
  kind = diagnosis.error_kinds(ranked, truth, hits, thresholds=(0.5,))
  assert kind[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
  assert taken_by[:, 0].tolist() == [0, -1, -1]


def test_shares_gains_and_missed():
  result = diagnosis.diagnose(
    PREDICTIONS, TRUTH, PROTOCOL, duration_sec={"v": 200}
  )
  assert result.shares == {
    name: pytest.approx(1 / 6) for name in diagnosis.ERROR_KINDS
  }
  assert result.missed == pytest.approx(2 / 3)
  # Class a: one of two found at rank 1; class b: nothing.
  assert result.average_map == pytest.approx(0.25)
  assert set(result.map_gain.values()) == {0.0}
  # G = 2 for class a: two predictions a round.
  assert result.profile[0]["double detection"] == 0.5
  assert result.profile[2]["background"] == 0.5
  length = result.sensitivity["length"]
  assert length["XS"]["share"] == pytest.approx(2 / 3)
  assert length["XS"]["recall"] == pytest.approx(0.5)
  # Short ones: a is found at rank 1, b is not.
  assert length["XS"]["average_map"] == pytest.approx(0.5)
  assert length["M"]["recall"] == 0
  assert result.sensitivity["coverage"]["S"]["share"] == pytest.approx(1 / 3)
  assert set(result.sensitivity["num_instances"]) == {"XS", "S"}


def test_removing_an_error_that_stands_first_raises_map():
  worse = dataclasses.replace(
    PREDICTIONS, score=np.array([0.5, 0.4, 0.9, 0.3, 0.2, 0.1, 1.0])
  )
  result = diagnosis.diagnose(worse, TRUTH, PROTOCOL)
  assert result.map_gain["wrong label"] == pytest.approx(0.125)
  assert result.map_gain["background"] == 0.0


def test_average_map_is_that_of_the_protocol():
  rng = np.random.default_rng(0)
  ends = np.sort(rng.uniform(0, 60, (80, 2)), axis=1)
  table = DetectionTable.from_columns(
    video=[f"v{i}" for i in rng.integers(0, 3, 80)],
    label=[f"c{i}" for i in rng.integers(0, 3, 80)],
    start_sec=ends[:, 0],
    end_sec=ends[:, 1],
    score=rng.random(80),
  )
  truth = table.take(np.arange(0, 80, 8))
  protocol = protocols.PROTOCOLS["activitynet_opentad"]
  result = diagnosis.diagnose(table, truth, protocol, limit_factor=1000)
  expected = detection.evaluate(table, truth, protocol)["average_map"]
  assert result.average_map == pytest.approx(expected, abs=1e-12)
  assert sum(result.shares.values()) == pytest.approx(1)
  for bins in result.sensitivity.values():
    assert sum(b["share"] for b in bins.values()) == pytest.approx(1)


def test_bins_are_published_or_fifths():
  protocol = protocols.PROTOCOLS["motion_sprites"]
  truth = SegmentTable.from_columns(
    video=["v"] * 20,
    label=["a"] * 20,
    start_sec=np.zeros(20),
    end_sec=np.arange(1, 21) / 2,
  )
  bins = diagnosis.bins_of(protocol, truth, duration_sec={"v": 20.0})
  assert bins["length"] == (2.4, 4.3, 6.2, 8.1)
  assert bins["coverage"] == (0.12, 0.22, 0.31, 0.41)
  assert "num_instances" not in bins  # all alike: nothing to compare
  for name in ("activitynet", "activitynet_opentad", "thumos14"):
    known = diagnosis.bins_of(protocols.PROTOCOLS[name], truth)
    assert known == diagnosis.BINS[name.partition("_")[0]]
