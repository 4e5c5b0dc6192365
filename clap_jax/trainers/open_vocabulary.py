"""Localizes classes by their names (open vocabulary).

The anchor-free localizer, trained on the seen classes as one class "action",
finds the segments. A zero-shot classifier names them: a proposal's features are
compared with the mean text of each class name under the prompt templates, in
the space that clips and texts share or in one learned on the seen classes; the
softmax over the requested classes is the class score.
"""

import dataclasses

import numpy as np

from clap_jax import config as config_lib
from clap_jax.data import class_splits, feature_reader, seen_classes
from clap_jax.evaluation import open_vocabulary as evaluation
from clap_jax.evaluation import text_models, zero_shot_classifier
from clap_jax.storage import locations
from clap_jax.storage import metadata as metadata_lib
from clap_jax.trainers import abstract, fit, localization, localizers
from clap_jax.training import processes

MODEL_FILE = localization.MODEL_FILE
SPACE_FILE = "text_space.npz"  # in the workdir, of a learned projection
_PROPOSAL_LABELS = ("action",)


@dataclasses.dataclass(frozen=True)
class TextClasses:
  """Options of the seen classes and of zero-shot classification."""

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
        "own projection does not support; set classes.projection to 'learned'."
      )
    if self.text_scale and self.projection == "learned":
      raise ValueError(
        f"classes.text_scale is {self.text_scale}, but with a learned "
        "projection it is chosen; leave it at 0."
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenVocabularyConfig(localizers.LocalizationConfig):
  """Config of `clap train` for open-vocabulary localization."""

  classes: TextClasses

  def __post_init__(self):
    super().__post_init__()
    class_splits.class_split(self.classes.class_split)
    if self.classifier.path:
      raise ValueError(
        f"classifier.path is {self.classifier.path!r}, but classes come from "
        "the text tower here; leave it empty."
      )


def abstract_run(
  config: OpenVocabularyConfig, facts: abstract.DataFacts
) -> abstract.AbstractRun:
  """Returns the task and its batch shapes; see trainers/abstract.py."""
  return localization.abstract_run(
    config, dataclasses.replace(facts, num_classes=len(_PROPOSAL_LABELS))
  )


def train(config: OpenVocabularyConfig, workdir) -> list[dict]:
  """Trains or resumes the run in `workdir`; returns its result rows."""
  workdir = locations.at(workdir)
  reader = feature_reader.FeatureReader(config.data)
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
  evaluator = _evaluator(
    config, reader, task, split, space=space, vectors=vectors
  )
  params, average = fit.fit(
    task,
    config,
    workdir=workdir,
    source=source,
    measure=lambda params, name: evaluator(
      params, name, unseen=split.validation
    )[0],
    title="localization, open vocabulary",
  )
  facts |= average | metadata_lib.encoder_metadata(reader.extraction)
  facts |= {
    "class_names": list(reader.dataset.label_names),
    "text_classes": dataclasses.asdict(config.classes),
    "seen_classes": list(split.base),
  }
  if processes.is_first():
    zero_shot_classifier.save(workdir / SPACE_FILE, space)
  fit.write_metadata(workdir / MODEL_FILE, facts)
  return evaluator.write(workdir, params, config.data.eval_split)


def evaluate(
  config: OpenVocabularyConfig, workdir, *, split=None
) -> list[dict]:
  """Evaluates a finished run, by default on its `eval_split`."""
  _, task, params = fit.restored(
    workdir, MODEL_FILE, localizers.make_task, decode=config.decode
  )
  split = split or config.data.eval_split
  reader = feature_reader.FeatureReader(config.data)
  reader.check(reader.num_segments, what="labelled segment", split=split)
  evaluator = _evaluator(
    config,
    reader,
    task,
    _class_split(config, reader),
    space=zero_shot_classifier.load(locations.at(workdir) / SPACE_FILE),
    vectors=_dataset_vectors(config.classes, reader),
  )
  return evaluator.rows(params, split)[0]


def _dataset_vectors(classes: TextClasses, reader) -> np.ndarray:
  """Returns vectors (c, p) of class names, by class number."""
  names = reader.dataset.label_names
  if classes.text_model:
    return text_models.class_vectors(classes.text_model)(names)
  texts = reader.class_texts
  return texts.vectors[[texts.names.index(name) for name in names]]


def _make_space(
  config, reader, split: class_splits.ClassSplit, vectors: np.ndarray
) -> tuple[zero_shot_classifier.TextProjection, dict]:
  """Makes the shared space; returns it with the choices made for it."""
  classes, data = config.classes, config.data
  if classes.projection == "towers":
    space = zero_shot_classifier.of_towers(
      reader.class_texts, scale=classes.text_scale
    )
    return space, {"scale": float(space.scale), "seen_penalty": 0.0}
  seen = _class_ids(reader, split.base)
  infos = reader.examples(data.train_split)
  loaded = reader.features(data.train_split)
  segments = zero_shot_classifier.collect(infos, loaded)
  if split.validation and data.selection_split is not None:
    unseen = _class_ids(reader, split.validation)
    selection = zero_shot_classifier.collect(
      reader.examples(data.selection_split),
      reader.features(data.selection_split),
    )
    val = selection.of([*seen, *unseen]).and_also(segments.of(unseen))
    folds = [zero_shot_classifier.Fold(segments, val, seen, unseen)]
    chosen_on = "the validation classes"
  else:
    halves = [
      zero_shot_classifier.collect(infos[part::2], loaded) for part in (0, 1)
    ]
    folds = zero_shot_classifier.folds_of(*halves, seen=seen)
    chosen_on = f"seen classes held out in turn, {len(folds)} folds"
  choice = zero_shot_classifier.choose(
    folds, vectors, top_classes=classes.top_classes
  )
  space = zero_shot_classifier.fit(
    segments, vectors, classes=seen, ridge=choice.ridge
  )
  space = space._replace(scale=choice.scale, seen_penalty=choice.seen_penalty)
  return space, choice._asdict() | {"chosen_on": chosen_on}


def _class_ids(reader, names) -> tuple[int, ...]:
  known = list(reader.dataset.label_names)
  return tuple(sorted(known.index(name) for name in names))


def _evaluator(
  config, reader, task, classes: class_splits.ClassSplit, *, space, vectors
) -> evaluation.Evaluator:
  names = list(reader.dataset.label_names)
  classifier = zero_shot_classifier.ZeroShotClassifier(
    space,
    lambda asked: vectors[[names.index(name) for name in asked]],
    frozenset(classes.base),
    config.classes.top_classes,
  )
  return evaluation.Evaluator(
    config, reader, task, classes=classes, classifier=classifier
  )


def _class_split(config, reader) -> class_splits.ClassSplit:
  return class_splits.class_split(
    config.classes.class_split, label_names=reader.dataset.label_names
  )
