"""Evaluates a grounder on a split."""

import dataclasses
import json
import sys
from collections.abc import Mapping

import jax
import numpy as np

from clap_jax.data import grounding_source, queries
from clap_jax.evaluation import moment_retrieval, results
from clap_jax.metrics import calibration, grounding, highlights
from clap_jax.storage import locations, output
from clap_jax.training import mesh as mesh_lib

QVHIGHLIGHTS = "qvhighlights"
PROTOCOLS = (*grounding.PROTOCOLS, QVHIGHLIGHTS)
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
  """Predictions for a split by query id, and for swapped queries."""

  split: queries.GroundingSplit
  answers: dict[str, Answer]  # videos without features are missing
  swapped_logits: np.ndarray  # float64 (s,), of queries that are absent

  @property
  def own_logits(self) -> np.ndarray:
    return np.array([a.absence_logit for a in self.answers.values()])


class Evaluator:
  """Computes metrics of parameters on a split."""

  def __init__(self, config, reader, search: moment_retrieval.MomentSearch):
    """Takes a GroundingConfig, a reader of its data and a moment search."""
    self._config = config
    self._reader = reader
    self._search = search

  def measure(self, params, split: str) -> dict[str, float]:
    """Returns metrics to monitor during training."""
    found = self.find(params, split)
    values = _moment_metrics(found, self._config.protocol)
    if len(found.swapped_logits):
      logits, is_absent = _both(found)
      values["absent_auroc"] = grounding.absence(
        logits, is_absent=is_absent, threshold=0.0
      )["absent_auroc"]
    return values

  def calibrate(self, params, split: str) -> dict | None:
    """Fits the absence score on `split`; returns None if impossible.

    `split` is the selection split, never the one that results are reported on.
    """
    found = self.find(params, split)
    logits, is_absent = _both(found)
    if not len(found.swapped_logits):
      print(
        f"The split {split} has no query that another of its videos surely "
        "lacks: absence is not calibrated and is not evaluated.",
        file=sys.stderr,
      )
      return None
    fitted = calibration.fit_absence(logits, is_absent=is_absent)
    return {
      **dataclasses.asdict(fitted),
      "split": split,
      "num_own": len(found.answers),
      "num_swapped": len(found.swapped_logits),
    }

  def find(self, params, split: str) -> SplitPredictions:
    """Runs every query on its own video, and negative queries on each."""
    params = _on_one_device(params)
    # During training the run's mesh is ambient; evaluation does not use it.
    with mesh_lib.alone(jax.local_devices()[0]):
      return find_moments(
        self._search,
        params,
        split=self._reader.grounding_split(split),
        features=self._reader.features(split),
        vectors=self._reader.texts,
        seed=0,
      )

  def rows(
    self, params, split: str, *, absence: dict | None
  ) -> tuple[list[dict], SplitPredictions]:
    """Returns result rows of a split with cards, and the predictions."""
    found = self.find(params, split)
    values = _moment_metrics(found, self._config.protocol)
    rows = self._rows(values, split, self._card(split, found))
    if absence is not None and len(found.swapped_logits):
      fitted = calibration_of(absence)
      rows += self._rows(
        _absence_metrics(found, fitted),
        split,
        self._absence_card(split, found, absence),
      )
    return rows, found

  def _rows(self, values, split, card) -> list[dict]:
    return results.rows_of(
      values,
      encoder=self._reader.extraction["encoder"],
      seed=self._config.loop.seed,
      dataset=self._reader.dataset.name,
      split=split,
      task="grounding",
      card=card,
    )

  def _card(self, split: str, found: SplitPredictions) -> dict:
    config = self._config
    facts = {
      "num_predictions": sum(len(a.windows) for a in found.answers.values()),
      "num_ground_truths": sum(len(q.windows) for q in found.split.queries),
      "nms": config.decode.describe(),
      "top_k": f"{config.decode.num_kept} per query",
      "seeds": (config.loop.seed,),
      "class_source": "language query",
    }
    if config.protocol == QVHIGHLIGHTS:
      return self._reader.card(
        split,
        task="highlights",
        protocol=QVHIGHLIGHTS,
        thresholds=highlights.THRESHOLDS,
        unit="percent",
        **facts,
      )
    protocol = grounding.PROTOCOLS[config.protocol]
    return self._reader.card(
      split,
      task="grounding",
      protocol=protocol.name,
      thresholds=protocol.iou_thresholds,
      iou_rule=f"IoU {'>' if protocol.strict else '>='} threshold",
      **facts,
    )

  def _absence_card(
    self,
    split: str,
    found: SplitPredictions,
    absence: dict,
  ) -> dict:
    return self._reader.card(
      split,
      task="absence",
      protocol="swapped queries",
      iou_rule="none: present or absent",
      class_source="language query",
      seeds=(self._config.loop.seed,),
      num_predictions=len(found.answers) + len(found.swapped_logits),
      num_ground_truths=len(found.swapped_logits),
      thresholds=(absence["threshold"],),
      notes=(
        f"{len(found.answers)} queries on their own video, "
        f"{len(found.swapped_logits)} of other videos that it surely lacks",
        f"probability and threshold (best F1) fitted on the split "
        f"{absence['split']}",
      ),
    )


def _on_one_device(params):
  """Puts parameters on one device, which suffices for small heads."""

  def local(leaf):
    if not isinstance(leaf, jax.Array):
      return leaf
    if not leaf.is_fully_replicated:
      assert isinstance(leaf.sharding, jax.sharding.NamedSharding)
      whole = jax.sharding.PartitionSpec()
      leaf = jax.device_put(
        leaf, jax.sharding.NamedSharding(leaf.sharding.mesh, whole)
      )
    return leaf.addressable_data(0)

  return jax.tree.map(local, params)


def _both(
  found: SplitPredictions,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns absence logits of own and swapped queries, and labels."""
  logits = np.concatenate([found.own_logits, found.swapped_logits])
  return logits, np.arange(len(logits)) >= len(found.answers)


def _moment_metrics(found: SplitPredictions, protocol: str) -> dict[str, float]:
  if protocol == QVHIGHLIGHTS:
    return _highlight_metrics(found)
  return grounding.evaluate(
    {key: answer.windows for key, answer in found.answers.items()},
    {query.id: query.windows for query in found.split.queries},
    grounding.PROTOCOLS[protocol],
  )


def _absence_metrics(found: SplitPredictions, fitted) -> dict[str, float]:
  logits, is_absent = _both(found)
  probability = fitted.probability(logits)
  values = grounding.absence(
    probability, is_absent=is_absent, threshold=fitted.threshold
  )
  values["absent_calibration_error"] = calibration.calibration_error(
    probability, happened=is_absent
  )
  return values


def check_scored(split: queries.GroundingSplit, protocol: str) -> None:
  """Checks that the protocol can score every query of a split.

  Raises:
    ValueError: if a query lacks the saliency scores of QVHighlights' protocol.
  """
  for query in split.queries if protocol == QVHIGHLIGHTS else ():
    if query.saliency is None:
      raise ValueError(
        f"query {query.id} has no saliency scores, which the protocol "
        f"{QVHIGHLIGHTS} needs; choose another --config.protocol "
        f"({', '.join(grounding.PROTOCOLS)})."
      )


def _highlight_metrics(
  found: SplitPredictions,
) -> dict[str, float]:
  check_scored(found.split, QVHIGHLIGHTS)
  predictions, truths = [], []
  for query in found.split.queries:
    assert query.saliency is not None  # as checked above
    answer = found.answers.get(query.id)
    windows, saliency = np.zeros((1, 3)), np.zeros(len(query.saliency))
    if answer is not None:  # else a miss
      windows, saliency = whole_clips(answer), answer.saliency
    predictions.append(highlights.QueryPrediction(query.id, windows, saliency))
    truths.append(
      highlights.QueryTruth(
        query.id, np.reshape(query.windows, (-1, 2)), query.saliency
      )
    )
  return highlights.evaluate(predictions, truths)["brief"]


def find_moments(
  search: moment_retrieval.MomentSearch,
  params,
  *,
  split: queries.GroundingSplit,
  features: Mapping,
  vectors: queries.QueryVectors,
  seed: int,
) -> SplitPredictions:
  """Encodes every video once; runs its own and the swapped queries.

  Args:
    params: parameters of the task.
    features: VideoFeatures by video id; other videos are left out.
    vectors: token vectors of every text.
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
  """Rounds windows (k, 3) to whole two-second clips, at least one each.

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
  """Returns the calibration from the metadata of a model."""
  return calibration.AbsenceCalibration(
    absence["slope"], absence["offset"], absence["threshold"]
  )


def write_predictions(
  found: SplitPredictions, workdir: locations.Location, *, absence: dict | None
) -> None:
  """Writes an entry per query, best moments first, for `clap score`."""
  fitted = calibration_of(absence) if absence else None
  document = [
    {
      "query_id": key,
      "video": answer.query.video_id,
      "query": answer.query.text,
      "segment": list(answer.query.windows[0]),
      "absence": fitted
      and float(fitted.probability(np.array(answer.absence_logit))),
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
