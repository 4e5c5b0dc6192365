"""Published layouts of trimmed sets, read into clips with splits."""

import json

import pytest

from clap_jax.annotations import source_files
from tests.tfds_builders.trimmed import stand_ins
from tfds_builders import collection
from tfds_builders.trimmed import clips, layouts, splits
from tfds_builders.trimmed.settings import TrimmedSettings


def read(path, names=(), fold=1):
  files = path and source_files.SourceFiles(path)
  return layouts.read(files, names, fold=fold)


def splits_of(listed):
  return {clip.name: clip.subset for clip in listed.clips.values()}


def test_ucf101_lists(tmp_path):
  stand_ins.ucf101(tmp_path, groups=range(7, 9))
  listed = read(tmp_path / "ucfTrainTestlist")
  assert splits_of(listed) == {
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi": "train",
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g07_c01.avi": "test",
    "HandstandPushups/v_HandStandPushups_g08_c01.avi": "train",
    "HandstandPushups/v_HandStandPushups_g07_c01.avi": "test",
  }
  labels = {clip.label for clip in listed.clips.values()}
  assert labels == set(stand_ins.UCF101_CLASSES)
  assert listed.file.class_names == list(stand_ins.UCF101_CLASSES)
  with pytest.raises(FileNotFoundError, match=r"trainlist02\.txt"):
    read(tmp_path / "ucfTrainTestlist", fold=2)


def test_ucf101_lists_that_part_a_group_are_refused(tmp_path):
  (tmp_path / "trainlist01.txt").write_text("A/v_A_g01_c01.avi 1\n")
  (tmp_path / "testlist01.txt").write_text("A/v_A_g01_c02.avi\n")
  with pytest.raises(ValueError, match="A_g01"):
    read(tmp_path)


def test_hmdb51_lists(tmp_path):
  stand_ins.hmdb51(tmp_path)
  listed = read(tmp_path / "testTrainMulti_7030_splits")
  (train, test), label = ["(Rad)Schlag", "Rad_Schlag"], "brush_hair"
  of_class = {
    name.removeprefix(f"{label}/").partition("_die")[0]: subset
    for name, subset in splits_of(listed).items()
    if name.startswith(label)
  }
  assert of_class[train] == "train" and of_class[test] == "test"
  assert len(listed.clips) == 2 * 3
  assert len(listed.file.excluded) == 2
  assert {clip.group for clip in listed.clips.values()} == {
    "April_09",
    "(Rad)Schlag_die_Bank!",
    "Rad_Schlag_die_Bank!",
  }
  with pytest.raises(FileNotFoundError, match="_test_split3"):
    read(tmp_path / "testTrainMulti_7030_splits", fold=3)


def test_similar_names_have_ids_of_their_own():
  names = [f"c/{name}" for name in stand_ins.hmdb51_names("ride_bike")]
  names.append("c/" + "long" * 40 + ".avi")
  make_id = clips.unique_ids(names)
  ids = [make_id(name) for name in names]
  assert len(set(ids)) == len(ids)
  assert all(len(name) <= 128 for name in ids)
  assert ids[0] == "c_April_09_ride_bike_f_cm_np1_ba_med_0"
  with pytest.raises(ValueError, match="unsafe"):
    make_id("../a.avi")


def test_kinetics_tables(tmp_path):
  stand_ins.kinetics(tmp_path)
  listed = read(tmp_path / "annotations")
  assert splits_of(listed) == {
    "-3B32lodo2M_000059_000069": "train",
    "abCdEfGhIjK_000007_000017": "train",
    "ABcdEfGhIjK_000007_000017": "validation",
    "gone_gone_1_000000_000010": "validation",
  }
  videos = collection.VideoFiles(tmp_path / "videos", any_case=False)
  path = videos.find("ABcdEfGhIjK_000007_000017")
  assert path.parent.parent.name == "validate"
  assert layouts.is_youtube(source_files.SourceFiles(tmp_path / "annotations"))
  one = read(tmp_path / "annotations" / "train.csv")
  assert len(one.clips) == 2


def test_rows_of_kinetics_without_label_or_time_are_rejected(tmp_path):
  path = tmp_path / "test.csv"
  path.write_text(
    stand_ins.KINETICS_HEADER + ",abc,1,11,test\nyoga,abc,one,11,test\n"
    "yoga,def,1,11,test\nbike,def,1,11,test\n"
  )
  listed = read(path)
  assert list(listed.clips) == ["def_000001_000011"]
  places = [note["where"] for note in listed.file.rejected]
  assert places == ["test.csv line 2", "test.csv line 3", "test.csv line 5"]


@pytest.mark.parametrize(
  "names,expected",
  [
    (["run/a.mp4", "jump/b.mp4"], {"run/a.mp4": None, "jump/b.mp4": None}),
    (
      ["train/run/a.mp4", "val/run/b.mp4"],
      {"train/run/a.mp4": "train", "val/run/b.mp4": "validation"},
    ),
    # A class may be called like a split.
    (["train/a.mp4", "test/b.mp4"], {"train/a.mp4": None, "test/b.mp4": None}),
    (["v_Archery_g01_c01.avi"], {"v_Archery_g01_c01.avi": None}),
    (["loose.mp4", "a/b/deep.mp4", "a/x.mp4"], {"a/x.mp4": None}),
  ],
)
def test_class_folders(names, expected):
  listed = read(None, names)
  assert splits_of(listed) == expected
  left = {note["video"] for note in listed.file.rejected}
  assert left == set(names) - set(expected)


CSV = """video,label,person,view,caption,subset
a.mp4,run,P1,left,somebody runs,train
a.mp4,run,P1,left,a person runs,train
b.mp4,jump,P2,right,,validation
c.mp4,,P2,right,,train
,run,P1,left,,train
a.mp4,jump,P1,left,x,train
"""


def test_tables_with_attributes(tmp_path):
  path = tmp_path / "clips.csv"
  path.write_text(CSV)
  listed = read(path)
  first = listed.clips["a.mp4"]
  assert first.captions == ["somebody runs", "a person runs"]
  assert first.attributes == {"person": "P1", "view": "left"}
  assert splits_of(listed) == {
    "a.mp4": "train",
    "b.mp4": "validation",
    "c.mp4": "train",
  }
  assert listed.clips["c.mp4"].label == ""
  places = [note["where"] for note in listed.file.rejected]
  assert places == ["clips.csv line 6", "clips.csv line 7"]


ROW = {
  "file": "x/a.mp4",
  "action": "run",
  "person": "P1",
  "frames": 3,
  "captions": ["one", {"text": "two"}],
}


@pytest.mark.parametrize(
  "name,document",
  [
    ("a.json", [ROW]),
    ("a.json", {"videos": {"x/a.mp4": {**ROW, "file": ""}}}),
    ("a.json", {"x/a.mp4": ROW}),
    ("a.jsonl", ROW),
    (
      "a.json",
      {
        "database": {
          "x/a.mp4": {
            "annotations": [{"segment": [0, 1], "label": "run"}],
            **{k: ROW[k] for k in ("person", "frames", "captions")},
          }
        }
      },
    ),
  ],
)
def test_json_with_attributes(tmp_path, name, document):
  path = tmp_path / name
  if isinstance(document, dict) and "videos" in document:
    del document["videos"]["x/a.mp4"]["file"]
  path.write_text(json.dumps(document))
  (clip,) = read(path).clips.values()
  assert (clip.name, clip.label) == ("x/a.mp4", "run")
  assert clip.captions == ["one", "two"]
  assert clip.attributes == {"person": "P1", "frames": "3"}


@pytest.mark.parametrize(
  "name,text,reason",
  [
    ("a.csv", "video,label,start,end\na,b,0,1\n", "times"),
    ("a.csv", "video,person\na,b\n", "label"),
    ("a.json", '"text"', "list of objects"),
    ("a.json", '{"videos": [1]}', "videos"),
    ("a.xlsx", "", r"\.csv"),
  ],
)
def test_files_in_another_form_are_refused(tmp_path, name, text, reason):
  path = tmp_path / name
  path.write_text(text)
  with pytest.raises(ValueError, match=reason):
    read(path)


@pytest.mark.parametrize(
  "row",
  [
    "text",
    {"label": "run"},
    {"video": "a.mp4", "label": ["run"]},
    {"video": "a.mp4", "label": True},
    {"video": "a.mp4", "label": "x" * 3000},
    {"video": ["a.mp4"], "label": "run"},
    {"video": "a.mp4", "label": "run", "caption": 3},
    {"video": "a.mp4", "label": "run", "subset": "two words"},
    {"video": "a.mp4", "annotations": [{"label": []}]},
    {"video": "a.mp4", "annotations": [{"label": "a"}, {"label": "b"}]},
  ],
)
def test_rows_in_another_form_are_rejected(tmp_path, row):
  path = tmp_path / "a.json"
  path.write_text(json.dumps([row, ROW]))
  listed = read(path)
  assert list(listed.clips) == ["x/a.mp4"]
  (note,) = listed.file.rejected
  assert note["where"] == "[0]" and note["reason"]


def test_folders_of_no_known_layout_are_refused(tmp_path):
  (tmp_path / "notes.txt").write_text("nothing")
  with pytest.raises(ValueError, match=r"trainlist01\.txt"):
    read(tmp_path)


def test_sneeze_cough(shared_data):
  path = shared_data / "sneeze_cough" / "clips.json"
  if not path.is_file():
    pytest.skip(f"{path} is missing")
  listed = read(path)
  assert len(listed.clips) == 720 and not listed.file.rejected
  settings = TrimmedSettings(
    split_by="person",
    splits="selection=S017,S018;validation=S019,S020;train=*",
  )
  splits.assign(listed, settings, selection_percent=0)
  file = clips.to_annotations(
    listed, background=("scratch head", "answer phone call")
  )
  assert file.annotated == {
    split: {"videos": 48 * n, "segments": 36 * n, "captions": 48 * n}
    for split, n in (("train", 11), ("selection", 2), ("validation", 2))
  }
  assert len(file.labels()) == 6
