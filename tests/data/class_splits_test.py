"""Class splits are data: complete, disjoint, in the datasets' own spelling."""

import json

import pytest

from clap_jax.data import class_splits
from tfds_builders.motion_sprites import verbs


@pytest.mark.parametrize("name", class_splits.CLASS_SPLITS)
def test_no_class_stands_in_two_parts(name):
  split = class_splits.class_split(name)
  names = [*split.base, *split.validation, *split.novel]
  assert len(set(names)) == len(names)
  assert set(split.hidden) == {*split.validation, *split.novel}


def test_the_sprites_split_is_that_of_the_builder():
  split = class_splits.class_split(
    "motion_sprites", label_names=verbs.CLASS_NAMES
  )
  for part, names in verbs.CLASS_SPLITS.items():
    assert getattr(split, part) == names


def test_activitynet_is_split_as_published(shared_data):
  split = class_splits.class_split("activitynet_160_20_20")
  folder = shared_data / "fewshot_splits" / "fewshotQAT"
  files = {"base": "base", "validation": "fs_val", "novel": "fs_test"}
  for part, file in files.items():
    text = (folder / f"{file}.txt").read_text()
    published = {name.strip() for name in text.split(",")}
    assert set(getattr(split, part)) == published
    assert len(published) == {"base": 160}.get(part, 20)
  annotations = json.loads(
    (
      shared_data / "activitynet_v1.3" / "activity_net.v1-3.rebuilt.json"
    ).read_text()
  )
  labels = {
    entry["label"]
    for video in annotations["database"].values()
    for entry in video["annotations"]
  }
  class_splits.class_split("activitynet_160_20_20", label_names=labels)


def test_a_file_of_three_lists(tmp_path):
  path = tmp_path / "mine.json"
  path.write_text('{"base": ["a"], "validation": [], "novel": ["b"]}')
  split = class_splits.class_split(str(path), label_names=["a", "b", "c"])
  assert (split.base, split.validation, split.novel) == (("a",), (), ("b",))
  with pytest.raises(ValueError, match=r"lacks 1 of its classes \(b\)"):
    class_splits.class_split(str(path), label_names=["a"])


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ('{"base": ["a"], "validation": [], "novel": ["a"]}', "stand in it twice"),
    ('{"base": ["a"], "validation": [], "novel": []}', "base and novel"),
    ('{"base": ["a"], "novel": ["b"]}', "expected lists of names"),
    ('{"base": "a", "validation": [], "novel": ["b"]}', "expected lists"),
    ("base", "is no JSON"),
  ],
)
def test_bad_files(tmp_path, text, message):
  path = tmp_path / "mine.json"
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    class_splits.class_split(str(path))


def test_unknown_names_list_the_choices():
  with pytest.raises(ValueError, match="motion_sprites"):
    class_splits.class_split("kinetics")
  with pytest.raises(FileNotFoundError, match="nowhere"):
    class_splits.class_split("nowhere.json")
