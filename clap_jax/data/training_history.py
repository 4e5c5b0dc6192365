"""Tracks which classes and captions an encoder has been trained on.

Few-shot and open-vocabulary results require classes that no stage has trained
on. The history of a stage is stored with its parameters, carried over to every
stage that starts from them and to their features, and compared with the class
split when a head is evaluated.
"""

from collections.abc import Collection, Mapping
from typing import Any

from clap_jax.data import class_leakage, class_splits


def after_stage(
  before: Mapping[str, Any] | None,
  *,
  dataset: str,
  classes: Collection[str],
  hidden: Collection[str],
  reads_captions: bool,
) -> dict[str, Any]:
  """Extends a training history by one stage.

  Args:
    before: metadata of the run that the stage started from; {} if it has none;
      None for random initial parameters.
    dataset: name of the stage's training dataset.
    classes: classes whose segments it saw.
    hidden: classes whose segments and names it did not see.
    reads_captions: whether it trained on captions written by people.

  Returns:
    {"seen_classes": names, "captions": [{"dataset", "hidden"}]}, with None if
      an earlier stage has no history.
  """
  start = {"seen_classes": [], "captions": []} if before is None else before
  seen, captions = start.get("seen_classes"), start.get("captions")
  if seen is not None:
    seen = sorted({*seen, *classes})
  if captions is not None and reads_captions:
    read = {"dataset": dataset, "hidden": sorted(hidden)}
    captions = [*captions, *([] if read in captions else [read])]
  return {"seen_classes": seen, "captions": captions}


def problem(
  training: Mapping[str, Any], split: class_splits.ClassSplit
) -> str | None:
  """Describes why an encoder may have seen novel classes; None if it has not.

  Classes of other datasets are compared by their words, "Rope skipping" with
  "skipping rope"; captions are assumed to mention every class not hidden.
  """
  seen, captions = training.get("seen_classes"), training.get("captions")
  if seen is None:
    return "the classes this encoder was trained on are not recorded"
  other = set(seen) - {*split.base, *split.validation}
  if novel := sorted(
    n for n in other if class_leakage.names_a_class(n, split.novel)
  ):
    return f"this encoder was trained on the novel classes {novel}"
  if captions is None:
    return "the captions this encoder was trained on are not recorded"
  for read in captions:
    if not set(split.novel) <= set(read["hidden"]):
      return (
        f"this encoder was trained on captions of {read['dataset']} from which "
        "the novel classes were not hidden"
      )
  return None
