"""Annotation files as users have them: built the same, or refused by name."""

import json

import pytest

from clap_jax import main
from clap_jax.annotations import own_files, source_files
from tests.tfds_builders import transcoding_test
from tfds_builders import build, collection

TRAIN, VALIDATION = (1.0, 4.0, "wave hand"), (2.0, 6.5, "jump")
BOTH = {"train": [("a", *TRAIN)], "validation": [("b", *VALIDATION)]}
ALL_TRAIN = {"train": [("a", *TRAIN), ("b", *VALIDATION)]}
A_ALONE = {"train": [("a", *TRAIN)]}


def _with_labels(train, validation, *, a="a", b="b"):
  return {
    "train": [(a, *TRAIN[:2], train)],
    "validation": [(b, *VALIDATION[:2], validation)],
  }


# Of each file: the segments, or words of the error.
CASES = {
  "01_bom_crlf.csv": BOTH,
  "02_semicolon.csv": BOTH,
  "03_semicolon_decimal_comma.csv": BOTH,
  "04_sep_line.csv": BOTH,
  "05_tab.csv": BOTH,
  "06_utf16.csv": BOTH,
  "07_cp1252.csv": ["line 3", "UTF-8", "--encoding"],
  "08_header_case.csv": BOTH,
  "09_header_spaces.csv": BOTH,
  "10_cell_spaces.csv": BOTH,
  "11_mmss.csv": BOTH,
  "12_hhmmssms.csv": BOTH,
  "15_reversed_overlap.csv": {
    "train": [("a", 2.0, 5.0, "wave hand"), ("a", 3.0, 6.0, "wave hand")],
    "validation": [("b", *VALIDATION)],
    "losses": ["line 2: a.mp4: is reversed", "line 5: a.mp4: has no length"],
  },
  "16_label_comma_slash.csv": {
    "train": [
      ("a", 1.0, 4.0, "sit/stand, slowly"),
      ("a", 5.0, 8.0, "../../etc"),
    ],
    "validation": [("b", 2.0, 6.5, "sit/stand, slowly")],
  },
  "17_stem_only.csv": BOTH,
  "18_abs_path.csv": BOTH,
  "19_windows_path.csv": BOTH,
  "20_rel_dot.csv": BOTH,
  "21_subset_names.csv": BOTH,
  "22_no_subset.csv": ALL_TRAIN,
  "23_boris_tabular.csv": ["Media file", "clap convert"],
  "24_elan.txt": ["Begin Time", "clap convert"],
  "25_elan_noheader.csv": ["00:00:01.000", "clap convert"],
  "26_labelstudio.json": ["no video", "clap convert"],
  "27_via3.json": ["metadata", "clap convert"],
  "28_anet_nodb.json": BOTH,
  "29_anet_v.json": _with_labels("wave hand", "jump", a="v_a", b="v_b"),
  "30_anet_labelid.json": _with_labels("wave hand", "4"),
  "31_numeric_labels.json": _with_labels("3", "4"),
  "32_createml.json": A_ALONE,
  "33_jsonl.jsonl": A_ALONE,
  "34_xlsx.xlsx": ["34_xlsx.xlsx", "CSV"],
  "35_trailing_empty.csv": BOTH,
  "36_same_video_two_splits.csv": {**BOTH, "losses": ["line 4: a.mp4"]},
  "37_neg_start.csv": {  # cut to the video when it is built
    "train": [("a", -0.4, 4.0, "wave hand")],
    "validation": [("b", 2.0, 12.6, "jump")],
  },
  "38_val_only_class.csv": BOTH,
  "39_quote_in_csv.csv": {
    "train": [("a", 1.0, 4.0, 'says "hello"')],
    "validation": [("b", 2.0, 6.0, "it's")],
  },
  "40_extra_cols.csv": ALL_TRAIN,
  "41_case_name.csv": BOTH,
}


@pytest.fixture(scope="module")
def cases(shared_data):
  folder = shared_data.parent / "cases" / "11"
  if not folder.is_dir():
    pytest.skip(f"no annotation files of users: {folder} is missing")
  return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  folder = tmp_path_factory.mktemp("videos")
  for name in ("a.mp4", "b.mp4"):
    transcoding_test.make_video(folder / name, seconds=12, fps=2, size=(64, 48))
  return folder


def _plan(path, videos):
  """What would be built: (id, start, end, label) per split, and the losses."""
  plan = collection.make_plan(
    own_files.read(source_files.SourceFiles(path)),
    collection.VideoFiles(videos, any_case=True),
    subset=None,
  )
  segments = {
    split: sorted(
      (item.id, span.start_sec, span.end_sec, span.text)
      for item in items
      for span in item.segments
    )
    for split, items in plan.items.items()
  }
  return segments, collection.list_losses(plan.manifests)


@pytest.mark.parametrize("name", list(CASES))
def test_files_of_users(cases, videos, name):
  expected = CASES[name]
  if isinstance(expected, list):
    with pytest.raises(ValueError) as caught:
      _plan(cases / name, videos)
    for word in expected:
      assert word in str(caught.value)
    return
  segments, losses = _plan(cases / name, videos)
  starts = expected.get("losses", [])
  assert segments == {k: v for k, v in expected.items() if k != "losses"}
  assert len(losses) == len(starts)
  for loss, start in zip(losses, starts, strict=True):
    assert loss.startswith(start)


@pytest.mark.parametrize(
  "name,words",
  [
    ("13_frames.csv", ["frame numbers", "line 3", "12.00 s", "manifest.json"]),
    ("14_milliseconds.csv", ["milliseconds", "line 3", "start_ms"]),
  ],
)
def test_times_of_another_unit(cases, videos, tmp_path, name, words):
  with pytest.raises(ValueError) as caught:
    build.build(
      "folder", data_dir=tmp_path, videos=videos, annotations=cases / name
    )
  for word in (name, *words):
    assert word in str(caught.value)
  assert not list(tmp_path.glob(".building-*/shards")), "nothing was decoded"


def _clap_build(tmp_path, videos, text, *flags, name="a.csv"):
  path = tmp_path / name
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return main.main(
    [
      "build",
      "folder",
      f"--data_dir={tmp_path / 'data'}",
      f"--videos={videos}",
      f"--annotations={path}",
      *flags,
    ]
  )


@pytest.mark.parametrize(
  "text,words",
  [
    ("video,start,end,label\na,x,4,run\na,2,y,run\n", ["line 2", "'x'"]),
    ("video,start,end,label\nc,1,4,run\n", ["c", "no video file"]),
    ("video,start,end,label\na,1,4,run,5\n", ["line 2", "more cells"]),
    ("video,start,end,label\na,20,40,run\nb,1,2\n", ["frame", "line 2"]),
  ],
)
def test_where_all_is_rejected_the_reason_is_printed(
  tmp_path, videos, capsys, text, words
):
  assert _clap_build(tmp_path, videos, text) == 2
  printed = capsys.readouterr().err
  for word in ("a.csv", *words):
    assert word in printed
  path = printed.rpartition(" is in ")[2].strip()
  with open(path, encoding="utf-8") as file:
    manifests = json.load(file)
  assert any(m["rejected"] or m["missing"] for m in manifests.values())


def test_where_some_are_rejected_three_reasons_are_printed(
  tmp_path, videos, capsys
):
  rows = "".join(f"a,{n}.5,{n},run\n" for n in range(5))
  text = (
    "video,start,end,label,subset\na,1,4,run,Dev\n"
    f"{rows}zz,1,2,run\nb,-0.4,12.6,walk,train\n"
  )
  assert _clap_build(tmp_path, videos, text, f"--json={tmp_path}/r.json") == 0
  printed = capsys.readouterr().err
  for word in (
    "line 3",
    "line 4",
    "line 5",
    "6 spans or videos",
    "1 spans are cut",
    "1 classes of validation",
    "run",
  ):
    assert word in printed
  assert "line 6" not in printed
  result = json.loads((tmp_path / "r.json").read_text())
  assert result["manifests"]["validation"]["segments"] == 1


def test_names_of_one_file_are_one_video(tmp_path, videos):
  path = tmp_path / "a.csv"
  path.write_text(
    "video,start,end,label\n"
    "a,1,4,run\n./a.mp4,5,6,run\nC:\\x\\a.mp4,1,4,run\n"  # one of them twice
    "x/b.mp4,1,2,run\ny/b.mp4,2,3,run\n"
  )
  segments, losses = _plan(path, videos)
  assert segments == {"train": [("a", 1.0, 4.0, "run"), ("a", 5.0, 6.0, "run")]}
  assert [loss.partition(": ")[0] for loss in losses] == [
    "line 4",
    "line 5",
    "line 6",
  ]
  assert all("both lead to b.mp4" in loss for loss in losses[1:])


def test_an_encoding_may_be_named(tmp_path, videos):
  text = "video,start,end,label\na,1,4,zurück\n".encode("cp1252")
  assert _clap_build(tmp_path, videos, text) == 2
  assert _clap_build(tmp_path, videos, text, "--encoding=cp1252") == 0


def test_non_latin_names_have_ids_of_their_own(tmp_path):
  names = ["ジャンプ", "走る", "歩く"]
  folder = tmp_path / "v"
  folder.mkdir()
  for name in names:
    (folder / f"{name}.mp4").touch()
  rows = "".join(f"{name}.mp4,1,2,run\n" for name in names)
  path = tmp_path / "a.csv"
  path.write_text("video,start,end,label\n" + rows, encoding="utf-8")
  segments, losses = _plan(path, folder)
  assert len({row[0] for row in segments["train"]}) == 3
  assert losses == []


@pytest.mark.parametrize(
  "document,expected",
  [
    (
      {"v": {"annotations": [{"start": "0:01", "end": "0:02", "label": 7}]}},
      (1, 2, "7"),
    ),
    (
      [{"Video": "v", "start_ms": 1000, "end_ms": 2500, "class": "x"}],
      (1, 2.5, "x"),
    ),
    (
      [{"video": "v", "annotations": [{"segment": [1, 2], "label": "x"}]}],
      (1, 2, "x"),
    ),
    (
      {"v": {"annotations": [{"segment(frames)": [25, 50], "label": "x"}]}},
      "segment(frames)",
    ),
    ({"v": {"annotations": [{"segment": [1, 2], "label": True}]}}, "no label"),
    ([{"name": "v", "start": 1, "end": 2, "label": "x"}], "'name'"),
  ],
)
def test_other_forms_of_json(tmp_path, document, expected):
  path = tmp_path / "a.json"
  path.write_text(json.dumps(document))
  file = own_files.read(source_files.SourceFiles(path))
  if isinstance(expected, str):
    assert expected in file.rejected[0]["reason"]
  else:
    (span,) = file.entries["v"].segments
    assert (span.start_sec, span.end_sec, span.text) == expected
    assert file.rejected == []


def test_a_stated_duration_shows_frames_before_the_work(tmp_path, videos):
  path = tmp_path / "a.json"
  video = {
    "duration": 12,
    "annotations": [{"segment": [75, 225], "label": "x"}],
  }
  path.write_text(json.dumps({"database": {"a": video, "b": video}}))
  with pytest.raises(ValueError, match="frame numbers"):
    build.build("folder", data_dir=tmp_path, videos=videos, annotations=path)
  assert not list(tmp_path.glob(".building-*/shards"))
