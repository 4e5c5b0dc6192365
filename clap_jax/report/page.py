"""Writes the report as one self-contained HTML file."""

import base64
import dataclasses
import hashlib
import os
import pathlib
import re
from typing import Any

import jinja2
from markupsafe import Markup

from clap_jax.metrics.diagnosis import ERROR_KINDS
from clap_jax.report import (
  aggregate,
  content,
  curves,
  diagnosis_figures,
  files,
  metric_names,
  palette,
  tables,
  timeline,
)

MAX_BYTES = 8_000_000
_OPEN_TIMELINES = 4  # the others are folded away
_THUMBNAIL_HEIGHTS = (72, 48, 32, 20)  # the first that keeps the page small
_FOLDER = pathlib.Path(__file__).parent


def write_report(
  path: str | os.PathLike, report: content.Report
) -> pathlib.Path:
  """Writes the report to `path` and returns it.

  The file is replaced at once or not at all, and depends on the content only:
  the same content gives the same bytes.

  Raises:
    ValueError: the page would exceed 8 MB even with the smallest frames, or
      two result rows contradict each other.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_text(path, render(report))
  return path


def render(report: content.Report) -> str:
  """The page as text, with frames as large as its size limit allows.

  Raises:
    ValueError: as `write_report`.
  """
  size = 0
  for height in _THUMBNAIL_HEIGHTS:
    text = _render(report, thumbnail_height=height)
    size = len(text.encode("utf-8"))
    if size <= MAX_BYTES:
      return text
  raise ValueError(
    f"The report takes {size:,} bytes with {len(report.timelines)} timelines;"
    f" expected at most {MAX_BYTES:,}. Pass fewer timelines or curves."
  )


def environment(folder: pathlib.Path = _FOLDER) -> jinja2.Environment:
  """The templates of a folder; whatever is filled in is escaped."""
  made = jinja2.Environment(
    loader=jinja2.FileSystemLoader(folder),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  made.filters["seconds"] = metric_names.format_seconds
  made.filters["number"] = metric_names.format_value
  made.filters["keep_pairs"] = _keep_pairs
  made.globals["encoder_class"] = palette.encoder_class
  made.globals["dash_of"] = curves.dash_of
  return made


def style() -> str:
  """The style sheet of every page."""
  return (_FOLDER / "page.css").read_text(encoding="utf-8")


def _render(report: content.Report, *, thumbnail_height: int) -> str:
  script = (_FOLDER / "page.js").read_text(encoding="utf-8")
  return (
    environment()
    .get_template("page.html")
    .render(
      report=report,
      style=Markup(style()),
      script=Markup(script),
      script_hash=source_hash(script),
      diagnoses=[
        (item, diagnosis_figures.figures(item)) for item in report.diagnoses
      ],
      error_kinds=[
        (kind, diagnosis_figures.error_class(kind)) for kind in ERROR_KINDS
      ],
      charts=[(chart, curves.chart_svg(chart)) for chart in report.charts],
      **_results(report),
      **_timelines(report, thumbnail_height=thumbnail_height),
      **_stages(report),
    )
  )


def _keep_pairs(text: str) -> str:
  """No line break between a name and its number."""
  return re.sub(r" (?=[\d-])", "\N{NO-BREAK SPACE}", text)


def source_hash(source: str) -> str:
  """Returns the source of a policy that allows this inline text alone."""
  digest = hashlib.sha256(source.encode("utf-8")).digest()
  return "sha256-" + base64.b64encode(digest).decode("ascii")


def _results(report: content.Report) -> dict[str, Any]:
  all_tables = aggregate.tables(report.rows)
  views = [
    tables.view(table, identifier=f"table-{index + 1}")
    for index, table in enumerate(all_tables)
  ]
  names = {m: metric_names.describe(m) for t in all_tables for m in t.metrics}
  glossary = {name.text: name.meaning for name in names.values()}
  return {
    "tables": views,
    "headlines": [view.headline for view in views if view.headline.ordering],
    "encoders": {row.encoder for row in report.rows},
    "verdict": aggregate.verdict(all_tables),
    "glossary": {key: text for key, text in glossary.items() if text},
  }


def _timelines(
  report: content.Report, *, thumbnail_height: int
) -> dict[str, Any]:
  videos = [*report.timelines, *report.unseen]
  groups = [video.ground_truth for video in videos]
  groups += [track.segments for video in videos for track in video.tracks]
  labels = (segment.label for group in groups for segment in group)
  hues = palette.label_hues(labels)
  placed = [
    timeline.layout(video, hues=hues, thumbnail_height=thumbnail_height)
    for video in videos
  ]
  seen = placed[: len(report.timelines)]
  return {
    "timelines": seen[:_OPEN_TIMELINES],
    "folded_timelines": seen[_OPEN_TIMELINES:],
    "unseen": placed[len(report.timelines) :],
    "hit_tiou": timeline.HIT_TIOU,
    "max_actions": timeline.MAX_ACTIONS,
    "max_moments": timeline.MAX_MOMENTS,
  }


def _stages(report: content.Report) -> dict[str, Any]:
  known = [s.wall_sec for s in report.stages if s.wall_sec is not None]
  return {
    "stages": [dataclasses.asdict(stage) for stage in report.stages],
    "total_sec": sum(known),
    "longest_sec": max(known, default=0.0) or 1.0,
  }
