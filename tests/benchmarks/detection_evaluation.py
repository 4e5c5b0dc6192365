"""Times the detection evaluator against restatements of the reference's.

    python -m tests.benchmarks.detection_evaluation [--quick] --json OUT

The set has the size of ActivityNet's validation split: 4,728 videos, 200
classes, 200 predictions per video (two predicted classes of 100 each, the
first right for 89 % of the videos), ten thresholds. Results must be equal.

The reference algorithm goes through every class, every prediction, every
threshold and every ground truth of the video. It is restated three times: on
tuples, with all that can be looked up beforehand looked up, the leanest form;
on NumPy arrays, where each prediction selects its video's rows anew; and, if
pandas can be imported, on data frames, as the published evaluators write it,
always on a sample. `--quick` gives all of them a sample of the classes; the
time of a sample is scaled by the number of its predictions. Times are those of
the processor, all in one thread.
"""

import dataclasses
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np

from clap_jax.metrics import detection, protocols, tables
from clap_jax.metrics.score import score
from tests.benchmarks import running
from tests.metrics import loop_oracle

_NUM_VIDEOS, _NUM_CLASSES, _PER_VIDEO = 4728, 200, 200
_ROUNDS = 5
_PROTOCOL = protocols.PROTOCOLS["activitynet"]


def synthetic_set(seed: int = 0):
  """Predictions and ground truth as tables, of the full size."""
  rng = np.random.default_rng(seed)
  videos = np.arange(_NUM_VIDEOS)
  label = rng.integers(0, _NUM_CLASSES, _NUM_VIDEOS)
  count = np.minimum(rng.geometric(0.62, _NUM_VIDEOS), 23)
  owner = np.repeat(videos, count)
  duration = rng.uniform(20, 235, _NUM_VIDEOS)[owner]
  length = duration * rng.uniform(0.05, 0.6, len(owner))
  start = rng.uniform(0, 1, len(owner)) * (duration - length)
  names = tuple(f"video_{i}" for i in videos)
  labels = tuple(f"class {i}" for i in range(_NUM_CLASSES))
  truth = tables.SegmentTable(
    names, labels, owner, label[owner], start, start + length
  )
  video = np.repeat(videos, _PER_VIDEO)
  wrong = (label + rng.integers(1, _NUM_CLASSES, _NUM_VIDEOS)) % _NUM_CLASSES
  first = np.where(rng.random(_NUM_VIDEOS) < 0.89, label, wrong)
  second = (first + 7) % _NUM_CLASSES
  is_first = np.tile(np.arange(_PER_VIDEO) < _PER_VIDEO // 2, _NUM_VIDEOS)
  near = (np.cumsum(count) - count)[video]
  near = near + rng.integers(0, 1 << 30, len(video)) % count[video]
  noise = rng.normal(0, 0.2, (2, len(video)))
  ends = np.stack([start, start + length])[:, near] + noise * length[near]
  confidence = np.exp(-np.abs(noise).sum(axis=0)) * rng.random(len(video))
  predictions = tables.DetectionTable(
    names,
    labels,
    video,
    np.where(is_first, first[video], second[video]),
    ends.min(axis=0),
    ends.max(axis=0),
    confidence,
  )
  return predictions, truth


def rows_of_class(table, label):
  """One class as plain tuples, the input of the restatement."""
  part = table.take(table.label == label)
  columns = [part.video, part.start_sec, part.end_sec]
  if hasattr(part, "score"):
    columns.append(part.score)
  return list(zip(*(column.tolist() for column in columns), strict=True))


def restated_class(predictions, truths):
  """The reference algorithm on tuples."""
  order = loop_oracle.reversed_numpy_sort([row[3] for row in predictions])
  return loop_oracle.class_average_precision(
    predictions, truths, thresholds=_PROTOCOL.thresholds, order=order
  )


def restated_class_in_arrays(predictions, truths):
  """The same, every step on arrays and anew for every prediction."""
  truths = np.array(truths)
  predictions = np.array(predictions)
  order = loop_oracle.reversed_numpy_sort(predictions[:, 3])
  thresholds = _PROTOCOL.thresholds
  owner = np.full((len(thresholds), len(truths)), -1)
  hit = np.zeros((len(thresholds), len(predictions)))
  miss = np.zeros_like(hit)
  for row, (video, start, end, _) in enumerate(predictions[order]):
    here = np.flatnonzero(truths[:, 0] == video)
    if not len(here):
      miss[:, row] = 1
      continue
    overlaps = loop_oracle.tiou((start, end), truths[here, 1:])
    best_first = overlaps.argsort()[::-1]
    for t, threshold in enumerate(thresholds):
      for j in best_first:
        if overlaps[j] < threshold:
          break
        if owner[t, here[j]] < 0:
          owner[t, here[j]] = row
          hit[t, row] = 1
          break
      miss[t, row] = 1 - hit[t, row]
  found = np.cumsum(hit, axis=1)
  precision = found / (found + np.cumsum(miss, axis=1))
  return np.array(
    [
      loop_oracle.interpolated(p, f / len(truths))
      for p, f in zip(precision, found, strict=True)
    ]
  )


def restated_class_in_frames(pandas, predictions, truths):
  """The same with the published evaluators' walk through data frames."""
  truths = pandas.DataFrame(truths, columns=["video", "start", "end"])
  frame = pandas.DataFrame(
    predictions, columns=["video", "start", "end", "score"]
  )
  frame = frame.loc[loop_oracle.reversed_numpy_sort(frame["score"].values)]
  by_video = truths.groupby("video")
  thresholds = _PROTOCOL.thresholds
  taken = np.zeros((len(thresholds), len(truths)), bool)
  hit = np.zeros((len(thresholds), len(frame)))
  for row, (_, this) in enumerate(frame.iterrows()):
    try:
      here = by_video.get_group(this["video"]).reset_index()
    except KeyError:
      continue
    overlaps = loop_oracle.tiou(
      this[["start", "end"]].values, here[["start", "end"]].values
    )
    for t, threshold in enumerate(thresholds):
      for j in overlaps.argsort()[::-1]:
        if overlaps[j] < threshold:
          break
        if not taken[t, here.loc[j]["index"].astype(int)]:
          taken[t, here.loc[j]["index"].astype(int)] = True
          hit[t, row] = 1
          break
  found = np.cumsum(hit, axis=1)
  precision = found / np.arange(1, len(frame) + 1)
  return np.array(
    [
      loop_oracle.interpolated(p, f / len(truths))
      for p, f in zip(precision, found, strict=True)
    ]
  )


def timed(function):
  """Seconds of the processor, which other processes do not lengthen."""
  start = time.process_time()
  result = function()
  return time.process_time() - start, result


def write_json(table, path: pathlib.Path, *, truth: bool) -> None:
  """Writes a table in ActivityNet's form."""
  videos: dict[str, list] = {name: [] for name in table.video_names}
  scores = [None] * len(table) if truth else table.score.tolist()
  for video, label, start, end, value in zip(
    table.video.tolist(),
    table.label.tolist(),
    table.start_sec.tolist(),
    table.end_sec.tolist(),
    scores,
    strict=True,
  ):
    entry = {"label": table.label_names[label], "segment": [start, end]}
    if not truth:
      entry["score"] = value
    videos[table.video_names[video]].append(entry)
  document = {"results": videos}
  if truth:
    document = {
      "database": {
        name: {"subset": "validation", "annotations": entries}
        for name, entries in videos.items()
      }
    }
  path.write_text(json.dumps(document))


def end_to_end_seconds(predictions, truth) -> tuple[float, float]:
  """Seconds of `score` on files, and of parsing the same JSON alone."""
  with tempfile.TemporaryDirectory() as folder:
    predicted = pathlib.Path(folder, "predictions.json")
    annotated = pathlib.Path(folder, "ground_truth.json")
    write_json(predictions, predicted, truth=False)
    write_json(truth, annotated, truth=True)
    parse = timed(lambda: json.loads(predicted.read_text()))[0]
    whole = timed(
      lambda: score(
        predicted, ground_truth_path=annotated, protocols=[_PROTOCOL.name]
      )
    )[0]
  return whole, parse


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One slow form against ours, measured in turns."""

  slow_seconds: float  # scaled to all classes by their predictions
  our_seconds: float  # median
  difference: float  # the largest of any AP
  scope: str


def compare(restate, predictions, truth, *, labels) -> Comparison:
  """Times `restate` class by class, with ours in between."""
  our_seconds, slow_seconds, visited, difference = [], 0.0, 0, 0.0
  for turn in range(_ROUNDS):
    spent, results = timed(
      lambda: detection.evaluate_classes(predictions, truth, _PROTOCOL)
    )
    our_seconds.append(spent)
    ours = dict(zip(results.labels, results.average_precision, strict=True))
    for label in labels[turn::_ROUNDS]:
      rows = rows_of_class(predictions, label), rows_of_class(truth, label)
      spent, result = timed(lambda rows=rows: restate(*rows))
      slow_seconds += spent
      visited += len(rows[0])
      error = np.abs(result - ours[truth.label_names[label]]).max()
      difference = max(difference, float(error))
  return Comparison(
    slow_seconds=slow_seconds * len(predictions) / visited,
    our_seconds=statistics.median(our_seconds),
    difference=difference,
    scope=f"{len(labels)} of {_NUM_CLASSES} classes measured",
  )


def measure(*, quick: bool) -> list[dict]:
  predictions, truth = synthetic_set()
  present = np.unique(truth.label).tolist()
  whole, parse = end_to_end_seconds(predictions, truth)
  tuples = compare(
    restated_class,
    predictions,
    truth,
    labels=present[:: 20 if quick else 1],
  )
  rows = [
    running.row("ours, median of 5", tuples.our_seconds, "s"),
    running.row("ours with reading both files", whole, "s"),
    running.row("json.loads of the predictions alone", parse, "s"),
    running.row(
      f"restated on tuples ({tuples.scope})", tuples.slow_seconds, "s"
    ),
    running.row(
      "speed-up over tuples", tuples.slow_seconds / tuples.our_seconds, "x"
    ),
    running.row("max |dAP|", tuples.difference, "AP", at_most=1e-12),
  ]
  arrays = compare(
    restated_class_in_arrays,
    predictions,
    truth,
    labels=present[:: 40 if quick else 1],
  )
  rows += [
    running.row(
      f"restated on arrays ({arrays.scope})", arrays.slow_seconds, "s"
    ),
    running.row(
      "speed-up over arrays", arrays.slow_seconds / arrays.our_seconds, "x"
    ),
    running.row("max |dAP| on arrays", arrays.difference, "AP", at_most=1e-12),
  ]
  try:
    import pandas  # noqa: PLC0415  (only to be measured against)
  except ImportError:
    rows.append(
      running.row("restated in data frames: no pandas here", None, "s")
    )
    return rows
  frames = compare(
    lambda *tables: restated_class_in_frames(pandas, *tables),
    predictions,
    truth,
    labels=present[:: 100 if quick else 40],
  )
  return [
    *rows,
    running.row(
      f"restated in data frames ({frames.scope})", frames.slow_seconds, "s"
    ),
    running.row(
      "speed-up over data frames",
      frames.slow_seconds / frames.our_seconds,
      "x",
      at_least=300,
    ),
    running.row(
      "speed-up over data frames, files included",
      (frames.slow_seconds + parse) / whole,
      "x",
      at_least=80,
    ),
    running.row(
      "max |dAP| in data frames",
      frames.difference,
      "AP",
      at_most=1e-12,
    ),
  ]


if __name__ == "__main__":
  running.main(measure, __doc__)
