"""Classification of whole videos, and of every frame of a video."""

from collections.abc import Collection, Sequence

import numpy as np

from clap_jax.metrics import overlap


def top_1_accuracy(
  predicted: Sequence[str], labels: Sequence[Collection[str]]
) -> float:
  """Share of videos whose predicted class is one of their classes.

  Raises:
    ValueError: no video, or lists of different lengths.
  """
  if not predicted or len(predicted) != len(labels):
    raise ValueError(
      f"got {len(predicted)} predictions for {len(labels)} videos; expected "
      "one for each, and at least one"
    )
  hits = [one in of for one, of in zip(predicted, labels, strict=True)]
  return float(np.mean(hits))


def frame_accuracy(
  predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray]
) -> float:
  """Mean over videos of the share of frames (t,) with the right class."""
  shares = [(p == y).mean() for p, y in zip(predicted, truth, strict=True)]
  return float(np.mean(shares))


def segmental_f1(
  predicted: Sequence[np.ndarray],
  truth: Sequence[np.ndarray],
  *,
  iou_threshold: float,
) -> float:
  """Mean over videos of the F1 of runs of equal frames.

  In order of time, every predicted run looks at the run of its class that it
  overlaps most (the first of equals) and hits if the IoU reaches the threshold
  and no earlier run took it.

  Source: Lea et al., "Temporal Convolutional Networks for Action Segmentation
  and Detection", CVPR 2017.
  """
  scores = []
  for frames, answer in zip(predicted, truth, strict=True):
    segments, labels = runs(frames)
    answers, answer_labels = runs(answer)
    iou = overlap.hull_iou(segments[:, None], answers)
    iou = np.where(labels[:, None] == answer_labels, iou, 0.0)
    best = iou.argmax(axis=1)
    able = iou[np.arange(len(best)), best] >= iou_threshold
    hits = len(np.unique(best[able]))
    scores.append(2 * hits / (len(segments) + len(answers)))
  return float(np.mean(scores))


def runs(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Runs of equal frames (t,): [start, end) in frames (n, 2), labels (n,)."""
  cuts = np.flatnonzero(np.diff(frames)) + 1
  bounds = np.concatenate([[0], cuts, [len(frames)]])
  return np.stack([bounds[:-1], bounds[1:]], axis=-1), frames[bounds[:-1]]
