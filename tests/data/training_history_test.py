"""What an encoder has met, stage by stage, against a class split."""

import pytest

from clap_jax.data import class_leakage, class_splits, training_history

SPLIT = class_splits.ClassSplit(
  "x", ("a jump",), ("b run",), ("skipping rope",)
)


def stage(before, **changes):
  facts = {
    "dataset": "videos",
    "classes": ("a jump",),
    "hidden": ("b run", "skipping rope"),
    "reads_captions": True,
  }
  return training_history.after_stage(before, **facts | changes)


def test_facts_add_up_over_the_stages():
  first = stage(None)
  assert first["seen_classes"] == ["a jump"]
  assert training_history.problem(first, SPLIT) is None
  assert stage(first) == first, "the same again is nothing new"
  other = {"dataset": "others", "classes": ("dance",), "hidden": ()}
  labels_only = stage(first, **other, reads_captions=False)
  assert labels_only["seen_classes"] == ["a jump", "dance"]
  assert training_history.problem(labels_only, SPLIT) is None
  last = stage(stage(first, **other))
  assert "captions of others" in training_history.problem(last, SPLIT)


def test_unrecorded_stages_stay_unknown():
  """Also where later stages, on other classes, do say."""
  later = stage({}, classes=("dance",))
  assert later == {"seen_classes": None, "captions": None}
  assert "classes" in training_history.problem(later, SPLIT)
  later = stage({"seen_classes": ["dance"]})
  assert later["captions"] is None
  assert "captions" in training_history.problem(later, SPLIT)


@pytest.mark.parametrize(
  "name", ["skipping rope", "Rope skipping", "He skips the rope"]
)
def test_classes_of_other_datasets_are_compared_by_words(name):
  seen = stage(None, dataset="others", classes=(name,))
  assert repr(name) in training_history.problem(seen, SPLIT)


@pytest.mark.parametrize("name", class_splits.CLASS_SPLITS)
def test_the_base_classes_of_a_split_name_no_novel_one(name):
  """Else an encoder that saw those alone would lose captions it may read."""
  split = class_splits.class_split(name)
  for known in (*split.base, *split.validation):
    assert not class_leakage.names_a_class(known, split.novel), known
