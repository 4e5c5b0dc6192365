"""Combines proposals with class scores of an external video classifier.

This is the published way to label class-agnostic proposals; it changes mAP on
ActivityNet by several points, so the card names it. Formats: {video: {"class",
"score"}} (only the best class), {"results": {video: [{"label", "score"}]}},
{"results": {video: [score, ...]}, "class": [name, ...]}, and an .npy matrix of
the test videos of THUMOS14 (row i is video_test_{i + 1}) and the 101 classes of
UCF101.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from clap_jax.annotations.problems import ProblemLog
from clap_jax.metrics import documents
from clap_jax.metrics.prediction_files import THUMOS_CLASSES
from clap_jax.metrics.tables import DetectionTable
from clap_jax.storage import arrays, locations

COMBINATIONS = ("product", "geometric_mean")
_NUM_UCF_CLASSES = 101


@dataclasses.dataclass(frozen=True, eq=False)
class VideoScores:
  """Class scores (v, c) of videos; 0 if the file has none."""

  videos: dict[str, int]  # name without "v_" -> row
  label_names: tuple[str, ...]
  scores: np.ndarray  # float64 (v, c), at least 0

  def row_of(self, video: str) -> int | None:
    return self.videos.get(video.removeprefix("v_"))


def read_video_scores(path: pathlib.Path | str) -> VideoScores:
  """Reads any of the formats above.

  Raises:
    MalformedFileError: the file has problems.
    OSError: the file cannot be opened.
  """
  place = locations.at(path)
  log = ProblemLog(place)
  if place.suffix == ".npy":
    return _thumos_matrix(place, log)
  content = documents.read_json(place, log)
  videos = content.get("results", content) if isinstance(content, dict) else {}
  if not isinstance(videos, dict) or not videos:
    log.fail("", f"got {documents.kind(content)}; expected scores by video")
  names = content.get("class")
  names = names if isinstance(names, list) else []
  rows: list[dict[str, float]] = []
  for video, value in videos.items():
    pairs = _pairs(value, names)
    for label, score in pairs or [(None, None)]:
      if type(label) is not str or not documents.is_number(score) or score < 0:
        log.add(
          f"[{video!r}]",
          f"got {documents.kind(value)}; expected classes with scores >= 0",
        )
        break
    rows.append(dict(pairs or ()))
  log.raise_if_any()
  known = tuple(dict.fromkeys(label for row in rows for label in row))
  column = {label: code for code, label in enumerate(known)}
  scores = np.zeros((len(rows), len(known)))
  for number, row in enumerate(rows):
    for label, score in row.items():
      scores[number, column[label]] = score
  stems = {name.removeprefix("v_"): n for n, name in enumerate(videos)}
  return VideoScores(stems, known, scores)


def _pairs(value: Any, names: list[str]) -> list[tuple[Any, Any]] | None:
  """Returns (class, score) pairs of one video, or None if invalid."""
  if isinstance(value, dict) and {"class", "score"} <= set(value):
    return [(value["class"], value["score"])]
  if not isinstance(value, list) or not value:
    return None
  if all(isinstance(entry, dict) for entry in value):
    return [(entry.get("label"), entry.get("score")) for entry in value]
  if len(value) == len(names):
    return list(zip(names, value, strict=True))
  return None


def _thumos_matrix(path: locations.Location, log: ProblemLog) -> VideoScores:
  try:
    matrix = arrays.read_npy(path)
  except ValueError as error:
    log.fail("", f"not an .npy of numbers: {error}")
  if (
    matrix.ndim != 2
    or matrix.shape[1] != _NUM_UCF_CLASSES
    or matrix.dtype.kind not in "fiu"
    or not np.isfinite(matrix).all()
    or (matrix < 0).any()
  ):
    log.add(
      "",
      f"got {matrix.dtype} {matrix.shape}; expected finite scores >= 0 of "
      f"shape (videos, {_NUM_UCF_CLASSES})",
    )
  log.raise_if_any()
  return VideoScores(
    {f"video_test_{row + 1:07d}": row for row in range(len(matrix))},
    tuple(THUMOS_CLASSES.values()),
    matrix[:, [number - 1 for number in THUMOS_CLASSES]].astype(np.float64),
  )


def classify(
  proposals: DetectionTable,
  scores: VideoScores,
  *,
  top_classes: int,
  combination: str,
) -> DetectionTable:
  """Labels proposals with the best classes of their videos.

  Ignores labels of the proposals. Of proposals with equal ends in one video,
  the one of highest score counts.

  Args:
    top_classes: maximum number of labels per proposal; classes of score 0 are
      left out.
    combination: "product" of the two scores, or their "geometric_mean".

  Raises:
    ValueError: a video with proposals has no class scores, or an option is
      invalid.
  """
  if combination not in COMBINATIONS or top_classes < 1:
    raise ValueError(
      f"got combination {combination!r}, top_classes {top_classes}; expected "
      f"one of {', '.join(COMBINATIONS)} and at least 1"
    )
  used = np.unique(proposals.video)
  rows = {code: scores.row_of(proposals.video_names[code]) for code in used}
  missing = [proposals.video_names[c] for c, row in rows.items() if row is None]
  if missing:
    raise ValueError(
      f"the classifier has no scores for {len(missing)} videos with proposals: "
      f"{', '.join(missing[:10])}; use a classifier that covers the split"
    )
  proposals = _distinct(proposals)
  row = np.array([rows[code] for code in proposals.video], np.int64)
  best = np.argsort(-scores.scores, axis=1, kind="stable")[:, :top_classes]
  label = best[row]  # (n, k)
  share = np.take_along_axis(scores.scores[row], label, axis=1)
  joint = proposals.score[:, None] * share
  if combination == "geometric_mean":
    joint = np.sqrt(np.maximum(joint, 0.0))
  count = label.shape[1]
  keep = share.reshape(-1) > 0
  return DetectionTable(
    video_names=proposals.video_names,
    label_names=scores.label_names,
    video=np.repeat(proposals.video, count)[keep],
    label=label.reshape(-1)[keep],
    start_sec=np.repeat(proposals.start_sec, count)[keep],
    end_sec=np.repeat(proposals.end_sec, count)[keep],
    score=joint.reshape(-1)[keep],
  )


def _distinct(table: DetectionTable) -> DetectionTable:
  """Returns the best row of every video and segment, in file order."""
  order = np.lexsort(
    (-table.score, table.end_sec, table.start_sec, table.video)
  )
  keys = np.stack([table.video, table.start_sec, table.end_sec])[:, order]
  is_first = np.ones(len(order), bool)
  is_first[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
  return table.take(np.sort(order[is_first]))


def describe(
  path: pathlib.Path | str, *, top_classes: int, combination: str
) -> str:
  """Describes the class source for an evaluation card."""
  return (
    f"external classifier {locations.at(path).name}, top {top_classes} classes "
    f"per video, {combination.replace('_', ' ')} of the scores"
  )
