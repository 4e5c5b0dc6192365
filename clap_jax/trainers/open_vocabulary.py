"""Localizes classes by their names (open vocabulary).

Where: the anchor-free localizer, trained on the seen classes as one class,
"action". What: a text tower. A proposal's features are compared with the mean
text of each class name under the prompt templates, in the space that clips and
texts share or in one learned on the seen classes (see text_space.py); the
softmax over the classes asked for is the class score.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from clap_jax import config as config_lib
from clap_jax.data import class_splits, features, seen_classes
from clap_jax.data.clips import LABEL_PROMPTS
from clap_jax.metrics import detection, tables
from clap_jax.storage import locations
from clap_jax.trainers import (
  abstract,
  feature_data,
  localization,
  localizers,
  results,
  running,
  text_models,
  text_projection,
  training_history,
)
from clap_jax.trainers import metadata as metadata_lib
from clap_jax.training import evaluation, processes
from clap_jax.training import mesh as mesh_lib

MODEL_FILE = localization.MODEL_FILE
SPACE_FILE = "text_space.npz"  # in the workdir, of a learned projection
_PROPOSAL_LABELS = ("action",)


@dataclasses.dataclass(frozen=True)
class TextClasses:
  """The seen classes, and the options of zero-shot classification."""

  class_split: str  # a name or a file, see data/class_splits.py
  # Labels per proposal, 0 for all: a class is ranked among the proposals that
  # have it, so that few labels leave unseen classes out.
  top_classes: int = config_lib.ranged(minimum=0)
  text_scale: float = config_lib.ranged(minimum=0.0)  # 0: the towers' own
  # A directory of `clap import` with a text tower; "": that of the features.
  text_model: str = ""
  # Features to texts: by the towers' own matrix, or learned on seen classes.
  projection: str = config_lib.choice("towers", "learned", default="towers")

  def __post_init__(self):
    if self.text_model and self.projection == "towers":
      raise ValueError(
        f"classes.text_model is {self.text_model!r}, whose texts the towers' "
        "own projection does not meet; set classes.projection to 'learned'."
      )
    if self.text_scale and self.projection == "learned":
      raise ValueError(
        f"classes.text_scale is {self.text_scale}, but with a learned "
        "projection it is chosen; leave it at 0."
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenVocabularyConfig(localizers.LocalizationConfig):
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


def config_class(config) -> type[OpenVocabularyConfig]:
  """The dataclass of this trainer's configs."""
  del config
  return OpenVocabularyConfig


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
  workdir = locations.at(workdir)
  reader = feature_data.FeatureReader(config.data)
  split = _class_split(config, reader)
  reader.check(reader.num_segments, what="labelled segment")
  source = seen_classes.SeenClassesSource(
    reader.examples(config.data.train_split),
    reader.features(config.data.train_split),
    options=reader.options,
    hidden_classes=frozenset(
      _class_ids(reader, set(reader.dataset.label_names) - set(split.base))
    ),
  )
  facts = localizers.model_metadata(
    config,
    _PROPOSAL_LABELS,
    source.feature_width,
    standardization=reader.standardization(),
  )
  task = localizers.make_task(facts, loss_config=config.loss)
  vectors = _dataset_vectors(config.classes, reader)
  space, facts["text_space"] = _make_space(config, reader, split, vectors)
  naming = _naming(config, reader, split, space=space, vectors=vectors)
  score = _Score(config, reader, split, task, naming=naming)
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
  params, average = running.trained(state)
  facts |= average | metadata_lib.encoder_metadata(reader.extraction)
  facts |= {
    "class_names": list(reader.dataset.label_names),
    "text_classes": dataclasses.asdict(config.classes),
    "seen_classes": list(split.base),
  }
  if processes.is_first():
    text_projection.save(workdir / SPACE_FILE, space)
  metadata_lib.write(workdir / MODEL_FILE, facts)
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
  _, task, params = running.restored(
    workdir, MODEL_FILE, localizers.make_task, decode=config.decode
  )
  split = split or config.data.eval_split
  reader = feature_data.FeatureReader(config.data)
  reader.check(reader.num_segments, what="labelled segment", split=split)
  class_split = _class_split(config, reader)
  naming = _naming(
    config,
    reader,
    class_split,
    space=text_projection.load(locations.at(workdir) / SPACE_FILE),
    vectors=_dataset_vectors(config.classes, reader),
  )
  score = _Score(config, reader, class_split, task, naming=naming)
  return score.rows(params, split)[0]


def _dataset_vectors(classes: TextClasses, reader) -> np.ndarray:
  """Vectors (c, p) of the dataset's class names, by class number."""
  names = reader.dataset.label_names
  if classes.text_model:
    return text_models.class_vectors(classes.text_model)(names)
  texts = reader.class_texts
  return texts.vectors[[texts.names.index(name) for name in names]]


def _make_space(
  config, reader, split: class_splits.ClassSplit, vectors: np.ndarray
) -> tuple[text_projection.TextProjection, dict]:
  """The space, and what was chosen for it, by which classes."""
  classes, data = config.classes, config.data
  if classes.projection == "towers":
    space = text_projection.of_towers(
      reader.class_texts, scale=classes.text_scale
    )
    return space, {"scale": float(space.scale), "seen_penalty": 0.0}
  seen = _class_ids(reader, split.base)
  infos = reader.examples(data.train_split)
  loaded = reader.features(data.train_split)
  segments = text_projection.collect(infos, loaded)
  if split.validation and data.selection_split is not None:
    unseen = _class_ids(reader, split.validation)
    selection = text_projection.collect(
      reader.examples(data.selection_split),
      reader.features(data.selection_split),
    )
    judged = selection.of([*seen, *unseen]).and_also(segments.of(unseen))
    folds = [text_projection.Fold(segments, judged, seen, unseen)]
    chosen_on = "the validation classes"
  else:
    halves = [
      text_projection.collect(infos[part::2], loaded) for part in (0, 1)
    ]
    folds = text_projection.folds_of(*halves, seen=seen)
    chosen_on = f"seen classes held out in turn, {len(folds)} folds"
  choice = text_projection.choose(
    folds, vectors, top_classes=classes.top_classes
  )
  space = text_projection.fit(
    segments, vectors, classes=seen, ridge=choice.ridge
  )
  space = space._replace(scale=choice.scale, seen_penalty=choice.seen_penalty)
  return space, choice._asdict() | {"chosen_on": chosen_on}


def _class_ids(reader, names) -> tuple[int, ...]:
  known = list(reader.dataset.label_names)
  return tuple(sorted(known.index(name) for name in names))


def _naming(config, reader, split, *, space, vectors) -> "ZeroShotClassifier":
  names = list(reader.dataset.label_names)
  return ZeroShotClassifier(
    space,
    lambda asked: vectors[[names.index(name) for name in asked]],
    frozenset(split.base),
    config.classes.top_classes,
  )


def _class_split(config, reader) -> class_splits.ClassSplit:
  return class_splits.class_split(
    config.classes.class_split, label_names=reader.dataset.label_names
  )


class _Score:
  """mAP of parameters on a split: of seen and of unseen classes."""

  def __init__(
    self,
    config,
    reader,
    split: class_splits.ClassSplit,
    task,
    *,
    naming: "ZeroShotClassifier",
  ):
    self._config = config
    self._reader = reader
    self._split = split
    self._naming = naming
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
    label = functools.partial(classified, found, sequences, naming=self._naming)
    table = label(names=self._reader.dataset.label_names)
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
    rows = localization.result_rows(
      metrics,
      config=config,
      reader=self._reader,
      split=split,
      table=table,
      class_source=self._class_source(),
      nms=f"Gaussian soft-NMS, sigma {config.decode.sigma}, class-agnostic",
      top_k=f"{config.decode.num_kept} proposals per video, "
      f"{config.classes.top_classes or 'all'} classes each",
      notes=(
        f"class split {names.name}: the localizer has seen {len(names.base)} "
        f"classes, {len(names.novel)} are unseen: {', '.join(names.novel)}",
        self._encoder_note(),
      ),
    )
    return rows, table

  def _class_source(self) -> str:
    encoder = self._reader.extraction["encoder"]
    classes, space = self._config.classes, self._naming.space
    source = f"text tower of encoder {encoder!r}"
    if classes.text_model:
      source = f"text tower of {locations.at(classes.text_model).name!r}"
    source += f", mean of {len(LABEL_PROMPTS)} prompts per class name"
    if classes.projection == "towers":
      return f"{source}, in the towers' own space"
    return (
      f"{source}; projection learned on the seen classes, scale "
      f"{space.scale:g}, seen classes lose {space.seen_penalty:g}"
    )

  def _encoder_note(self) -> str:
    """Whether the encoder knew the unseen classes, as far as is known."""
    training = self._reader.extraction.get("training", {})
    problem = training_history.problem(training, self._split)
    return problem or "this encoder was not trained on the unseen classes"


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroShotClassifier:
  """Classifies segments by class names: a zero-shot classifier."""

  space: text_projection.TextProjection
  vectors: Callable[[Sequence[str]], np.ndarray]  # names -> (c, p)
  seen: frozenset[str]  # names that lose the penalty
  top_classes: int  # per segment; 0: all

  def best(
    self, sequence: np.ndarray, segments: np.ndarray, names: Sequence[str]
  ) -> tuple[np.ndarray, np.ndarray]:
    """The best classes (k, n) of segments (k, 2) in grid units, and shares."""
    share = self.space.probabilities(
      text_projection.mean_features(sequence, segments),
      self.vectors(names),
      seen_mask=np.isin(names, list(self.seen)),
    )
    best = text_projection.best_classes(share, self.top_classes)
    return best, np.take_along_axis(share, best, axis=1)


def classified(
  proposals: tables.DetectionTable,
  sequences: Mapping[str, features.VideoFeatures],
  *,
  naming: ZeroShotClassifier,
  names: Sequence[str],
) -> tables.DetectionTable:
  """Gives every proposal its best classes out of `names`.

  The score is the proposal's times the class's share.

  Args:
    proposals: segments with scores; their labels are ignored.
    sequences: features of their videos.
    naming: how classes are told.
    names: the classes that compete.
  """
  columns: dict[str, list[np.ndarray]] = {
    key: [] for key in ("video", "label", "start_sec", "end_sec", "score")
  }
  for code in np.unique(proposals.video):
    rows = np.flatnonzero(proposals.video == code)
    video = sequences[proposals.video_names[code]]
    best, share = naming.best(
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
