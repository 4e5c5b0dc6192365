"""Evaluates open-vocabulary localization: seen and unseen classes."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from clap_jax.data import class_splits, training_history
from clap_jax.data.clips import LABEL_PROMPTS
from clap_jax.evaluation import localization, zero_shot_classifier
from clap_jax.metrics import detection
from clap_jax.storage import locations


class Evaluator(localization.Evaluator):
  """Computes the mAP of seen and of unseen classes on a split."""

  def __init__(
    self,
    config: Any,
    reader: Any,
    task: Any,
    *,
    classes: class_splits.ClassSplit,
    classifier: zero_shot_classifier.ZeroShotClassifier,
  ):
    super().__init__(config, reader, task, reader.dataset.label_names)
    self._classes = classes
    self._classifier = classifier

  def __call__(
    self, params, split: str, *, unseen: Sequence[str] | None = None
  ):
    """Returns metrics, and the detections among all classes.

    The metrics are those of the seen and of the unseen classes when all
    classes of the dataset compete for a proposal, of the unseen ones when they
    alone compete ("unseen_alone/..."), and of both together.

    Args:
      params: parameters of the task.
      unseen: unseen classes; None for the novel ones.
    """
    unseen = self._classes.novel if unseen is None else unseen
    label = functools.partial(
      zero_shot_classifier.classified,
      self.find(params, split),
      self._reader.features(split),
      classifier=self._classifier,
    )
    table = label(names=self._reader.dataset.label_names)
    truth = localization.ground_truth(self._reader, split)
    metrics: dict[str, float] = {}
    parts = [
      ("", table, (*self._classes.base, *unseen)),
      ("seen/", table, self._classes.base),
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

  def card_facts(self) -> dict[str, Any]:
    config, names = self._config, self._classes
    training = self._reader.extraction.get("training", {})
    return {
      "class_source": self._class_source(),
      "nms": f"Gaussian soft-NMS, sigma {config.decode.sigma}, class-agnostic",
      "top_k": f"{config.decode.num_kept} proposals per video, "
      f"{config.classes.top_classes or 'all'} classes each",
      "notes": (
        f"class split {names.name}: the localizer has seen {len(names.base)} "
        f"classes, {len(names.novel)} are unseen: {', '.join(names.novel)}",
        training_history.problem(training, names)
        or "this encoder was not trained on the unseen classes",
      ),
    }

  def _class_source(self) -> str:
    encoder = self._reader.extraction["encoder"]
    classes, space = self._config.classes, self._classifier.space
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
