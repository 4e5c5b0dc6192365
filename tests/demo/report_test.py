"""The headline of a demo's report."""

from clap_jax.demo import report


def row(encoder, task, metric, value):
  return {"encoder": encoder, "task": task, "metric": metric, "value": value}


def test_the_headline_states_what_came_out():
  rows = [
    row("tac", "localization", "average_map", 0.425),
    row("clap", "localization", "average_map", 0.4),
    row("clap", "localization", "average_map", 0.412),
    row("clap", "localization", "map@0.50", 0.9),
    row("tac", "grounding", "r1@0.5", 0.234),
    row("clap", "grounding", "r1@0.5", 0.532),
  ]
  assert report.outcome(rows) == (
    "tac first in localization (tac 0.425, clap 0.406); "
    "clap first in grounding (clap 0.532, tac 0.234)"
  )
  assert report.outcome(rows[:1]) == "tac first in localization (tac 0.425)"
