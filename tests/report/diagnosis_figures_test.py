"""Figures of a diagnosis: bars as long as their numbers, on the page."""

import re

import numpy as np
import pytest

from clap_jax.metrics import diagnosis, protocols
from clap_jax.metrics.tables import DetectionTable, SegmentTable
from clap_jax.report import diagnosis_figures, page, run_files

TRUTH = SegmentTable.from_columns(
  video=["v"] * 6,
  label=["a", "b", "a", "b", "a", "a"],
  start_sec=[0, 20, 40, 60, 80, 90],
  end_sec=[2, 26, 44, 70, 81, 99],
)
PREDICTIONS = DetectionTable.from_columns(
  video=["v"] * 5,
  label=["a", "a", "b", "a", "b"],
  start_sec=[0.0, 0.1, 40.0, 41.0, 5.0],
  end_sec=[2.0, 2.0, 44.0, 47.0, 9.0],
  score=[0.9, 0.8, 0.7, 0.6, 0.5],
)


@pytest.fixture(scope="module")
def diagnosed():
  return run_files.diagnosed(
    PREDICTIONS,
    TRUTH,
    protocol=protocols.PROTOCOLS["motion_sprites"],
    duration_sec={"v": 100.0},
    name="<clap>",
    where="toy & sprites",
  )


def heights(svg, css):
  found = re.findall(rf'<rect class="{css}"[^>]*height="([\d.]+)"', str(svg))
  return np.array([float(value) for value in found])


def test_bars_are_as_long_as_their_numbers(diagnosed):
  found = diagnosed.diagnosis
  svg = diagnosis_figures.profile_svg(found)
  whole = 240 - 10 - 34
  for code, kind in enumerate(diagnosis.ERROR_KINDS):
    expected = [shares[kind] * whole for shares in found.profile]
    np.testing.assert_allclose(heights(svg, f"err-{code}"), expected, atol=0.06)
  bins = found.sensitivity["length"]
  svg = diagnosis_figures.sensitivity_svg(bins)
  for place, key in enumerate(("recall", "average_map")):
    expected = [values[key] * whole for values in bins.values()]
    np.testing.assert_allclose(
      heights(svg, f"sens-{place}"), expected, atol=0.06
    )
  gain = heights(diagnosis_figures.gain_svg(found), r"err-\d")
  values = np.array(list(found.map_gain.values())).clip(0)
  np.testing.assert_allclose(
    gain / gain.max(), values / values.max(), atol=0.01
  )


def test_the_page_shows_every_figure(diagnosed):
  assert "up to" in diagnosed.bin_notes["length"]
  report = page.Report(title="t", diagnoses=[diagnosed])
  text = page.render(report)
  assert "&lt;clap&gt;" in text
  assert "toy &amp; sprites" in text
  for name in ("length", "coverage", "num_instances"):
    assert diagnosis_figures.CHARACTERISTICS[name] in text
  assert text.count('<svg class="chart"') == 5
  assert 'id="method"' not in text
  assert "diagnosis" not in page.render(page.Report(title="t"))
