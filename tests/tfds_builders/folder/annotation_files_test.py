"""Annotation files: shapes that are read, lines that are rejected."""

import json

import pytest

from clap_jax.annotations import annotation_file, own_files, source_files


def read(path):
  return own_files.read(source_files.SourceFiles(path))


def _json(tmp_path, document):
  path = tmp_path / "a.json"
  path.write_text(
    document if isinstance(document, str) else json.dumps(document)
  )
  return read(path)


def _csv(tmp_path, *lines):
  path = tmp_path / "a.csv"
  path.write_text("\n".join(["video,start,end,label,caption", *lines]) + "\n")
  return read(path)


def _spans(spans):
  return [(s.start_sec, s.end_sec, s.text) for s in spans]


def test_activitynet_json(tmp_path):
  file = _json(
    tmp_path,
    {
      "version": "1.3",
      "database": {
        "x1": {
          "subset": "training",
          "duration": 9,
          "annotations": [
            {"segment": [1, 2.5], "label": "Run"},
            {
              "segment": ["3", "4"],
              "label": " Jump \n up ",
              "caption": "she jumps",
            },
          ],
        },
        "x2": {
          "subset": "validation",
          "annotations": [],
          "captions": [{"segment": [0, 1], "sentence": "a dog"}],
        },
      },
    },
  )
  assert file.rejected == []
  first, second = file.entries["x1"], file.entries["x2"]
  assert (first.subset, second.subset) == ("train", "validation")
  assert _spans(first.segments) == [(1, 2.5, "Run"), (3, 4, "Jump up")]
  assert _spans(first.captions) == [(3, 4, "she jumps")]
  assert _spans(second.captions) == [(0, 1, "a dog")]


def test_videos_json_with_caption_sets_and_whole_video_labels(tmp_path):
  file = _json(
    tmp_path,
    {
      "videos": {
        "v.mp4": {
          "captions": {
            "val_1": {"timestamps": [[0, 1], [2, 3]], "sentences": ["a", "b"]},
            "val_2": {"timestamps": [[4, 5]], "sentences": ["c"]},
          }
        },
        "sign/yes.mkv": {"label": "yes"},
      }
    },
  )
  assert _spans(file.entries["v.mp4"].captions) == [
    (0, 1, "a"),
    (2, 3, "b"),
    (4, 5, "c"),
  ]
  assert file.entries["sign/yes.mkv"].subset == "train"
  assert _spans(file.entries["sign/yes.mkv"].segments) == [
    (0, annotation_file.WHOLE_VIDEO_SEC, "yes")
  ]


def test_bad_json_entries_are_rejected_with_their_place(tmp_path):
  file = _json(
    tmp_path,
    '{"database": {"a": {"annotations": ['
    '{"segment": [2, 1], "label": "x"}, {"segment": [NaN, 1], "label": "x"},'
    '{"segment": [0], "label": "x"}, {"segment": [0, 1]}, 7,'
    '{"segment": [0, true], "label": "x"}, {"segment": [0, 1], "label": [3]},'
    '{"segment": [0, 1e999], "label": "x"}, {"segment": [0, 1], "label": "k"}'
    ']}, "b": [], "c": {"subset": "../x"}}}',
  )
  assert _spans(file.entries["a"].segments) == [(0, 1, "k")]
  places = [note["where"] for note in file.rejected]
  assert places == [
    *(f"database.a.annotations[{i}]" for i in range(8)),
    "database.b",
    "database.c",
  ]
  assert "not after its start" in file.rejected[0]["reason"]
  assert "finite" in file.rejected[1]["reason"]
  assert "subset" in file.rejected[-1]["reason"]


@pytest.mark.parametrize(
  "captions",
  [7, "text", {"timestamps": 3}, {"a": {"b": {"c": {"d": []}}}}, [[0, 1]]],
)
def test_captions_of_no_known_shape_are_rejected(tmp_path, captions):
  file = _json(tmp_path, {"database": {"a": {"captions": captions}}})
  assert file.entries["a"].captions == []
  assert file.rejected[0]["where"].startswith("database.a.captions")


def test_csv_rows_and_bad_rows_with_line_numbers(tmp_path):
  file = _csv(
    tmp_path,
    "a.mp4,0,1.5,Run,he runs",
    "a.mp4,2,1,Run,",
    "a.mp4,zero,1,Run,",
    ",0,1,Run,",
    'a.mp4,3,4,,"she, too, runs"',
    "a.mp4,3,4,,",
    "a.mp4,__import__('os'),4,Run,",
    "b.mp4,0,1,Jump,,train,extra",
    "b.mp4,0,inf,Jump,",
  )
  assert _spans(file.entries["a.mp4"].segments) == [(0, 1.5, "Run")]
  assert _spans(file.entries["a.mp4"].captions) == [
    (0, 1.5, "he runs"),
    (3, 4, "she, too, runs"),
  ]
  assert "b.mp4" not in file.entries
  assert [n["where"] for n in file.rejected] == [
    f"line {i}" for i in (3, 4, 5, 7, 8, 9, 10)
  ]


@pytest.mark.parametrize(
  "header",
  [
    "video,start,end,label,subset",
    "File Name,Start Time (s),End Time (s),Class,Split",
    "filename,onset,offset,behaviour,Set",
    "Video ID,from,to,action,partition",
  ],
)
def test_columns_go_by_other_names(tmp_path, header):
  path = tmp_path / "a.csv"
  path.write_text(f"{header}\na.mp4,1s,1m 2.5s,wave,Validation\n")
  file = own_files.read(source_files.SourceFiles(path))
  entry = file.entries["a.mp4"]
  (span,) = entry.segments
  assert (span.start_sec, span.end_sec, span.text) == (1.0, 62.5, "wave")
  assert entry.subset == "validation"
  assert not file.rejected


def test_csv_subset_column_must_agree(tmp_path):
  path = tmp_path / "a.csv"
  path.write_text(
    "video,start,end,label,subset\na,0,1,x,validation\n"
    "a,1,2,x,validation\na,2,3,x,train\n"
  )
  file = read(path)
  assert file.entries["a"].subset == "validation"
  assert len(file.entries["a"].segments) == 2
  assert "at line 2" in file.rejected[0]["reason"]


@pytest.mark.parametrize(
  "text,message",
  [
    ("{", "not JSON"),
    ("3", "database"),
    ('{"database": {"a": {}, "a": {}}}', "'a' twice"),
    ('{"database": []}', "database"),
    ("[" * 100_000, "nested too deeply"),
  ],
)
def test_other_json_is_refused(tmp_path, text, message):
  with pytest.raises(ValueError, match=message):
    _json(tmp_path, text)


def test_other_files_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError):
    read(tmp_path / "none.json")
  for name, content in (
    ("a.csv", b"from,to\n1,2\n"),
    ("b.csv", b"\xff\xfe"),
    ("a.pkl", b""),
  ):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"header|UTF-8|expected"):
      read(tmp_path / name)


def test_a_missing_path_is_not_called_a_folder(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no file or folder .*own\.csv"):
    source_files.SourceFiles(tmp_path / "own.csv")
