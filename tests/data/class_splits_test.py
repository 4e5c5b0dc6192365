"""Class splits are data: complete, disjoint, in the datasets' own spelling."""

import json

import pytest

from clap_jax.data import class_splits
from tfds_builders.motion_sprites import verbs


@pytest.mark.parametrize("name", class_splits.CLASS_SPLITS)
def test_parts_of_a_class_split_are_disjoint(name):
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


@pytest.mark.parametrize(
  ("family", "num_unseen"),
  [("motion_sprites_75_25", 5), ("motion_sprites_50_50", 11)],
)
def test_classes_divided_anew(family, num_unseen):
  splits = [
    class_splits.class_split(f"{family}_{i}", label_names=verbs.CLASS_NAMES)
    for i in range(10)
  ]
  for split in splits:
    assert len(split.novel) == num_unseen
    assert {*split.base, *split.novel} == set(verbs.CLASS_NAMES)
  assert len({split.novel for split in splits}) == 10
  unseen = [name for split in splits for name in split.novel]
  counts = [unseen.count(name) for name in verbs.CLASS_NAMES]
  assert max(counts) - min(counts) <= 1
  with pytest.raises(ValueError, match="the numbers 0 to 9"):
    class_splits.class_split(f"{family}_10")


@pytest.mark.parametrize("ratio", ["train_75_test_25", "train_50_test_50"])
@pytest.mark.parametrize(
  ("name", "num_classes"), [("ActivityNet", 200), ("THUMOS14", 20)]
)
def test_public_zero_shot_lists(shared_data, ratio, name, num_classes):
  if name == "ActivityNet":
    file = "activitynet_v1.3/activity_net.v1-3.rebuilt.json"
  else:
    file = "thumos14/thumos14_actionformer.json"
  database = json.loads((shared_data / file).read_text())["database"]
  labels = {e["label"] for v in database.values() for e in v["annotations"]}
  lists = shared_data / "fewshot_splits" / f"zero_shot_{ratio}" / name / "train"
  for number in range(10):
    split = class_splits.class_split(
      str(lists / f"split_{number}.list"), label_names=labels
    )
    assert len(split.base) == num_classes * int(ratio[6:8]) // 100
    assert len({*split.base, *split.novel}) == num_classes


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
    ('{"base": ["a"], "validation": [], "novel": ["a"]}', "appear twice"),
    ('{"base": ["a"], "validation": [], "novel": []}', "base and novel"),
    ('{"base": ["a"], "novel": ["b"]}', "expected lists of names"),
    ('{"base": "a", "validation": [], "novel": ["b"]}', "expected lists"),
    ("base", "is not JSON"),
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
