"""Evaluates open-vocabulary localization: seen and unseen classes."""

import functools
from collections.abc import Sequence

import numpy as np

from clap_jax.data import class_splits, training_history
from clap_jax.data.clips import LABEL_PROMPTS
from clap_jax.evaluation import localization, zero_shot_classifier
from clap_jax.evaluation import predictor as predictor_lib
from clap_jax.metrics import detection
from clap_jax.storage import locations
from clap_jax.training import mesh as mesh_lib


class Evaluator:
  """mAP of parameters on a split: of seen and of unseen classes."""

  def __init__(
    self,
    config,
    reader,
    split: class_splits.ClassSplit,
    task,
    *,
    naming: zero_shot_classifier.ZeroShotClassifier,
  ):
    self._config = config
    self._reader = reader
    self._split = split
    self._naming = naming
    self._protocol = detection.protocol_named(config.protocol)
    self._predictor = predictor_lib.Predictor(
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
      zero_shot_classifier.classified, found, sequences, naming=self._naming
    )
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
