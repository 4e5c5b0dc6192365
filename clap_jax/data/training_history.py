"""Training history of an encoder: the classes and captions it has seen.

Few-shot and open-vocabulary numbers are of classes that nothing has learned
from before. What a stage has seen is written beside its parameters, goes on
into every stage that starts from them and into the features they make, and is
compared with the class split when a head is judged.
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
    before: the facts of the run that the stage started from; {} if it wrote
      none; None for a start from random parameters.
    dataset: that the stage trained on.
    classes: whose segments it saw.
    hidden: classes whose segments and names it did not see.
    reads_captions: whether it learned from sentences that people wrote.

  Returns:
    {"seen_classes": names, "captions": [{"dataset", "hidden"}]}, with None
    where nobody knows because a stage before has not said.
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
  """Describes why an encoder may have seen the novel classes; None if not.

  Classes of other datasets are compared by their words, "Rope skipping" with
  "skipping rope"; captions count as speaking of all that was not hidden.
  """
  seen, captions = training.get("seen_classes"), training.get("captions")
  if seen is None:
    return "what classes this encoder was trained on is not recorded"
  other = set(seen) - {*split.base, *split.validation}
  if novel := sorted(
    n for n in other if class_leakage.names_a_class(n, split.novel)
  ):
    return f"this encoder was trained on the novel classes {novel}"
  if captions is None:
    return "what captions this encoder was trained on is not recorded"
  for read in captions:
    if not set(split.novel) <= set(read["hidden"]):
      return (
        f"this encoder was trained on captions of {read['dataset']} from which "
        "the novel classes were not hidden"
      )
  return None
