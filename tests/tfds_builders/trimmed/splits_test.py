"""Splits of trimmed clips: no group in two of them."""

import json

import pytest

from tfds_builders.trimmed import clips, splits
from tfds_builders.trimmed.settings import TrimmedSettings

PEOPLE = ("P1", "P2", "P3", "P4", "P5")


def listed(*, subset=None):
  """Two clips for each person and class; a group is a person and a class."""
  found = clips.ClipList()
  for person in PEOPLE:
    for label in ("run", "jump"):
      for take in (0, 1):
        name = f"{label}/{person}_{take}.mp4"
        found.add(
          clips.Clip(
            name,
            label,
            name,
            subset=subset,
            group=f"{label}_{person}",
            attributes={"person": person},
          )
        )
  return found


def assign(found, *, selection_percent=0, **settings):
  splits.assign(
    found, TrimmedSettings(**settings), selection_percent=selection_percent
  )
  return found.clips.values()


def test_hashes_of_groups_give_a_share_of_every_class():
  found = assign(listed())
  held = [clip for clip in found if clip.subset == "validation"]
  assert [sum(c.label == x for c in held) for x in ("run", "jump")] == [2, 2]
  for key in {clip.group for clip in found}:
    assert len({clip.subset for clip in found if clip.group == key}) == 1
  again = assign(listed())
  assert [c.subset for c in found] == [c.subset for c in again]


def test_hashes_of_an_attribute():
  found = assign(listed(), split_by="person")
  people = {c.attributes["person"]: c.subset for c in found}
  assert sorted(people.values()) == ["train"] * 4 + ["validation"]
  assert all(people[c.attributes["person"]] == c.subset for c in found)


@pytest.mark.parametrize("as_file", [False, True])
def test_values_of_an_attribute(tmp_path, as_file):
  given = "train=P1,P2; val = P3 ;test=*"
  if as_file:
    path = tmp_path / "splits.json"
    document = {"train": ["P1", "P2"], "val": "P3", "test": ["*"]}
    path.write_text(json.dumps(document))
    given = str(path)
  found = assign(listed(subset="train"), split_by="person", splits=given)
  expected = dict(
    zip(PEOPLE, ("train", "train", "validation", "test", "test"), strict=True)
  )
  assert all(c.subset == expected[c.attributes["person"]] for c in found)


def test_what_files_state_stays():
  found = listed(subset="test")
  next(iter(found.clips.values())).subset = None
  assert sorted(c.subset for c in assign(found)) == ["test"] * 19 + ["train"]


@pytest.mark.parametrize("split_by", ["", "person"])
def test_selection_is_carved_by_groups(split_by):
  found = assign(
    listed(subset="train"),
    selection_percent=25,
    split_by=split_by,
    splits="train=*" if split_by else "",
  )
  key = split_by or "group"
  chosen = {c.values()[key] for c in found if c.subset == "selection"}
  left = {c.values()[key] for c in found if c.subset == "train"}
  assert chosen and left and not chosen & left


@pytest.mark.parametrize(
  "settings,reason",
  [
    ({"split_by": "view"}, "view.*person"),
    ({"split_by": "person", "splits": "train=P9"}, "P9"),
    ({"split_by": "person", "splits": "train=P1"}, "P2.*no split"),
    ({"split_by": "person", "splits": "train=P1,P2;test=P1,*"}, "P1"),
    ({"split_by": "person", "splits": "train="}, "train.*no values"),
    ({"split_by": "person", "splits": "P1"}, "no values|expected"),
    ({"split_by": "person", "splits": "Train 1=P1;test=*"}, "train 1"),
  ],
)
def test_splits_that_cannot_be_made(settings, reason):
  with pytest.raises(ValueError, match=reason):
    assign(listed(), **settings)


@pytest.mark.parametrize(
  "settings",
  [
    {"splits": "train=*"},
    {"constant": ("person",)},
    {"seed": 1},
    {"clips_per_recording": 0, "join": True},
    {"fold": 0},
  ],
)
def test_settings_that_do_not_go_together(settings):
  with pytest.raises(ValueError, match="--"):
    TrimmedSettings(**settings)


def test_one_group_cannot_be_split():
  found = clips.ClipList()
  found.add(clips.Clip("a", "run", "a", group="g"))
  found.add(clips.Clip("b", "run", "b", group="g"))
  with pytest.raises(ValueError, match="--split_by"):
    assign(found)
