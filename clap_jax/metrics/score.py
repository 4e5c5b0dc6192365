"""Scores a prediction file under named protocols, with evaluation cards."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from clap_jax.annotations.problems import MalformedFileError, ProblemLog
from clap_jax.metrics import (
  detection,
  documents,
  ground_truth_files,
  grounding,
  highlight_files,
  highlights,
  name_matching,
  prediction_files,
  query_files,
  video_classifier,
)
from clap_jax.metrics.card import EvaluationCard, split_hash
from clap_jax.metrics.protocols import PROTOCOLS, Protocol
from clap_jax.metrics.tables import DetectionTable, SegmentTable
from clap_jax.storage import locations

_MAX_LISTED = 20
_QVHIGHLIGHTS = "qvhighlights"
# Grounding protocols; a name that detection has too gets a suffix.
_GROUNDING = {
  (f"{name}_grounding" if name in PROTOCOLS else name): protocol
  for name, protocol in grounding.PROTOCOLS.items()
}


@dataclasses.dataclass(frozen=True)
class Classifier:
  """An external video classifier; see metrics/video_classifier.py."""

  path: str
  top_classes: int
  combination: str


@dataclasses.dataclass(frozen=True)
class _Request:
  """The inputs and options of a scoring request."""

  predictions: locations.Location
  ground_truth: locations.Location
  subset: str | None
  detection_subset: str | None
  blocked_videos: locations.Location | None
  class_source: str
  classifier: Classifier | None = None

  @property
  def needs_label(self) -> bool:
    """Returns True if the labels of the file are used."""
    return self.classifier is None


def protocol_names() -> tuple[str, ...]:
  """Returns every protocol name that `score` accepts."""
  return (*PROTOCOLS, *_GROUNDING, _QVHIGHLIGHTS)


def score(
  predictions_path: pathlib.Path | str,
  *,
  ground_truth_path: pathlib.Path | str,
  protocols: Sequence[str],
  subset: str | None = None,
  blocked_videos_path: pathlib.Path | str | None = None,
  class_source: str = "not stated",
  classifier: Classifier | None = None,
) -> list[dict[str, Any]]:
  """Scores one file under each protocol.

  Args:
    predictions_path: predictions; prediction_files and query_files list the
      formats.
    ground_truth_path: annotations; see ground_truth_files and query_files.
    protocols: names from `protocol_names()`.
    subset: scored split; None: the *first* protocol's, for all protocols, so
      that their numbers compare. A file without subsets is scored whole.
    blocked_videos_path: JSON list of videos to leave out (detection).
    class_source: origin of the labels, for the card.
    classifier: external classifier that labels the proposals (detection); None
      keeps the labels of the file.

  Returns:
    {"card": {...}, "metrics": {...}} per protocol, as JSON types. Metrics are
    fractions, except for qvhighlights, whose evaluator prints percentages.

  Raises:
    MalformedFileError: a file has problems.
    ValueError: a protocol is unknown.
    OSError: a file cannot be opened.
  """
  protocols = [name.strip().lower().replace("-", "_") for name in protocols]
  unknown = [name for name in protocols if name not in protocol_names()]
  if unknown or not protocols:
    raise ValueError(
      f"unknown protocol: got {', '.join(unknown) or 'none'}; choose from "
      f"{', '.join(protocol_names())}"
    )
  request = _Request(
    predictions=locations.at(predictions_path),
    ground_truth=locations.at(ground_truth_path),
    subset=subset,
    detection_subset=subset or own_subset(protocols),
    blocked_videos=locations.at(blocked_videos_path)
    if blocked_videos_path
    else None,
    class_source=class_source,
    classifier=classifier,
  )
  return [_score_one(name, request) for name in protocols]


def _score_one(name: str, request: _Request) -> dict[str, Any]:
  if name == _QVHIGHLIGHTS:
    card, metrics = _score_highlights(request)
  elif name in _GROUNDING:
    protocol = dataclasses.replace(_GROUNDING[name], name=name)
    card, metrics = _score_grounding(protocol, request)
  else:
    card, metrics = _score_detection(PROTOCOLS[name], request)
  return {"card": card.to_dict(), "metrics": metrics}


def own_subset(protocols: Sequence[str]) -> str | None:
  """Returns the split of the first detection protocol, for all protocols."""
  own = [PROTOCOLS[name].subset for name in protocols if name in PROTOCOLS]
  return own[0] if own else None


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionInputs:
  """Checked inputs of a detection protocol."""

  protocol: Protocol
  predictions: DetectionTable
  truth: SegmentTable
  split: str
  notes: tuple[str, ...]


def detection_inputs(
  predictions_path: pathlib.Path | str,
  *,
  ground_truth_path: pathlib.Path | str,
  protocol: str,
  subset: str | None = None,
  blocked_videos_path: pathlib.Path | str | None = None,
  classifier: Classifier | None = None,
) -> DetectionInputs:
  """Reads the inputs that `score` reads, for further analysis.

  Raises:
    MalformedFileError, ValueError, OSError: see `score`.
  """
  rules = PROTOCOLS[protocol]
  return _read_detection(
    rules,
    _Request(
      predictions=locations.at(predictions_path),
      ground_truth=locations.at(ground_truth_path),
      subset=subset,
      detection_subset=subset or rules.subset,
      blocked_videos=locations.at(blocked_videos_path)
      if blocked_videos_path
      else None,
      class_source="not stated",
      classifier=classifier,
    ),
  )


def _score_detection(
  protocol: Protocol, request: _Request
) -> tuple[EvaluationCard, dict[str, float]]:
  inputs = _read_detection(protocol, request)
  card = _detection_card(
    protocol,
    request,
    split=inputs.split,
    truth=inputs.truth,
    predictions=inputs.predictions,
    notes=inputs.notes,
  )
  metrics = detection.evaluate(inputs.predictions, inputs.truth, protocol)
  return card, metrics


def _read_detection(protocol: Protocol, request: _Request) -> DetectionInputs:
  truth = ground_truth_files.read_ground_truth(
    request.ground_truth,
    subset=request.detection_subset,
    label_field=protocol.label_field,
    needs_label=protocol.task != "proposals",
  )
  predictions = prediction_files.read_detections(
    request.predictions,
    label_field=protocol.label_field,
    needs_label=request.needs_label and protocol.task != "proposals",
    label_names={
      number: name
      for number, name in truth.label_names.items()
      if number not in truth.table.label_names
    },
  )
  table, notes = truth.table, []
  if request.blocked_videos is not None:
    blocked = _read_blocked(request.blocked_videos)
    table = table.without_videos(blocked)
    predictions = predictions.without_videos(blocked)
    notes.append(f"{len(blocked)} blocked videos left out")
  predictions, renamed = name_matching.with_known_names(
    predictions, table.video_names
  )
  notes.extend(renamed)
  if len(predictions) and not set(predictions.video_names) & set(
    table.video_names
  ):
    raise MalformedFileError(
      request.predictions,
      [
        f"no video in common with {request.ground_truth} (subset "
        f"{truth.split!r}): got {list(predictions.video_names[:3])}, expected "
        f"names like {list(table.video_names[:3])}; choose another subset with "
        "--subset"
      ],
    )
  if request.classifier is not None and protocol.task == "detection":
    predictions = _classify(predictions, request.classifier, table.video_names)
  if not len(table):
    raise MalformedFileError(
      request.ground_truth, [f"no annotation in the subset {truth.split!r}"]
    )
  if (
    protocol.task == "detection"
    and len(predictions)
    and not set(predictions.label_names) & set(table.label_names)
  ):
    notes.append(
      "no predicted label occurs in the ground truth: got "
      f"{list(predictions.label_names[:3])}, expected names like "
      f"{list(table.label_names[:3])}"
    )
  return DetectionInputs(
    protocol, predictions, table, truth.split, tuple(notes)
  )


def _classify(
  predictions: DetectionTable, classifier: Classifier, videos: Sequence[str]
) -> DetectionTable:
  """Labels predictions of the split's videos with the classifier."""
  others = set(predictions.video_names) - set(videos)
  return video_classifier.classify(
    predictions.without_videos(others),
    video_classifier.read_video_scores(classifier.path),
    top_classes=classifier.top_classes,
    combination=classifier.combination,
  )


def _read_blocked(path: locations.Location) -> frozenset[str]:
  log = ProblemLog(path)
  names = documents.read_json(path, log)
  if not isinstance(names, list | dict):
    log.add("", f"got {documents.kind(names)}; expected a list of video names")
  log.raise_if_any()
  return frozenset(map(str, names))


def _detection_card(
  protocol: Protocol,
  request: _Request,
  *,
  split: str,
  truth: SegmentTable,
  predictions: DetectionTable,
  notes: tuple[str, ...],
) -> EvaluationCard:
  predicted = {
    predictions.video_names[code] for code in np.unique(predictions.video)
  }
  missing = [name for name in truth.video_names if name not in predicted]
  inside = np.isin(np.array([*predictions.video_names, ""]), truth.video_names)[
    predictions.video
  ]
  known_label = np.isin(
    np.array([*predictions.label_names, ""]), truth.label_names
  )[predictions.label]
  _, counted, _ = detection.prepare(predictions, truth, protocol)
  filters = []
  if protocol.drop_degenerate:
    filters.append(
      "empty segments and repeats within "
      f"{protocol.duplicate_tolerance_sec:g} s dropped"
    )
  if protocol.ambiguous_label:
    filters.append(
      "predictions on ambiguous regions ignored"
      if protocol.thumos_kit
      else "ambiguous regions dropped"
    )
  ties = "equal scores in file order"
  if protocol.thumos_kit:
    ties = "equal scores by video name, then file order"
  source = request.class_source
  if request.classifier is not None and protocol.task == "detection":
    source = video_classifier.describe(**dataclasses.asdict(request.classifier))
  return EvaluationCard(
    protocol=protocol.name,
    task=protocol.task,
    split=split,
    split_hash=split_hash(truth.video_names),
    num_evaluated=len(truth.video_names) - len(missing),
    num_missing=len(missing),
    missing=tuple(missing[:_MAX_LISTED]),
    num_unknown=int((~inside).sum()),
    num_ignored_labels=int((~known_label).sum()),
    num_predictions=len(predictions),
    num_ground_truths=len(counted),
    num_tied_scores=_num_tied(predictions),
    ground_truth_filter="; ".join(filters) or "none",
    class_source=source,
    tie_rule=f"{ties}; equal IoU to the last annotation in file order",
    iou_rule="IoU > threshold" if protocol.thumos_kit else "IoU >= threshold",
    thresholds=tuple(round(t, 4) for t in protocol.thresholds),
    notes=notes,
  )


def _num_tied(predictions: DetectionTable) -> int:
  """Counts predictions that share their score with another of their class."""
  order = np.lexsort((predictions.score, predictions.label))
  label, value = predictions.label[order], predictions.score[order]
  same = (label[1:] == label[:-1]) & (value[1:] == value[:-1])
  tied = np.zeros(len(order), bool)
  tied[1:] |= same
  tied[:-1] |= same
  return int(tied.sum())


def _score_grounding(
  protocol: grounding.GroundingProtocol, request: _Request
) -> tuple[EvaluationCard, dict[str, float]]:
  truth = query_files.read_query_answers(request.ground_truth)
  answers = truth.windows
  predicted = query_files.read_windows(
    request.predictions, id_of_text=truth.id_of_text
  )
  windows = predicted.windows
  missing = [query for query in answers if query not in windows]
  if not answers or len(missing) == len(answers):
    raise MalformedFileError(
      request.predictions,
      [
        f"no query in common with {request.ground_truth}: got "
        f"{list(windows)[:3]}, expected ids like {list(answers)[:3]}"
      ],
    )
  notes = []
  scored = answers
  if predicted.is_sample and missing:
    scored = {query: answers[query] for query in answers if query in windows}
    notes.append(
      f"the file lists {len(scored)} of {len(answers)} queries; only these are "
      "scored; a listed query without a window is a miss"
    )
  card = EvaluationCard(
    protocol=protocol.name,
    task="grounding",
    split=request.subset or request.ground_truth.stem,
    split_hash=split_hash(scored),
    num_evaluated=len(answers) - len(missing),
    num_missing=len(missing),
    missing=tuple(missing[:_MAX_LISTED]),
    num_unknown=sum(query not in answers for query in windows),
    num_predictions=sum(map(len, windows.values())),
    num_ground_truths=sum(map(len, scored.values())),
    nms="as in the prediction file"
    if protocol.nms_iou is None
    else f"hard, IoU > {protocol.nms_iou:g} dropped",
    top_k=f"{max(protocol.recall_at)} windows per query",
    class_source="language query",
    tie_rule="equal scores in the order listed",
    iou_rule="IoU > threshold" if protocol.strict else "IoU >= threshold",
    thresholds=protocol.iou_thresholds,
    notes=tuple(notes),
  )
  return card, grounding.evaluate(windows, scored, protocol)


def _score_highlights(
  request: _Request,
) -> tuple[EvaluationCard, dict[str, float]]:
  truths = highlight_files.read_highlight_truth(request.ground_truth)
  predictions = highlight_files.read_highlight_predictions(request.predictions)
  expected = {truth.query_id for truth in truths}
  got = {prediction.query_id for prediction in predictions}
  problems = [
    *(f"qid {q}: got no prediction; expected one" for q in expected - got),
    *(
      f"qid {q}: not annotated in {request.ground_truth}"
      for q in got - expected
    ),
  ]
  if problems:
    raise MalformedFileError(request.predictions, sorted(problems))
  card = EvaluationCard(
    protocol=_QVHIGHLIGHTS,
    task="highlights",
    split=request.subset or request.ground_truth.stem,
    split_hash=split_hash(expected),
    num_evaluated=len(got),
    num_missing=0,
    num_predictions=sum(
      len(p.windows) for p in predictions if p.windows is not None
    ),
    num_ground_truths=sum(len(truth.windows) for truth in truths),
    top_k=f"first {highlights.MAX_WINDOWS} windows per query",
    class_source="language query",
    tie_rule="equal scores in the order listed; R1 takes the first window",
    thresholds=highlights.THRESHOLDS,
    unit="percent",
  )
  return card, highlights.evaluate(predictions, truths)["brief"]
