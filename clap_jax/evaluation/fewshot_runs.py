"""Computes mAP per run of episodes."""

from collections.abc import Mapping, Sequence

import numpy as np

from clap_jax.data import episodes as episodes_lib
from clap_jax.data.records import ExampleInfo
from clap_jax.metrics import detection, protocols, tables

# The older protocol drops shorter instances, as shares of the video, from the
# ground truth of multi-instance episodes, by shots.
_LEGACY_MIN_SHARE = {1: 0.1, 5: 0.2}

# Of one episode: segments in seconds (n, 2), scores (n,), class names.
Found = tuple[np.ndarray, np.ndarray, list[str]]


def legacy_min_share(facts: Mapping) -> float:
  """The least share of the video that an instance of an episode set has."""
  if not facts["legacy_qat"] or facts["instances"] == "single":
    return 0.0
  return _LEGACY_MIN_SHARE.get(facts["shots"], 0.0)


def run_metrics(
  drawn: episodes_lib.EpisodeSet,
  found: Sequence[Found],
  *,
  infos: Mapping[str, ExampleInfo],
  label_names: Sequence[str],
  protocol: protocols.Protocol,
) -> dict[str, list[float]]:
  """Each metric's value in every run: mAP over all queries of the run.

  Args:
    drawn: the episodes.
    found: what was predicted for each of them, run after run.
    infos: the videos by id.
    label_names: of the dataset.
    protocol: thresholds and rules.
  """
  values: dict[str, list[float]] = {}
  start = 0
  for run in drawn.runs:
    part = found[start : start + len(run)]
    start += len(run)
    truth = ground_truth(
      run, infos, label_names, min_share=legacy_min_share(drawn.facts)
    )
    metrics = detection.evaluate(_predictions(run, part), truth, protocol)
    for name, value in metrics.items():
      values.setdefault(name, []).append(value)
  return values


def _predictions(run, found) -> tables.DetectionTable:
  columns: dict[str, list] = {
    name: [] for name in ("video", "start_sec", "end_sec", "label", "score")
  }
  for key, (segments, scores, labels) in zip(_keys(run), found, strict=True):
    columns["video"] += [key] * len(segments)
    columns["start_sec"] += segments[:, 0].tolist()
    columns["end_sec"] += segments[:, 1].tolist()
    columns["label"] += labels
    columns["score"] += np.asarray(scores).tolist()
  return tables.DetectionTable.from_columns(
    **columns, video_names=tuple(_keys(run))
  )


def ground_truth(
  run: Sequence[episodes_lib.Episode],
  infos: dict,
  label_names: Sequence[str],
  *,
  min_share: float,
) -> tables.SegmentTable:
  """The queries' segments of their episodes' classes, one video an episode."""
  columns: dict[str, list] = {
    name: [] for name in ("video", "start_sec", "end_sec", "label")
  }
  for key, episode in zip(_keys(run), run, strict=True):
    info = infos[episode.query]
    for (start_sec, end_sec), label in zip(
      info.segments.astype(np.float64), info.labels, strict=True
    ):
      name = label_names[int(label)]
      long_enough = end_sec - start_sec >= min_share * info.duration_sec
      if name in episode.classes and long_enough:
        columns["video"].append(key)
        columns["start_sec"].append(start_sec)
        columns["end_sec"].append(end_sec)
        columns["label"].append(name)
  return tables.SegmentTable.from_columns(
    **columns, video_names=tuple(_keys(run))
  )


def _keys(run) -> list[str]:
  """A name per episode: under the older protocol a query may come twice."""
  return [f"{number}/{episode.query}" for number, episode in enumerate(run)]
