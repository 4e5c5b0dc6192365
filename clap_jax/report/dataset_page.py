"""Writes the page of a dataset: statistics and annotated videos."""

import os
import pathlib
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from clap_jax.report import content, page, palette, timeline
from clap_jax.storage import output

_THUMBNAIL_HEIGHTS = (64, 48, 32)
_TOP_CLASSES = 30


def write(
  path: str | os.PathLike,
  *,
  name: str,
  statistics: Mapping[str, Mapping],
  videos: Mapping[str, Sequence[content.VideoTimeline]],
) -> pathlib.Path:
  """Writes the page; both mappings are by split.

  Raises:
    ValueError: the page would be too large even with the smallest frames.
  """
  text = page.largest_allowed(
    lambda height: render(
      name=name, statistics=statistics, videos=videos, thumbnail_height=height
    ),
    _THUMBNAIL_HEIGHTS,
  )
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  output.write_text(path, text)
  return path


def render(
  *,
  name: str,
  statistics: Mapping[str, Mapping],
  videos: Mapping[str, Sequence[content.VideoTimeline]],
  thumbnail_height: int,
) -> str:
  """Renders the page; the same arguments give the same bytes."""
  labels = {
    segment.label
    for group in videos.values()
    for video in group
    for segment in video.ground_truth
  }
  hues = palette.label_hues(labels)
  return (
    page.environment()
    .get_template("dataset.html")
    .render(
      name=name,
      splits=[
        {
          "name": split,
          "counts": _counts(numbers),
          "classes": list(numbers["segments_per_class"].items())[:_TOP_CLASSES],
          "most": max(numbers["segments_per_class"].values(), default=1),
          "num_classes": numbers["classes"],
          "videos": [
            timeline.layout(v, hues=hues, thumbnail_height=thumbnail_height)
            for v in videos.get(split, ())
          ],
        }
        for split, numbers in statistics.items()
      ],
      style=Markup(page.style()),
    )
  )


def _counts(numbers: Mapping) -> list[tuple[str, str]]:
  share = numbers["action_share"]
  return [
    ("videos", f"{numbers['videos']:,}"),
    ("missing, corrupt, excluded", _lost(numbers)),
    ("length differs from annotation", str(numbers["duration_mismatches"])),
    ("footage", f"{numbers['hours']:.2f} h"),
    ("length of a video", _range(numbers["duration_sec"], "s")),
    ("frames per second", ", ".join(numbers["fps"])),
    ("segments", f"{numbers['segments']:,} of {numbers['classes']} classes"),
    ("length of a segment", _range(numbers["segment_sec"], "s")),
    ("segments per video", _range(numbers["segments_per_video"], "")),
    ("footage inside segments", "none" if share is None else f"{share:.1%}"),
    ("captions", f"{numbers['captions']:,}"),
    ("length of a caption", _range(numbers["caption_words"], "words")),
    (
      "spans clipped, rejected",
      f"{numbers['repaired_spans']:,}, {numbers['rejected_spans']:,}",
    ),
  ]


def _lost(numbers: Mapping) -> str:
  keys = ("missing", "corrupt", "excluded")
  return ", ".join(f"{numbers[key]:,}" for key in keys)


def _range(quantiles: Sequence[float] | None, unit: str) -> str:
  """Formats the median with the minimum and the maximum."""
  if quantiles is None:
    return "none"
  least, _, median, _, greatest = quantiles
  return f"{median:.1f} {unit} ({least:.1f} to {greatest:.1f})".replace(
    "  ", " "
  )
