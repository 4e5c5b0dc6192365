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
  "fewshot": "The same for classes known from a few examples only.",
  "grounding": "At which moment does what a sentence says happen?",
}
PRIMARY = {  # patterns of the headline metric of a task, best choice first
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
  " divided by the time that either covers."
)
_DIRECTIONS = {
  "t2v": "text → video",
  "text_to_video": "text → video",
  "v2t": "video → text",
  "video_to_text": "video → text",
}


@dataclasses.dataclass(frozen=True)
class MetricName:
  """A metric for the reader."""

  text: str
  meaning: str
  higher_is_better: bool = True


def describe(metric: str) -> MetricName:
  """The name and meaning of a metric key; an unknown key stands for itself."""
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
    "Mean over classes of the average precision; a detection counts when"
    " class and tIoU ≥ {0} agree with a ground-truth segment that no better"
    " detection has taken. " + _TIOU,
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
    "How well the absence score tells queries of other videos from those of"
    " the video itself; 0.5 is chance.",
  ),
  (
    r"absent_(f1|precision|recall)",
    "absent: {0}",
    "Of the decision “no such moment” at the threshold that was chosen on the"
    " selection split; half the queries are absent.",
  ),
)
_LOWER_IS_BETTER = (
  (
    r"absent_calibration_error",
    "absent: calibration error",
    "Mean difference between the stated probability of absence and how often"
    " it came true, over ten bins.",
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
  """The headline metric among `metrics` (not empty) for a task."""
  for pattern in PRIMARY.get(task, ()):
    for metric in metrics:
      if re.search(pattern, metric):
        return metric
  return metrics[0]


def format_value(value: float | None) -> str:
  """Three decimals below 1, fewer above, "n/a" for what is not finite."""
  if value is None or not math.isfinite(value):
    return "n/a"
  if abs(value) <= 1:
    return f"{value:.3f}"
  return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def format_seconds(seconds: float | None) -> str:
  """A wall time for people: "0.4 s", "42 s", "2 min 05 s", "1 h 03 min"."""
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
