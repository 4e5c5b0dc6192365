"""Names and meanings of metrics and tasks on the page."""

import dataclasses
import math
import re

TASK_TITLES = {
  "retrieval": "Retrieval",
  "localization": "Temporal localization",
  "fewshot": "Few-shot localization",
  "grounding": "Language grounding",
}
TASK_QUESTIONS = {
  "retrieval": "Does a caption find its clip among all others?",
  "localization": "Which actions happen, and from when to when?",
  "fewshot": "The same, for classes known only from a few examples.",
  "grounding": "When does the event that a sentence describes happen?",
}
PRIMARY = {  # patterns of a task's headline metric, in order of preference
  "retrieval": (r"(t2v|text_to_video).*\br@?1$", r"\br(ecall)?@?1$"),
  "localization": (r"^average_map$", r"^map"),
  "fewshot": (
    r"^5way_1shot/(prototypes|text_assisted)/average_map$",
    r"average_map$",
    r"map@",
  ),
  "grounding": (r"^r@?1@0\.50?$", r"^r@?1@", r"^miou$"),
}
_TIOU = (
  "tIoU, temporal intersection over union, is the overlap of two segments"
  " divided by their union."
)
_DIRECTIONS = {
  "t2v": "text → video",
  "text_to_video": "text → video",
  "v2t": "video → text",
  "video_to_text": "video → text",
}


@dataclasses.dataclass(frozen=True)
class MetricName:
  """Name and meaning of a metric on a page."""

  text: str
  meaning: str
  higher_is_better: bool = True


def describe(metric: str) -> MetricName:
  """Returns the name and meaning of a metric key; unknown keys are kept."""
  direction, rest = _split_direction(metric)
  found = _describe_plain(rest)
  if not direction:
    return found
  return dataclasses.replace(found, text=f"{found.text} {direction}")


def _split_direction(metric: str) -> tuple[str, str]:
  for key, text in _DIRECTIONS.items():
    match = re.fullmatch(rf"{key}[/_.:-](.+)|(.+)[/_.:-]{key}", metric)
    if match:
      return text, match[1] or match[2]
  return "", metric


_NAMES: tuple[tuple[str, str, str], ...] = (
  # (pattern, name, meaning); {0}, {1} stand for the pattern's groups
  (
    r"average_map",
    "average mAP",
    "mAP averaged over the tIoU thresholds of the protocol. " + _TIOU,
  ),
  (
    r"(\d+)way_(\d+)shot/(\w+)/average_map",
    "{0}-way {1}-shot average mAP, {2}",
    "{1} example videos for each of {0} classes that no stage has seen; mAP"
    " averaged over the tIoU thresholds of the protocol, mean over runs. "
    + _TIOU,
  ),
  (
    r"map@([\d.]+)",
    "mAP@{0}",
    "Mean over classes of the average precision; a detection is correct if it"
    " overlaps a segment of its class with tIoU ≥ {0} that no detection of"
    " higher score has matched. " + _TIOU,
  ),
  (
    r"r@?(\d+)@([\d.]+)",
    "R@{0} IoU {1}",
    "Share of queries for which one of the first {0} moments overlaps the"
    " true one with tIoU ≥ {1}. " + _TIOU,
  ),
  (
    r"r(?:ecall)?[@_]?(\d+)",
    "R@{0}",
    "Recall: share of the queries whose true match is among the first {0} of"
    " the ranking.",
  ),
  (
    r"(?:m|mean_)iou",
    "mIoU",
    "Mean over queries of the tIoU of the first moment. " + _TIOU,
  ),
  (
    r"absent_auroc",
    "absent: AUROC",
    "How well the absence score separates queries of other videos from"
    " queries of the video itself; 0.5 is chance.",
  ),
  (
    r"absent_(f1|precision|recall)",
    "absent: {0}",
    "Quality of the decision “no such moment” at the threshold chosen on the"
    " selection split; half the queries are absent.",
  ),
)
_LOWER_IS_BETTER = (
  (
    r"absent_calibration_error",
    "absent: calibration error",
    "Mean difference between the predicted probability of absence and the"
    " share of absent queries, over ten bins.",
  ),
  (
    r"med(?:r|ian_rank)",
    "median rank",
    "The median position of the true match in the ranking; 1 is best.",
  ),
  (
    r"mean(?:r|_rank)",
    "mean rank",
    "The mean position of the true match in the ranking; 1 is best.",
  ),
  (r"(.*_)?loss", "{0}loss", "A loss; lower is better."),
)


def _describe_plain(metric: str) -> MetricName:
  for names, higher in ((_NAMES, True), (_LOWER_IS_BETTER, False)):
    for pattern, text, meaning in names:
      if match := re.fullmatch(pattern, metric):
        groups = [group or "" for group in match.groups()]
        return MetricName(text.format(*groups), meaning.format(*groups), higher)
  return MetricName(metric, "")


def primary(task: str, metrics: list[str]) -> str:
  """Returns the headline metric for a task among `metrics` (not empty)."""
  for pattern in PRIMARY.get(task, ()):
    for metric in metrics:
      if re.search(pattern, metric):
        return metric
  return metrics[0]


def format_value(value: float | None) -> str:
  """Formats three decimals up to 1, fewer above; "n/a" if not finite."""
  if value is None or not math.isfinite(value):
    return "n/a"
  if abs(value) <= 1:
    return f"{value:.3f}"
  return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def format_seconds(seconds: float | None) -> str:
  """Formats a wall time: "0.4 s", "42 s", "2 min 05 s", "1 h 03 min"."""
  if seconds is None or not math.isfinite(seconds):
    return "n/a"
  if seconds < 9.95:
    return f"{seconds:.1f} s"
  whole = round(seconds)
  if whole < 60:
    return f"{whole} s"
  if whole < 3600:
    return f"{whole // 60} min {whole % 60:02d} s"
  return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
