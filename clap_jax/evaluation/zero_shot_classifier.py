"""Classifies features by class names, zero-shot.

Towers that were trained together share a space. For any other features and text
tower it is learned on the seen classes: a ridge regression from the mean
feature of a segment to the vector of its class. Features then lie nearer to the
fitted classes than to others, hence the similarity of the former is lowered by
a constant. The penalty, the constant and the temperature of the softmax are
chosen on classes that the regression has not seen, never on those that are
reported.

Sources: Romera-Paredes and Torr, ICML 2015, for a linear map to descriptions of
classes in closed form; Chao et al., ECCV 2016, for the constant.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clap_jax.data import class_texts, features
from clap_jax.data.records import ExampleInfo
from clap_jax.metrics import matching, tables
from clap_jax.storage import arrays, locations

RIDGES = (0.01, 0.1, 1.0, 10.0)  # times the identity, for unit variances
SCALES = (5.0, 10.0, 20.0, 40.0)
PENALTIES = tuple(i / 10 for i in range(9))
_NUM_FOLDS = 4


class Segments(NamedTuple):
  """Labelled segments, represented by the mean of their features."""

  features: np.ndarray  # (n, d)
  labels: np.ndarray  # int (n,)

  def of(self, classes: Sequence[int]) -> "Segments":
    keep = np.isin(self.labels, classes)
    return Segments(self.features[keep], self.labels[keep])

  def and_also(self, other: "Segments") -> "Segments":
    return Segments(*map(np.concatenate, zip(self, other, strict=True)))


class TextProjection(NamedTuple):
  """An affine map of features, and the conversion of cosines to scores."""

  kernel: np.ndarray  # float32 (d, p)
  offset: np.ndarray  # float32 (p,)
  centre: np.ndarray  # float32 (p,), subtracted from class vectors
  scale: float  # of the softmax over classes
  seen_penalty: float  # subtracted from cosines of seen classes

  def probabilities(
    self, vectors: np.ndarray, texts: np.ndarray, *, seen_mask: np.ndarray
  ) -> np.ndarray:
    """Returns class probabilities (k, c) of features (k, d).

    Args:
      vectors: mean features of segments.
      texts: class vectors (c, p).
      seen_mask: bool (c,).
    """
    cosine = (
      class_texts.unit(vectors @ self.kernel + self.offset)
      @ class_texts.unit(texts - self.centre).T
    )
    logits = self.scale * (cosine - self.seen_penalty * seen_mask)
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


def of_towers(texts: class_texts.ClassTexts, *, scale: float) -> TextProjection:
  """Returns the space shared by both towers; `scale` 0 uses their own."""
  width = texts.video_projection.shape[1]
  nothing = np.zeros(width, np.float32)
  return TextProjection(
    texts.video_projection, nothing, nothing, scale or texts.logit_scale, 0.0
  )


def mean_features(sequence: np.ndarray, segments: np.ndarray) -> np.ndarray:
  """Averages features (t, d) over segments (k, 2) in grid units: (k, d).

  Averages the steps within the segment, or takes the nearest one.
  """
  width = sequence.shape[1]
  total = np.concatenate(
    [np.zeros((1, width)), np.cumsum(sequence, axis=0, dtype=np.float64)]
  )
  last = len(sequence) - 1
  first = np.clip(np.ceil(segments[:, 0]), 0, last).astype(np.int64)
  stop = np.clip(np.floor(segments[:, 1]), 0, last).astype(np.int64) + 1
  nearest = np.clip(np.rint(segments.mean(axis=1)), 0, last).astype(np.int64)
  first = np.where(stop > first, first, nearest)
  stop = np.where(stop > first, stop, first + 1)
  return (total[stop] - total[first]) / (stop - first)[:, None]


def collect(
  infos: Iterable[ExampleInfo], sequences: Mapping[str, features.VideoFeatures]
) -> Segments:
  """Collects the annotated segments of videos with features."""
  means, labels = [], []
  for info in infos:
    if info.id in sequences and len(info.labels):
      video = sequences[info.id]
      spans = video.grid.to_grid(info.segments.astype(np.float64))
      means.append(mean_features(video.features, spans))
      labels.append(np.asarray(info.labels))
  if not means:
    raise ValueError("no video has both features and labelled segments")
  return Segments(np.concatenate(means), np.concatenate(labels))


def fit(
  segments: Segments, texts: np.ndarray, *, classes: Sequence[int], ridge: float
) -> TextProjection:
  """Fits the regression on the segments of `classes`.

  Raises:
    ValueError: if there is no segment of these classes.
  """
  segments = segments.of(classes)
  if not len(segments.labels):
    raise ValueError("no labelled segment of a seen class to learn from")
  centre = texts[list(classes)].mean(axis=0)
  targets = class_texts.unit(texts - centre)[segments.labels].astype(np.float64)
  mean = segments.features.mean(axis=0)
  deviation = segments.features.std(axis=0)
  deviation = np.where(deviation > 1e-6, deviation, 1.0)
  x = (segments.features - mean) / deviation
  middle = targets.mean(axis=0)
  gram = x.T @ x / len(x) + ridge * np.eye(x.shape[1])
  kernel = np.linalg.solve(gram, x.T @ (targets - middle) / len(x))
  kernel = kernel / deviation[:, None]
  return TextProjection(
    kernel=kernel.astype(np.float32),
    offset=(middle - mean @ kernel).astype(np.float32),
    centre=centre.astype(np.float32),
    scale=1.0,
    seen_penalty=0.0,
  )


class Fold(NamedTuple):
  """Segments to train and to validate on, some of unseen classes."""

  train: Segments
  val: Segments
  seen: tuple[int, ...]
  unseen: tuple[int, ...]


def folds_of(
  even: Segments, odd: Segments, *, seen: Sequence[int]
) -> list[Fold]:
  """Makes folds in which every seen class is held out once.

  Args:
    even: segments of one half of the training videos.
    odd: those of the other half.
  """
  num_folds = min(_NUM_FOLDS, len(seen))
  return [
    Fold(
      even,
      odd,
      tuple(c for i, c in enumerate(seen) if i % num_folds != fold),
      tuple(seen[fold::num_folds]),
    )
    for fold in range(num_folds)
  ]


class Choice(NamedTuple):
  ridge: float
  scale: float
  seen_penalty: float


def choose(
  folds: Sequence[Fold], texts: np.ndarray, *, top_classes: int
) -> Choice:
  """Chooses the best options for seen and unseen classes of the folds.

  Raises:
    ValueError: if a fold has no segment of seen or of unseen classes.
  """
  total: dict[Choice, float] = dict.fromkeys(
    itertools.starmap(Choice, itertools.product(RIDGES, SCALES, PENALTIES)), 0.0
  )
  for fold in folds:
    classes = (*fold.seen, *fold.unseen)
    val = fold.val.of(classes)
    place = {code: i for i, code in enumerate(classes)}
    labels = np.array([place[code] for code in val.labels.tolist()], int)
    seen_mask = np.arange(len(classes)) < len(fold.seen)
    for ridge in RIDGES:
      space = fit(fold.train, texts, classes=fold.seen, ridge=ridge)
      for scale, penalty in itertools.product(SCALES, PENALTIES):
        share = space._replace(scale=scale, seen_penalty=penalty).probabilities(
          val.features, texts[list(classes)], seen_mask=seen_mask
        )
        total[Choice(ridge, scale, penalty)] += balanced_precision(
          share, labels, seen_mask=seen_mask, top_classes=top_classes
        )
  return max(total, key=total.__getitem__)


def balanced_precision(
  share: np.ndarray,
  labels: np.ndarray,
  *,
  seen_mask: np.ndarray,
  top_classes: int,
) -> float:
  """Computes the harmonic mean of the mAP of seen and unseen classes.

  For each class, segments are ranked by its probability, among those that have
  it in their `top_classes` (0: all).

  Raises:
    ValueError: there is no segment of a seen, or of an unseen class.
  """
  num_classes = share.shape[1]
  best = best_classes(share, top_classes)
  row = np.repeat(np.arange(len(share)), best.shape[1])
  owner = best.reshape(-1)
  order = np.lexsort((-share[row, owner], owner))
  row, owner = row[order], owner[order]
  count = np.bincount(labels, minlength=num_classes)
  precision = matching.average_precision(
    (labels[row] == owner)[:, None],
    owner,
    num_positives=np.maximum(count, 1),
    interpolated=True,
  )[:, 0]
  parts = [precision[mask & (count > 0)] for mask in (seen_mask, ~seen_mask)]
  if not all(map(len, parts)):
    raise ValueError(
      "seen and unseen classes cannot be balanced: there is no segment of a "
      "seen, or of an unseen class; give the split more classes or videos"
    )
  seen, unseen = (part.mean() for part in parts)
  return 2 * seen * unseen / max(seen + unseen, 1e-12)


def best_classes(share: np.ndarray, top_classes: int) -> np.ndarray:
  """Returns the most probable classes (k, n), best first; 0 for all."""
  count = min(top_classes or share.shape[1], share.shape[1])
  return np.argsort(-share, axis=1, kind="stable")[:, :count]


def save(path: locations.Location, space: TextProjection) -> None:
  arrays.write_npz(path, space._asdict())


def load(path: locations.Location) -> TextProjection:
  """Loads a file written by `save`.

  Raises:
    FileNotFoundError: the file is missing: an earlier revision trained the run.
  """
  if not path.is_file():
    raise FileNotFoundError(
      f"{path} is missing: an earlier revision of clap_jax trained this "
      "open-vocabulary run. Run its `clap train` again, in a new directory."
    )
  with arrays.open_npz(path) as archive:
    return TextProjection(
      kernel=archive["kernel"],
      offset=archive["offset"],
      centre=archive["centre"],
      scale=float(archive["scale"]),
      seen_penalty=float(archive["seen_penalty"]),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroShotClassifier:
  """A zero-shot classifier of segments by class names."""

  space: TextProjection
  vectors: Callable[[Sequence[str]], np.ndarray]  # names -> (c, p)
  seen: frozenset[str]  # names that get the penalty
  top_classes: int  # per segment; 0: all

  def best(
    self, sequence: np.ndarray, segments: np.ndarray, names: Sequence[str]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best classes (k, n) and probabilities of segments (k, 2)."""
    share = self.space.probabilities(
      mean_features(sequence, segments),
      self.vectors(names),
      seen_mask=np.isin(names, list(self.seen)),
    )
    best = best_classes(share, self.top_classes)
    return best, np.take_along_axis(share, best, axis=1)


def classified(
  proposals: tables.DetectionTable,
  sequences: Mapping[str, features.VideoFeatures],
  *,
  classifier: ZeroShotClassifier,
  names: Sequence[str],
) -> tables.DetectionTable:
  """Labels every proposal with its best classes out of `names`.

  The score is that of the proposal times the class probability.

  Args:
    proposals: segments with scores; labels are ignored.
  """
  columns: dict[str, list[np.ndarray]] = {
    key: [] for key in ("video", "label", "start_sec", "end_sec", "score")
  }
  for code in np.unique(proposals.video):
    rows = np.flatnonzero(proposals.video == code)
    video = sequences[proposals.video_names[code]]
    best, share = classifier.best(
      video.features, video.grid.to_grid(proposals.segments[rows]), names
    )
    count = best.shape[1]
    columns["video"].append(np.repeat(proposals.video[rows], count))
    columns["label"].append(best.reshape(-1))
    for key in ("start_sec", "end_sec"):
      columns[key].append(np.repeat(getattr(proposals, key)[rows], count))
    columns["score"].append(
      (proposals.score[rows][:, None] * share).reshape(-1)
    )
  joined = {
    key: np.concatenate(parts) if parts else np.zeros(0, np.int64)
    for key, parts in columns.items()
  }
  return tables.DetectionTable(
    video_names=proposals.video_names, label_names=tuple(names), **joined
  )
