"""Computes and writes predictions of a grounder for a split."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from clap_jax.data import grounding_source, queries
from clap_jax.evaluation import moment_retrieval
from clap_jax.metrics import calibration, highlights
from clap_jax.storage import output

PREDICTIONS_FILE = "predictions.json"
LINES_FILE = "predictions.jsonl"  # in Moment-DETR's form


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
  """The prediction for a query on its own video."""

  query: queries.GroundingQuery
  windows: np.ndarray  # float64 (k, 3): start_sec, end_sec, score, best first
  absence_logit: float
  saliency: np.ndarray  # float64 (clips,), see queries.clip_saliency
  duration_sec: float


@dataclasses.dataclass(frozen=True, eq=False)
class SplitPredictions:
  """Answers of a split by query id, and those of swapped queries."""

  split: queries.GroundingSplit
  answers: dict[str, Answer]  # videos without features are missing
  swapped_logits: np.ndarray  # float64 (s,): absence where it is the truth

  @property
  def own_logits(self) -> np.ndarray:
    return np.array([a.absence_logit for a in self.answers.values()])


def find_moments(
  search: moment_retrieval.MomentSearch,
  params,
  *,
  split: queries.GroundingSplit,
  features: Mapping,
  vectors: queries.QueryVectors,
  seed: int,
) -> SplitPredictions:
  """Every video encoded once, asked its own queries and the swapped ones.

  Args:
    search: of the task.
    params: of the task.
    split: queries and videos.
    features: VideoFeatures by video id; other videos are left out.
    vectors: of every text.
    seed: of the choice of swapped queries.
  """
  rows = grounding_source.text_rows(split.queries, vectors)
  own: dict[str, list[int]] = {}
  for index, query in enumerate(split.queries):
    own.setdefault(query.video_id, []).append(index)
  swapped = queries.swapped_queries(split, seed=seed)
  answers: dict[str, Answer] = {}
  logits: list[float] = []
  for video_id, indices in own.items():
    if video_id not in features:
      continue
    video = features[video_id]
    asked = [rows[i] for i in (*indices, *swapped[video_id])]
    output = search.answer(
      params,
      search.encode(params, video.features),
      query=vectors.vectors[asked],
      query_mask=vectors.mask[asked],
    )
    for row, index in enumerate(indices):
      query = split.queries[index]
      answers[query.id] = _answer(
        output, row, query, video.grid, split.duration_sec[video_id]
      )
    logits += output.absence_logits[len(indices) :].tolist()
  return SplitPredictions(split, answers, np.array(logits, np.float64))


def _answer(output, row, query, grid, duration_sec) -> Answer:
  mask = output.mask[row]
  segments = grid.to_seconds(output.segments[row][mask].astype(np.float64))
  segments = segments.clip(0.0, duration_sec)
  scores = output.scores[row][mask].astype(np.float64)
  middle_sec = grid.to_seconds(np.arange(output.saliency.shape[1]))
  return Answer(
    query,
    np.concatenate([segments, scores[:, None]], axis=1),
    float(output.absence_logits[row]),
    queries.clip_saliency(
      output.saliency[row], middle_sec, duration_sec=duration_sec
    ),
    duration_sec,
  )


def whole_clips(answer: Answer) -> np.ndarray:
  """Windows (k, 3) rounded to clips of two seconds, at least one clip long.

  Source: the post-processing of Moment-DETR.
  """
  if not len(answer.windows):
    return np.zeros((1, 3))
  clip_sec = highlights.CLIP_SEC
  last = max(clip_sec, clip_sec * int(answer.duration_sec / clip_sec))
  windows = answer.windows.copy()
  windows[:, :2] = clip_sec * np.round(windows[:, :2] / clip_sec)
  windows[:, 0] = windows[:, 0].clip(0, last - clip_sec)
  windows[:, 1] = np.maximum(
    windows[:, 1].clip(0, last), windows[:, 0] + clip_sec
  )
  return windows[: highlights.MAX_WINDOWS]


def calibration_of(absence: dict) -> calibration.AbsenceCalibration:
  """The calibration among the facts of a model."""
  return calibration.AbsenceCalibration(
    absence["slope"], absence["offset"], absence["threshold"]
  )


def write_predictions(
  found: SplitPredictions, workdir: pathlib.Path, *, absence: dict | None
) -> None:
  """One entry per query, best moments first; `clap score` reads both files."""
  fitted = absence and calibration_of(absence)
  document = [
    {
      "query_id": key,
      "video": answer.query.video_id,
      "query": answer.query.text,
      "segment": list(answer.query.windows[0]),
      "absence": fitted and float(fitted.probability(answer.absence_logit)),
      "predictions": answer.windows.tolist(),
    }
    for key, answer in found.answers.items()
  ]
  text = json.dumps({"queries": document}) + "\n"
  output.write_text(workdir / PREDICTIONS_FILE, text)
  if not any(q.saliency is not None for q in found.split.queries):
    return
  lines = [
    {
      "qid": key,
      "query": answer.query.text,
      "vid": answer.query.video_id,
      "pred_relevant_windows": whole_clips(answer).tolist(),
      "pred_saliency_scores": answer.saliency.tolist(),
    }
    for key, answer in found.answers.items()
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  output.write_text(workdir / LINES_FILE, text)
