"""The field's annotation files: their published numbers and known traps."""

import importlib
import json
import pathlib

import pytest

from clap_jax.annotations import annotation_file, own_files, source_files
from tests.golden import golden_file
from tfds_builders import (
  build,
  collection,
  packing,
  shards,
  transcoding,
)
from tfds_builders.epic_kitchens_100 import (
  epic_kitchens_100_dataset_builder as epic,
)

GOLDEN = pathlib.Path(golden_file.__file__).with_name("annotation_counts.json")
# dataset, config, folder of the real files
REAL = [
  ("activitynet", "localization", "activitynet_v1.3"),
  ("activitynet", "captions", "."),
  ("thumos14", "", "thumos14"),
  ("multithumos", "", "multithumos"),
  ("charades", "", "charades_tal"),
  ("charades", "", "charades_sta"),
  ("charades_sta", "", "charades_sta"),
  ("tacos", "", "tacos"),
  ("qvhighlights", "", "qvhighlights"),
  ("epic_kitchens_100", "verb", "epic_kitchens_100"),
  ("epic_kitchens_100", "noun", "epic_kitchens_100"),
]


def read(name, config, folder):
  module = importlib.import_module(
    f"tfds_builders.{name}.{name}_dataset_builder"
  )
  files = source_files.SourceFiles(folder, known=build.published_files(name))
  file = module.read(files, config)
  file.sources = files.used
  return file


@pytest.fixture(scope="module")
def real(shared_data):
  """Reads each real set once."""
  known = {}

  def get(name, config, folder):
    key = name, config, folder
    if key not in known:
      known[key] = read(name, config, shared_data / folder)
    return known[key]

  return get


def _reasons(file):
  counts = {}
  for note in file.rejected:
    reason = note["reason"].split(":")[0].split(" as ")[0]
    key = f"{note['split']}, {reason}"
    counts[key] = counts.get(key, 0) + 1
  return dict(sorted(counts.items()))


def test_counts_of_the_real_files(real):
  """The numbers beside the data, and what of them cannot be used."""
  found = {}
  for name, config, folder in REAL:
    file = real(name, config, folder)
    splits = {
      split: {
        **counts,
        "usable": sum(
          len(e.segments) + len(e.captions)
          for e in file.entries.values()
          if e.subset == split
        ),
      }
      for split, counts in sorted(file.annotated.items())
    }
    found[f"{name}/{config} from {folder}"] = {
      "splits": splits,
      "classes": len(file.labels()),
      "rejected": _reasons(file),
      "excluded": [note["id"] for note in file.excluded],
    }
  text = json.dumps(found, indent=1, sort_keys=True) + "\n"
  golden_file.check(GOLDEN, text)


def test_real_ids_are_safe_and_stay_apart(real):
  for name, config, folder in REAL:
    file = real(name, config, folder)
    keys = {
      (entry.subset, packing.id_from_key(entry.name))
      for entry in file.entries.values()
    }
    assert len(keys) == len(file.entries)


def test_activitynet_repeated_and_empty_segments(real):
  file = real("activitynet", "localization", "activitynet_v1.3")
  places = {note["where"] for note in file.rejected}
  assert "database.6kgJx6ahgq0.annotations[0]" in places  # 0 s to 0 s
  assert "database.lGESoAdgps8.annotations[5]" in places  # twice the same
  entry = file.entries["ZNVhz7ctTq0"]
  assert (entry.expected_duration_sec, entry.expected_frames) == (14.05, 420)


def test_activitynet_caption_splits_share_videos_but_not_captions(real):
  file = real("activitynet", "captions", ".")
  first = file.entries["val_1/GGSY1Qvo990"]
  second = file.entries["val_2/GGSY1Qvo990"]
  assert first.segments == second.segments and len(first.segments) == 1
  texts = [{c.text for c in e.captions} for e in (first, second)]
  assert [len(t) for t in texts] == [3, 3] and not texts[0] & texts[1]


def test_thumos14_bad_videos_and_ambiguous_spans(real):
  file = real("thumos14", "", "thumos14")
  assert not {"video_test_0000270", "video_test_0001292"} & set(file.entries)
  entry = file.entries["video_test_0000293"]
  first = entry.ambiguous[0]
  assert (first.start_sec, first.end_sec) == (50.6, 54.6)
  assert all(s.text != "Ambiguous" for s in entry.segments)
  assert "Ambiguous" not in file.labels() and len(file.labels()) == 20
  assert file.entries["video_test_0000004"].expected_frames == 1012


def test_thumos14_community_file_agrees_with_the_official_text(
  real, shared_data, tmp_path
):
  path = tmp_path / "thumos14.json"
  path.symlink_to(shared_data / "thumos14/thumos14_actionformer.json")
  file, official = (
    read("thumos14", "", tmp_path),
    real("thumos14", "", "thumos14"),
  )
  assert set(file.entries) == set(official.entries)
  for name, entry in file.entries.items():
    spans = sorted((s.start_sec, s.end_sec, s.text) for s in entry.segments)
    assert spans == sorted(
      (s.start_sec, s.end_sec, s.text) for s in official.entries[name].segments
    )


def test_both_forms_of_charades_agree(real):
  first = real("charades", "", "charades_tal")
  second = real("charades", "", "charades_sta")
  assert set(first.entries) == set(second.entries)
  for name, entry in first.entries.items():
    spans = [(s.text, s.start_sec, s.end_sec) for s in entry.segments]
    other = [
      (s.text, s.start_sec, s.end_sec) for s in second.entries[name].segments
    ]
    assert sorted(spans) == sorted(other)


def test_charades_sta_moments_beyond_the_video_are_clipped(real):
  file = real("charades_sta", "", "charades_sta")
  beyond = clipped = 0
  for entry in file.entries.values():
    notes = packing.new_manifest("x")
    fitted = collection.fit_spans(
      entry.captions, entry.expected_duration_sec, video_id="x", notes=notes
    )
    assert all(end <= entry.expected_duration_sec for _, end, _ in fitted)
    clipped += len(notes["repaired"])
    beyond += sum(
      c.end_sec - entry.expected_duration_sec > 0.1 for c in entry.captions
    )
  assert clipped == beyond > 2000
  reversed_ones = [n for n in file.rejected if "reversed" in n["reason"]]
  assert [n["video"] for n in reversed_ones] == [
    "LEOL6",
    "IOL8Q",
    "AKKWU",
    "AKKWU",
  ]


def test_tacos_times_are_frames_of_the_stated_rate(real, shared_data):
  file = real("tacos", "", "tacos")
  path = shared_data / "tacos/train.json"
  value = json.loads(path.read_text())["s17-d69.avi"]
  entry = file.entries["s17-d69"]
  for caption, (start, end) in zip(
    entry.captions, value["timestamps"], strict=True
  ):
    assert caption.start_sec == pytest.approx(start / value["fps"])
    assert caption.end_sec == pytest.approx(end / value["fps"])
  assert entry.expected_frames == value["num_frames"]


def test_qvhighlights_queries_have_all_their_windows(real):
  file = real("qvhighlights", "", "qvhighlights")
  entry = file.entries["Mp7wN80amkQ_510.0_660.0"]
  assert (50.0, 74.0) in [(c.start_sec, c.end_sec) for c in entry.captions]
  assert packing.id_from_key(entry.name) == "Mp7wN80amkQ_510_0_660_0"


def test_epic_classes_of_the_second_list_and_rates_near_60(real):
  nouns = real("epic_kitchens_100", "noun", "epic_kitchens_100")
  assert nouns.labels()[300:302] == ["hand:left", "hand:right"]
  verbs = real("epic_kitchens_100", "verb", "epic_kitchens_100")
  entry = verbs.entries["P01_11"]
  first = entry.segments[0]
  assert (first.start_sec, first.end_sec, first.text) == (0.0, 1.89, "take")
  assert entry.captions[0].text == "take plate"
  # Frames follow the container's rate, 60000/1001, not 60.
  expected = entry.expected_duration_sec * 60_000 / 1001
  assert entry.expected_frames == pytest.approx(expected, abs=1)


def test_published_files_are_recognised(real):
  file = real("qvhighlights", "", "qvhighlights")
  assert all(note["published_as"] for note in file.sources)


def test_hacs_has_activitynets_form(tmp_path):
  (tmp_path / "HACS_segments_v1.1.1.json").write_text(
    json.dumps(
      {
        "database": {
          "abc-_123": {
            "subset": "training",
            "duration": 20.5,
            "annotations": [
              {"segment": [1.0, 4.0], "label": "Archery"},
              {"segment": [1.0005, 4.0], "label": "Archery"},
              {"segment": [9.0, 9.0], "label": "Archery"},
            ],
          },
          "t": {"subset": "testing", "duration": 3, "annotations": []},
        }
      }
    )
  )
  file = read("hacs", "", tmp_path)
  assert file.annotated["train"] == {"videos": 1, "segments": 3}
  assert len(file.entries["abc-_123"].segments) == 1
  assert file.entries["abc-_123"].expected_duration_sec == 20.5
  assert file.entries["t"].subset == "test"


def test_a_selection_split_is_carved_by_id(real, tmp_path):
  file = real("charades_sta", "", "charades_sta")
  files = annotation_file.AnnotationFile(
    entries={
      k: annotation_file.Entry(e.name, e.subset, e.where)
      for k, e in file.entries.items()
    }
  )
  for name in [*list(files.entries)[:60], "3MSZA"]:
    (tmp_path / f"{name}.mp4").write_bytes(b"x")
  collection.make_plan(
    files,
    collection.VideoFiles(tmp_path),
    subset=None,
    selection_percent=10,
    make_id=packing.id_from_key,
  )
  counts = {}
  for entry in files.entries.values():
    counts[entry.subset] = counts.get(entry.subset, 0) + 1
  assert counts["test"] == 1334
  assert 0.08 * 5338 < counts["selection"] < 0.12 * 5338
  assert counts["train"] + counts["selection"] == 5338


@pytest.mark.parametrize(
  ("names", "percent", "message"),
  [
    (("a", "b"), 10, r"move 0 of the 2 videos.*Expected \d+ to \d+"),
    (("a", "b"), 90, r"move 2 of the 2 videos.*Expected \d+ to \d+"),
    (("a",), 50, r"of the 1 videos.*Leave selection_percent out"),
    ((), 50, r"of the 0 videos.*Leave selection_percent out"),
  ],
)
def test_a_selection_split_is_never_empty(tmp_path, names, percent, message):
  file = annotation_file.AnnotationFile(
    entries={n: annotation_file.Entry(n, "train", n) for n in names}
  )
  with pytest.raises(ValueError, match=message) as error:
    collection.make_plan(
      file,
      collection.VideoFiles(tmp_path),
      subset=None,
      selection_percent=percent,
    )
  if "Expected" not in str(error.value):
    return
  for name in names:
    (tmp_path / f"{name}.mp4").write_bytes(b"x")
  first = int(str(error.value).split("Expected ")[1].split()[0])
  plan = collection.make_plan(
    file, collection.VideoFiles(tmp_path), subset=None, selection_percent=first
  )
  assert {split: len(items) for split, items in plan.items.items()} == {
    "selection": 1,
    "train": 1,
  }


def test_a_selection_split_needs_videos_that_are_there(tmp_path):
  file = annotation_file.AnnotationFile(
    entries={
      f"v{n}": annotation_file.Entry(f"v{n}", "train", "") for n in range(9)
    }
  )
  (tmp_path / "v0.mp4").write_bytes(b"x")
  with pytest.raises(ValueError, match=r"leaves \w+ without a video"):
    collection.make_plan(
      file, collection.VideoFiles(tmp_path), subset=None, selection_percent=50
    )


def test_a_carved_video_takes_its_counts_along(tmp_path):
  lines = [f"V{n}AAA 0.0 2.0##somebody sits down" for n in range(40)]
  lines += [f"V{n}AAA 2.0 1.0##somebody stands up" for n in range(40)]
  (tmp_path / "charades_sta_train.txt").write_text("\n".join(lines) + "\n")
  (tmp_path / "charades_sta_test.txt").write_text(lines[0].replace("V", "W"))
  file = read("charades_sta", "", tmp_path)
  for number in range(40):
    (tmp_path / f"V{number}AAA.mp4").write_bytes(b"x")
  plan = collection.make_plan(
    file, collection.VideoFiles(tmp_path), subset=None, selection_percent=50
  )
  both = [plan.manifests[split] for split in ("train", "selection")]
  for manifest in both:
    counts = manifest["annotated"]
    assert 8 < counts["videos"] < 32
    assert counts["captions"] == 2 * counts["videos"]
    assert len(manifest["rejected"]) == counts["videos"]
  assert sum(m["annotated"]["videos"] for m in both) == 40


def test_a_video_of_two_splits_is_refused(tmp_path):
  for split in ("train", "test"):
    line = "AAAAA 0.0 2.0##person sits down\n"
    (tmp_path / f"charades_sta_{split}.txt").write_text(line)
  with pytest.raises(ValueError, match=r"AAAAA.* in test here and in train"):
    read("charades_sta", "", tmp_path)


def test_several_files_of_one_name_are_not_chosen_from(tmp_path):
  for name in ("v0.mkv", "v0.mp4", "v1.mp4", "more/v1.mp4", "more/v2.mp4"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
  videos = collection.VideoFiles(tmp_path)
  assert videos.find("v0.mp4") == tmp_path / "v0.mp4"
  assert videos.find("v1") == tmp_path / "v1.mp4"
  assert videos.find("v2") == tmp_path / "more" / "v2.mp4"
  assert videos.find("v3") is None
  with pytest.raises(ValueError, match=r"several files .* v0\.mkv, v0\.mp4"):
    videos.find("v0")


def test_another_form_is_named_and_not_a_crash(tmp_path, monkeypatch):
  (tmp_path / "videos").mkdir()
  (tmp_path / "activity_net.v1-3.json").write_text('{"database": {}}')

  def read(path, file):
    raise KeyError("annotations")

  monkeypatch.setattr(own_files, "read_json", read)
  with pytest.raises(
    ValueError, match=r"activity_net.*: not in the form of activitynet"
  ):
    build.build(
      "activitynet",
      data_dir=tmp_path / "data",
      videos=tmp_path / "videos",
      annotations=tmp_path,
    )


def test_rejected_rows_are_kept_up_to_a_limit(monkeypatch):
  monkeypatch.setattr(annotation_file, "_MAX_REJECTED", 3)
  file = annotation_file.AnnotationFile(class_names=[])
  for number in range(3):
    file.reject(f"a.csv line {number}", "v", "no label")
  with pytest.raises(ValueError, match=r"a\.csv line 3: no label"):
    file.reject("a.csv line 3", "v", "no label")
  assert len(file.rejected) == 3


def test_epic_frames_may_begin_at_zero(tmp_path):
  file = annotation_file.AnnotationFile(class_names=["open"])
  row = {"video": "P01_01", "start": "0", "stop": "60"}
  epic._read_frames(file, row, "x:1", split="train", label="open")
  (segment,) = file.entries["P01_01"].segments
  assert (segment.start_sec, segment.end_sec) == (0.0, 2.0)


def test_ambiguous_spans_and_captions_are_not_background(tmp_path):
  path = tmp_path / "v.mp4"
  path.write_bytes(b"not looked into")
  span = annotation_file.Span
  item = collection.Item(
    id="v",
    split="train",
    path=path,
    segments=(span(2.0, 4.0, "Dive", "a"),),
    captions=(span(8.0, 9.0, "she waves", "b"),),
    ambiguous=(span(5.0, 6.0, "Ambiguous", "c"),),
    facts={
      "duration_sec": 10.0,
      "fps": 10.0,
      "num_frames": 100,
      "height": 48,
      "width": 48,
    },
  )
  limits = transcoding.StoreLimits()
  for has_classes, expected in (
    (True, [(0, 2.0), (4.0, 5.0), (6.0, 10.0)]),
    (False, [(0, 2.0), (4.0, 5.0), (6.0, 8.0), (9.0, 10.0)]),
  ):
    _, record = shards.pack_item(
      item, limits=limits, scratch=tmp_path, has_classes=has_classes
    )
    spans = [(b["start_sec"], b["end_sec"]) for b in record["background"]]
    assert spans == expected


@pytest.mark.parametrize(
  "key",
  ["../x", "/etc/x", "a\0b", "a/b", ".hidden", "a..b", "", "x" * 129, "ä"],
)
def test_hostile_keys_are_refused(key):
  with pytest.raises(ValueError, match="unsafe video id"):
    packing.id_from_key(key)
