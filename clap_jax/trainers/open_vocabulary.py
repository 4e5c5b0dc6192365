"""Localization of classes by their names alone, never trained or not.

Where: the anchor-free localizer, trained on the seen classes as one class,
"action". What: the text tower. A proposal's features, in the space that clips
and texts share, are compared with the mean text of each class name under the
prompt templates; the softmax over the classes asked for is the class score.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from clap_jax import config as config_lib
from clap_jax.data import class_splits, features, seen_classes
from clap_jax.data.clips import LABEL_PROMPTS
from clap_jax.metrics import detection, tables
from clap_jax.trainers import (
  abstract,
  feature_data,
  localization,
  results,
  running,
)
from clap_jax.trainers import facts as facts_lib
from clap_jax.training import checkpoint, evaluation, processes
from clap_jax.training import mesh as mesh_lib

MODEL_FILE = localization.MODEL_FILE
_PROPOSAL_LABELS = ("action",)


@dataclasses.dataclass(frozen=True)
class TextClasses:
  """Which classes are seen, and how texts become class scores."""

  class_split: str  # a name or a file, see data/class_splits.py
  top_classes: int = config_lib.ranged(minimum=1)  # labels per proposal
  text_scale: float = config_lib.ranged(minimum=0.0)  # 0: the towers' own


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenVocabularyConfig(localization.LocalizationConfig):
  """Everything `clap train` reads of an open-vocabulary config."""

  classes: TextClasses

  def __post_init__(self):
    super().__post_init__()
    class_splits.class_split(self.classes.class_split)
    if self.classifier.path:
      raise ValueError(
        f"classifier.path is {self.classifier.path!r}, but classes come from "
        "the text tower here; leave it empty."
      )


def resolve(config) -> OpenVocabularyConfig:
  return config_lib.resolve(OpenVocabularyConfig, config)


def abstract_run(
  config: OpenVocabularyConfig, facts: abstract.DataFacts
) -> abstract.AbstractRun:
  """The task and the shapes of its batch; see trainers/abstract.py."""
  return localization.abstract_run(
    config, dataclasses.replace(facts, num_classes=len(_PROPOSAL_LABELS))
  )


def train(config: OpenVocabularyConfig, workdir) -> list[dict]:
  """Trains, or goes on training, in `workdir`; returns its result rows."""
  workdir = pathlib.Path(workdir)
  reader = feature_data.FeatureReader(config.data)
  split = _class_split(config, reader)
  source = seen_classes.SeenClassesSource(
    reader.examples(config.data.train_split),
    reader.features(config.data.train_split),
    options=reader.options,
    hidden_classes=reader.dataset.class_ids(
      sorted(set(reader.dataset.label_names) - set(split.base))
    ),
  )
  facts = localization.model_facts(
    config,
    _PROPOSAL_LABELS,
    source.feature_width,
    standardization=reader.standardization(),
  )
  task = localization.make_task(facts, loss_config=config.loss)
  score = _Score(config, reader, split, task)
  state = running.fit(
    task,
    config,
    workdir=workdir,
    source=source,
    measure=lambda params, name: score(params, name, unseen=split.validation)[
      0
    ],
    title="localization, open vocabulary",
  )
  params = state.params if state.ema is None else state.ema
  facts |= {
    "use_ema": state.ema is not None,
    "class_names": list(reader.dataset.label_names),
    "text_classes": dataclasses.asdict(config.classes),
    "seen_classes": list(split.base),
  }
  facts_lib.write(workdir / MODEL_FILE, facts)
  rows, table = score.rows(params, config.data.eval_split)
  if processes.is_first():
    localization.write_predictions(
      table, workdir / localization.PREDICTIONS_FILE
    )
  results.write(workdir, rows)
  return rows


def evaluate(
  config: OpenVocabularyConfig, workdir, *, split=None
) -> list[dict]:
  """Result rows of a finished run, by default on its `eval_split`."""
  facts, task = facts_lib.load(workdir, MODEL_FILE, localization.make_task)
  params, _ = checkpoint.restore_params(workdir, use_ema=facts["use_ema"])
  reader = feature_data.FeatureReader(config.data)
  score = _Score(config, reader, _class_split(config, reader), task)
  return score.rows(params, split or config.data.eval_split)[0]


def _class_split(config, reader) -> class_splits.ClassSplit:
  return class_splits.class_split(
    config.classes.class_split, label_names=reader.dataset.label_names
  )


class _Score:
  """mAP of parameters on a split: of seen and of unseen classes."""

  def __init__(self, config, reader, split: class_splits.ClassSplit, task):
    self._config = config
    self._reader = reader
    self._split = split
    self._protocol = detection.protocol_named(config.protocol)
    self._predictor = evaluation.Predictor(
      task.predict,
      mesh=mesh_lib.make_mesh(config.mesh),
      batch_size=config.data.batch_size,
    )

  def __call__(self, params, split: str, *, unseen: Sequence[str]):
    """Metrics and the detections among all classes.

    The metrics are those of the seen and of the unseen classes when all
    classes of the dataset compete for a proposal, of the unseen ones when they
    alone compete ("unseen_alone/..."), and of both together.
    """
    found = localization.detections(
      self._reader,
      self._predictor,
      params,
      split,
      decode=self._config.decode,
    )
    sequences = self._reader.features(split)
    label = functools.partial(
      classified,
      found,
      sequences,
      texts=self._reader.class_texts,
      classes=self._config.classes,
    )
    table = label(names=self._reader.class_texts.names)
    truth = localization.ground_truth(self._reader, split)
    metrics: dict[str, float] = {}
    parts = [
      ("", table, (*self._split.base, *unseen)),
      ("seen/", table, self._split.base),
      ("unseen/", table, unseen),
    ]
    if unseen:
      parts.append(("unseen_alone/", label(names=unseen), unseen))
    for prefix, predictions, names in parts:
      of_part = truth.take(np.isin(truth.label_names, names)[truth.label])
      if len(of_part):
        scores = detection.evaluate(predictions, of_part, self._protocol)
        metrics |= {f"{prefix}{name}": x for name, x in scores.items()}
    return metrics, table

  def rows(self, params, split: str):
    """Result rows and the detections that they score."""
    config, names = self._config, self._split
    metrics, table = self(params, split, unseen=names.novel)
    encoder = self._reader.extraction["encoder"]
    card = self._reader.card(
      split,
      task="detection",
      protocol=config.protocol,
      thresholds=self._protocol.thresholds,
      nms=f"Gaussian soft-NMS, sigma {config.decode.sigma}, class-agnostic",
      top_k=f"{config.decode.num_kept} proposals per video, "
      f"{config.classes.top_classes} classes each",
      class_source=f"text tower of encoder {encoder!r}, mean of "
      f"{len(LABEL_PROMPTS)} prompts per class name",
      seeds=(config.loop.seed,),
      num_predictions=len(table),
      num_ground_truths=len(localization.ground_truth(self._reader, split)),
      notes=(
        f"class split {names.name}: the localizer has seen {len(names.base)} "
        f"classes, {len(names.novel)} are unseen: {', '.join(names.novel)}",
        self._encoder_note(),
      ),
    )
    rows = results.rows_of(
      metrics,
      encoder=encoder,
      seed=config.loop.seed,
      dataset=config.data.dataset,
      split=split,
      task="localization",
      card=card,
    )
    return rows, table

  def _encoder_note(self) -> str:
    """Whether the encoder knew the unseen classes, as far as is known."""
    training = self._reader.extraction.get("training", {})
    seen = training.get("seen_classes")
    if seen is None:
      return "which classes the encoder was trained on is not known"
    known = sorted(set(seen) & set(self._split.novel))
    if known:
      return f"the encoder was trained on unseen classes: {', '.join(known)}"
    return "the encoder was not trained on the unseen classes"


def classified(
  proposals: tables.DetectionTable,
  sequences: Mapping[str, features.VideoFeatures],
  *,
  texts,
  classes: TextClasses,
  names: Sequence[str],
) -> tables.DetectionTable:
  """Gives every proposal its best classes out of `names`.

  The score is the proposal's times the class's probability.

  Args:
    proposals: segments with scores; their labels are ignored.
    sequences: features of their videos.
    texts: a `data.class_texts.ClassTexts` that has all of `names`.
    classes: how many labels, and how sharp.
    names: the classes that compete.
  """
  chosen = [texts.names.index(name) for name in names]
  columns: dict[str, list[np.ndarray]] = {
    key: [] for key in ("video", "label", "start_sec", "end_sec", "score")
  }
  for code in np.unique(proposals.video):
    rows = np.flatnonzero(proposals.video == code)
    video = sequences[proposals.video_names[code]]
    probability = class_probabilities(
      video.features,
      video.grid.to_grid(proposals.segments[rows]),
      texts=texts,
      chosen=chosen,
      text_scale=classes.text_scale,
    )
    count = min(classes.top_classes, len(names))
    best = np.argsort(-probability, axis=1, kind="stable")[:, :count]
    share = np.take_along_axis(probability, best, axis=1)
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


def class_probabilities(
  sequence: np.ndarray,
  segments: np.ndarray,
  *,
  texts,
  chosen: Sequence[int],
  text_scale: float,
) -> np.ndarray:
  """(k, c) probability of each chosen class for segments (k, 2).

  The cosines of the features (t, d) with a class are averaged over the steps
  that lie in the segment, at least the nearest one; the softmax over the
  chosen classes has the scale `text_scale`, or the towers' own if that is 0.
  """
  projected = sequence @ texts.video_projection
  norm = np.linalg.norm(projected, axis=-1, keepdims=True)
  cosine = (projected / np.maximum(norm, 1e-6)) @ texts.vectors[chosen].T
  total = np.concatenate(
    [np.zeros((1, len(chosen))), np.cumsum(cosine, axis=0, dtype=np.float64)]
  )
  last = len(sequence) - 1
  first = np.clip(np.ceil(segments[:, 0]), 0, last).astype(np.int64)
  stop = np.clip(np.floor(segments[:, 1]), 0, last).astype(np.int64) + 1
  nearest = np.clip(np.rint(segments.mean(axis=1)), 0, last).astype(np.int64)
  first = np.where(stop > first, first, nearest)
  stop = np.where(stop > first, stop, first + 1)
  mean = (total[stop] - total[first]) / (stop - first)[:, None]
  logits = mean * (text_scale or texts.logit_scale)
  weight = np.exp(logits - logits.max(axis=1, keepdims=True))
  return weight / weight.sum(axis=1, keepdims=True)
