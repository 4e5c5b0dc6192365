"""Evaluates temporal action localization: detections, their mAP, and cards."""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clap_jax import config as config_lib
from clap_jax import types
from clap_jax.data import feature_reader, pipeline
from clap_jax.evaluation import predictor as predictor_lib
from clap_jax.evaluation import results
from clap_jax.metrics import detection, protocols, tables, video_classifier
from clap_jax.models.suppression import SuppressionConfig
from clap_jax.storage import locations, output
from clap_jax.training import processes

PREDICTIONS_FILE = "predictions.json"


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
  """An external classifier of whole videos, in place of the head's classes."""

  path: str = ""  # see metrics/video_classifier.py; "" is off
  top_classes: int = config_lib.ranged(default=2, minimum=1)
  combination: str = config_lib.choice(
    *video_classifier.COMBINATIONS, default="product"
  )


class Evaluator:
  """Computes the mAP of parameters on a split."""

  def __init__(self, config: Any, reader: Any, task: Any, label_names):
    """Takes a trainer's config and a feature_reader.FeatureReader."""
    self._config, self._reader, self._task = config, reader, task
    self._label_names = label_names
    self._protocol = protocols.PROTOCOLS[config.protocol]
    self._padded_length = task.padded_length
    names = reader.dataset.label_names
    if not (config.classifier.path or set(names) & set(label_names)):
      print(
        f"The data has none of the head's classes ({', '.join(label_names[:3])}"
        f"{', ...' if label_names[3:] else ''}): every score will be 0. Give "
        "--config.classifier.path, an external classifier of the videos, see "
        "docs/localization.md.",
        file=sys.stderr,
      )
    self._predictor = predictor_lib.of_config(task.predict, config)

  def __call__(self, params, split: str):
    """Returns metrics and the detections that they score."""
    table = with_class_source(self.find(params, split), self._config.classifier)
    truth = ground_truth(self._reader, split)
    return detection.evaluate(table, truth, self._protocol), table

  def find(self, params, split: str) -> tables.DetectionTable:
    """Returns the detections of the head itself."""
    return detections(
      self._reader,
      self._predictor,
      params,
      split,
      decode=self._config.decode,
      takes_any_length=self._task.takes_any_length,
      padded_length=self._padded_length,
      label_names=self._label_names,
    )

  def card_facts(self) -> dict[str, Any]:
    """Returns facts of the class source for the evaluation card."""
    classifier = self._config.classifier
    if not classifier.path:
      return {"class_source": "the localizer's own class head"}
    source = video_classifier.describe(**dataclasses.asdict(classifier))
    return {"class_source": source}

  def rows(self, params, split: str):
    """Returns result rows with cards, and the detections that they score."""
    metrics, table = self(params, split)
    config, reader = self._config, self._reader
    facts = {
      "nms": config.decode.describe(),
      "top_k": f"{config.decode.num_kept} per video",
    } | self.card_facts()
    card = reader.card(
      split,
      task="detection",
      protocol=config.protocol,
      seeds=(config.loop.seed,),
      num_predictions=len(table),
      num_ground_truths=len(ground_truth(reader, split)),
      thresholds=self._protocol.thresholds,
      **facts,
    )
    rows = results.rows_of(
      metrics,
      encoder=reader.extraction["encoder"],
      seed=config.loop.seed,
      dataset=reader.dataset.name,
      split=split,
      task="localization",
      card=card,
    )
    return rows, table

  def write(
    self, workdir: locations.Location, params, split: str
  ) -> list[dict]:
    """Writes the results and the predictions of a run; returns the rows."""
    rows, table = self.rows(params, split)
    if processes.is_first():
      write_predictions(table, workdir / PREDICTIONS_FILE)
    results.write(workdir, rows)
    return rows


def with_class_source(
  table: tables.DetectionTable, classifier: ClassifierConfig
) -> tables.DetectionTable:
  """Labels detections with classes of the configured source."""
  if not classifier.path:
    return table
  return video_classifier.classify(
    table,
    video_classifier.read_video_scores(classifier.path),
    top_classes=classifier.top_classes,
    combination=classifier.combination,
  )


def detections(
  reader: feature_reader.FeatureReader,
  predictor,
  params,
  split: str,
  *,
  decode: SuppressionConfig,
  takes_any_length: bool = True,
  padded_length: Callable[[int], int] | None = None,
  label_names: Sequence[str] | None = None,
) -> tables.DetectionTable:
  """Returns detections of a split in seconds, clipped to the videos.

  Detections of the windows of one video are merged by `decode`'s soft-NMS.

  Args:
    params: parameters of the head.
    decode: options of merging windows.
    takes_any_length: see localizers.FeatureTask.
    padded_length: see feature_reader.FeatureReader.evaluation_sources.
    label_names: classes of the head; None for those of the dataset.
  """
  loaded = reader.features(split)
  found: dict[str, list[types.Detections]] = {}
  infos = {}
  for source in reader.evaluation_sources(
    split, takes_any_length=takes_any_length, padded_length=padded_length
  ):
    infos |= {info.id: info for info in source.examples}
    with pipeline.evaluation_batches(
      source, batch_size=reader.config.batch_size
    ) as batches:
      for batch, output in predictor_lib.predict_batches(
        predictor, params, batches
      ):
        for row, index in enumerate(batch.video_index):
          if index >= 0:
            kept = types.Detections(*(field[row] for field in output))
            moved = kept.segments + np.float32(source.starts[index])
            found.setdefault(source.examples[index].id, []).append(
              kept._replace(segments=moved)
            )
  names = label_names or reader.dataset.label_names
  columns: dict[str, list] = {
    name: [] for name in ("video", "start_sec", "end_sec", "label", "score")
  }
  most = max(len(parts) for parts in found.values())
  for info in (i for i in reader.examples(split) if i.id in found):
    kept = merged(found[info.id], decode=decode, num_windows=most)
    keep = kept.mask
    grid = loaded[info.id].grid
    segments = grid.to_seconds(kept.segments[keep].astype(np.float64))
    segments = segments.clip(0.0, info.duration_sec)
    columns["video"] += [info.id] * len(segments)
    columns["start_sec"] += segments[:, 0].tolist()
    columns["end_sec"] += segments[:, 1].tolist()
    columns["label"] += [names[i] for i in kept.labels[keep]]
    columns["score"] += kept.scores[keep].tolist()
  return tables.DetectionTable.from_columns(**columns, video_names=tuple(infos))


def merged(
  parts: list[types.Detections],
  *,
  decode: SuppressionConfig,
  num_windows: int,
) -> types.Detections:
  """Merges the detections of a video's windows, (k, ...) each.

  Windows are padded to `num_windows`, so that one program serves all videos.
  """
  if len(parts) == 1:
    return parts[0]
  size = num_windows * len(parts[0].mask)
  joined = types.Detections(
    *(
      jnp.asarray(
        np.concatenate(
          [
            *columns,
            np.zeros(
              (size - sum(map(len, columns)), *columns[0].shape[1:]),
              columns[0].dtype,
            ),
          ]
        )
      )
      for columns in zip(*parts, strict=True)
    )
  )
  return jax.device_get(_suppress(joined, decode))


@functools.partial(jax.jit, static_argnums=1)
def _suppress(
  candidates: types.Detections, decode: SuppressionConfig
) -> types.Detections:
  return decode.suppress(candidates)


def ground_truth(reader, split: str) -> tables.SegmentTable:
  """Returns all labelled segments of a split, features or not."""
  truth = truth_of(reader.examples(split), reader.dataset.label_names)
  if not len(truth):
    raise ValueError(
      f"Split {split!r} has no labelled segment to score against; name another "
      "in data.selection_split and data.eval_split."
    )
  return truth


def truth_of(infos, names) -> tables.SegmentTable:
  """Returns the labelled segments of videos with class names."""
  rows = [
    (info.id, *segment, names[label])
    for info in infos
    for segment, label in zip(
      info.segments.astype(np.float64), info.labels, strict=True
    )
  ]
  return tables.SegmentTable.from_rows(
    rows, video_names=tuple(info.id for info in infos)
  )


def write_predictions(table: tables.DetectionTable, path) -> None:
  """Writes {"results": {video: [{label, score, segment}]}} (ActivityNet)."""
  found: dict[str, list] = {name: [] for name in table.video_names}
  for video, label, segment, score in zip(
    table.video, table.label, table.segments, table.score, strict=True
  ):
    found[table.video_names[video]].append(
      {
        "label": table.label_names[label],
        "score": float(score),
        "segment": [float(x) for x in segment],
      }
    )
  document = {"version": "clap_jax", "results": found, "external_data": {}}
  output.write_text(path, json.dumps(document) + "\n")
