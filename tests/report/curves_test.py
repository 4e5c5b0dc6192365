"""Curves show what was written."""

import math
import re
from xml.etree import ElementTree

import numpy as np

from clap_jax.report import content, curves


def paths(chart):
  root = ElementTree.fromstring(curves.chart_svg(chart))
  return [node.get("d") for node in root.iter("path")]


def chart(values, **options):
  curve = content.Curve("clap", range(len(values)), values)
  return content.Chart("Loss", [curve], **options)


def test_not_a_number_breaks_the_line():
  line, dots = paths(chart([3.0, 2.0, math.nan, 1.0, 0.5]))
  assert line.count("M") == 2
  assert dots.count("M") == 4
  assert "nan" not in line + dots


def test_few_points_are_marked_and_many_are_not():
  line, dots = paths(chart([0.0, 1.0, 0.5]))
  assert re.findall(r"[ML]([\d. ]+)", line) == re.findall(r"M([\d. ]+)h", dots)
  assert len(paths(chart(np.arange(13.0)))) == 1


def test_nothing_finite_draws_nothing():
  assert curves.chart_svg(chart([math.nan])) == ""
  assert curves.chart_svg(content.Chart("Loss")) == ""


def test_a_constant_and_a_single_value_can_be_drawn():
  for values in ([2.0, 2.0], [2.0], [0.0]):
    for path in paths(chart(values)):
      assert re.fullmatch(r"[MLh0-9. ]+", path)


def test_smoothing_keeps_the_raw_line_and_a_straight_one_straight():
  raw, mean = paths(chart(np.full(200, 1.5)))
  assert raw == mean


def test_points_lie_inside_the_frame_and_their_number_is_bounded():
  values = np.random.default_rng(0).normal(size=20_000)
  for path in paths(chart(values)):
    points = np.array(re.findall(r"[ML]([\d.]+) ([\d.]+)", path), float)
    assert len(points) <= 302
    assert points.min() >= 0
    assert points[:, 0].max() <= 420 and points[:, 1].max() <= 262


def test_ticks_are_round_and_inside():
  for low, high in ((0.0, 23.6), (0.013, 0.017), (-3.0, 500.0)):
    ticks = curves.linear_ticks(low, high, about=6)
    assert 3 <= len(ticks) <= 8
    span = high - low
    assert low - 1e-9 * span <= ticks[0] and ticks[-1] <= high + 1e-9 * span


def test_runs_of_one_encoder_differ_by_dash():
  runs = [content.Curve(f"clap seed {i}", (0,), (1.0,)) for i in range(3)]
  dashes = [curves.dash_of(runs, i) for i in range(3)]
  assert len(set(dashes)) == 3
