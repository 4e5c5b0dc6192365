"""Writes the report as one self-contained HTML file."""

import base64
import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from clap_jax.metrics import intervals
from clap_jax.metrics.diagnosis import ERROR_KINDS
from clap_jax.report import (
  claims,
  content,
  curves,
  diagnosis_figures,
  evaluation_cards,
  metric_names,
  palette,
  result_table,
  strips,
  timeline,
)
from clap_jax.storage import output

MAX_BYTES = 8_000_000
_OPEN_TIMELINES = 4  # the others are folded
# In pixels; the first that keeps the page below MAX_BYTES is used.
_THUMBNAIL_HEIGHTS = (72, 48, 32, 20)
_FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Report:
  """Content of the page; a section without content is left out."""

  title: str
  subtitle: str = ""
  key_figures: Sequence[tuple[str, str]] = ()  # ("Training videos", "320"), ...
  notes: Sequence[str] = ()  # caveats
  method: bool = False  # explains the method
  verdicts: Sequence[claims.Verdict] = ()
  table: result_table.ResultTable | None = None
  # Rows of results.json, whose evaluation cards are shown.
  rows: Sequence[Mapping[str, Any]] = ()
  figures: Sequence[content.Figure] = ()
  charts: Sequence[content.Chart] = ()
  diagnoses: Sequence[content.Diagnosed] = ()
  timelines: Sequence[content.VideoTimeline] = ()
  unseen: Sequence[content.VideoTimeline] = ()  # videos that no stage read
  listings: Sequence[content.Listing] = ()
  failed: Sequence[tuple[str, str]] = ()  # (name, reason)
  commands: Sequence[content.Command] = ()


def write_report(path: str | os.PathLike, report: Report) -> pathlib.Path:
  """Writes the report to `path`, whole or not at all; returns the path.

  The same content gives the same bytes.

  Raises:
    ValueError: the page would exceed 8 MB even with the smallest frames.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  output.write_text(path, render(report))
  return path


def render(report: Report) -> str:
  """Renders the page with frames as large as its size limit allows.

  Raises:
    ValueError: the page would exceed 8 MB even with the smallest frames.
  """
  return largest_allowed(
    lambda height: _render(report, thumbnail_height=height),
    _THUMBNAIL_HEIGHTS,
  )


def environment(folder: pathlib.Path = _FOLDER) -> jinja2.Environment:
  """Returns the environment of a folder's templates; it escapes values."""
  made = jinja2.Environment(
    loader=jinja2.FileSystemLoader(folder),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  made.filters["interval"] = _interval
  made.globals["encoder_class"] = palette.encoder_class
  made.globals["dash_of"] = curves.dash_of
  made.globals["describe"] = metric_names.describe
  made.globals["task_titles"] = metric_names.TASK_TITLES
  made.globals["task_questions"] = metric_names.TASK_QUESTIONS
  return made


def style() -> str:
  """Reads the style sheet of all pages."""
  return (_FOLDER / "page.css").read_text(encoding="utf-8")


def largest_allowed(
  render_at: Callable[[int], str], thumbnail_heights: Sequence[int]
) -> str:
  """Renders the page with the largest thumbnails that fit its size limit.

  Raises:
    ValueError: the page would be too large even with the smallest frames.
  """
  size = 0
  for height in thumbnail_heights:
    text = render_at(height)
    size = len(text.encode("utf-8"))
    if size <= MAX_BYTES:
      return text
  raise ValueError(
    f"The page takes {size:,} bytes, expected at most {MAX_BYTES:,}. Show "
    "fewer videos or curves."
  )


def _render(report: Report, *, thumbnail_height: int) -> str:
  script = (_FOLDER / "page.js").read_text(encoding="utf-8")
  table = report.table or result_table.ResultTable.of(
    [], titles={}, reference=""
  )
  metrics = {m: metric_names.describe(m) for _, _, m in table.places}
  charts = [*report.charts, *_threshold_charts(table)]
  return (
    environment()
    .get_template("page.html")
    .render(
      report=report,
      table=table,
      style=Markup(style()),
      script=Markup(script),
      script_hash=source_hash(script),
      claims=_claims(report.verdicts),
      plots=strips.of_table(table),
      cards=evaluation_cards.by_place(report.rows),
      diagnoses=[
        (item, diagnosis_figures.figures(item)) for item in report.diagnoses
      ],
      error_kinds=[
        (kind, diagnosis_figures.error_class(kind)) for kind in ERROR_KINDS
      ],
      charts=[(chart, curves.chart_svg(chart)) for chart in charts],
      glossary={m.text: m.meaning for m in metrics.values() if m.meaning},
      **_timelines(report, thumbnail_height=thumbnail_height),
    )
  )


def source_hash(source: str) -> str:
  """Returns the policy source that allows this inline text only."""
  digest = hashlib.sha256(source.encode("utf-8")).digest()
  return "sha256-" + base64.b64encode(digest).decode("ascii")


def _interval(interval: intervals.Interval) -> str:
  """Formats a mean and half of its interval, as far as they are finite."""
  if not math.isfinite(interval.mean):
    return "–"
  text = metric_names.format_value(interval.mean)
  if math.isfinite(interval.low):
    text += f" ± {metric_names.format_value(interval.high - interval.mean)}"
  return text


def _claims(verdicts: Sequence[claims.Verdict]) -> dict[str, dict]:
  """Returns dataset -> its verdicts and their plot."""
  found = {}
  for dataset in dict.fromkeys(verdict.dataset for verdict in verdicts):
    own = [verdict for verdict in verdicts if verdict.dataset == dataset]
    found[dataset] = {"verdicts": own, "plot": strips.of_claims(own)}
  return found


def _threshold_charts(
  table: result_table.ResultTable,
) -> list[content.Chart]:
  """Charts mAP over the tIoU thresholds, one curve per row."""
  charts = []
  for dataset in table.datasets:
    metrics = [
      metric
      for place_dataset, task, metric in table.places
      if (place_dataset, task) == (dataset, "localization")
      and metric.startswith("map@")
    ]
    lines = []
    for row in table.rows:
      cells = {
        float(metric.partition("@")[2]): table.cell(
          dataset, "localization", metric, row=row
        ).estimate.mean
        for metric in metrics
      }
      xs = sorted(cells)
      if any(math.isfinite(cells[x]) for x in xs):
        lines.append(content.Curve(row, xs, [cells[x] for x in xs]))
    if lines:
      charts.append(
        content.Chart(
          title=f"Localization by threshold, {dataset}",
          curves=lines,
          y_label="mAP, mean over seeds",
          x_label="tIoU",
          smooth=False,
        )
      )
  return charts


def _timelines(report: Report, *, thumbnail_height: int) -> dict[str, Any]:
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
