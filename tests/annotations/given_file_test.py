"""One parser per form: what scoring and training read, and what builds read."""

import json

import pytest

from clap_jax.annotations import given_file, own_files, source_files
from clap_jax.annotations.problems import MalformedFileError

CAPTIONS = {"timestamps": [[0, 10], [30, 20]], "sentences": ["a  b", "c"]}
MOMENT = {"label": "jump", "start_time": 0, "end_time": 4, "primary": True}
# Name -> (content, {video: (subset, length)}, segments, captions).
FORMS = {
  "activitynet.json": (
    {
      "database": {
        "v": {
          "subset": "training",
          "duration": 9,
          "annotations": [
            {"segment": [3, 1], "label": " run "},
            {"segment": ["0:01", "2"], "caption": "he runs"},
          ],
        }
      }
    },
    {"v": ("training", 9)},
    [("v", 3, 1, " run ", "")],
    [("v", 1, 2, "he runs", "")],
  ),
  "bmn.json": (
    {
      "v": {
        "duration_second": 10,
        "duration_frame": 100,
        "feature_frame": 80,
        "annotations": [{"segment": [1, 1], "label_id": 3}],
      }
    },
    {"v": ("", 10)},
    [("v", 1, 1, "3", "")],
    [],
  ),
  "multithumos.json": (
    {"v": {"subset": "test", "duration": 5, "actions": [[12, 1, 2]]}},
    {"v": ("test", 5)},
    [("v", 1, 2, "12", "")],
    [],
  ),
  "whole.json": (
    {"v": {"duration": 5, "label": "yes"}},
    {"v": ("", 5)},
    [("v", 0, 5, "yes", "")],
    [],
  ),
  "captions.json": (
    {"v": {"duration": 50, "fps": 2.0, **CAPTIONS}},
    {"v": ("", 50)},
    [],
    [("v", 0, 10, "a b", "v_0"), ("v", 30, 20, "c", "v_1")],
  ),
  "tacos.json": (
    {"v.avi": {"fps": 2.0, "num_frames": 80, **CAPTIONS}},
    {"v.avi": ("", 40)},
    [],
    [("v.avi", 0, 5, "a b", "v_0"), ("v.avi", 15, 10, "c", "v_1")],
  ),
  "ego4d.json": (
    {
      "videos": [
        {
          "split": "val",
          "clips": [
            {
              "clip_uid": "v",
              "video_start_sec": 2,
              "video_end_sec": 10,
              "annotations": [{"labels": [MOMENT]}],
            }
          ],
        }
      ]
    },
    {"v": ("val", 8)},
    [("v", 0, 4, "jump", "")],
    [],
  ),
  "timechat.json": (
    {
      "annotations": [
        {"image_id": "v", "caption": "x", "timestamp": [1, 2], "id": 7}
      ]
    },
    {"v": ("", None)},
    [],
    [("v", 1, 2, "x", "7")],
  ),
  "queries.jsonl": (
    '{"qid": 7, "query": "x", "vid": "v", "duration": 8, '
    '"relevant_windows": [[2, 6], [7, 8]]}\n',
    {"v": ("", 8)},
    [],
    [("v", 2, 6, "x", "7"), ("v", 7, 8, "x", "7")],
  ),
  "rows.json": (
    [{"file": "v", "start_ms": 500, "end_ms": 2000, "label": "x"}],
    {"v": ("", None)},
    [("v", 0.5, 2, "x", "")],
    [],
  ),
  "sta.txt": (
    "v 0:01 2.5##a man sits.\n",
    {"v": ("", None)},
    [],
    [("v", 1, 2.5, "a man sits.", "0")],
  ),
  "own.csv": (
    "video;start;end;label;caption;subset;video_duration\n"
    "v;1,5;2;run;he runs;val;7,5\n",
    {"v": ("val", 7.5)},
    [("v", 1.5, 2, "run", "")],
    [("v", 1.5, 2, "he runs", "")],
  ),
}


def write(folder, name):
  path, content = folder / name, FORMS[name][0]
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  return path


def spans(file, kind):
  return [
    (entry.name, span.start_sec, span.end_sec, span.text, span.query)
    for entry in file.entries.values()
    for span in getattr(entry, kind)
  ]


@pytest.mark.parametrize("name", FORMS)
def test_scoring_and_training_read_a_form_as_it_is(tmp_path, name):
  _, videos, segments, captions = FORMS[name]
  file = given_file.read(write(tmp_path, name))
  assert spans(file, "segments") == segments
  assert spans(file, "captions") == captions
  assert videos == {
    entry.name: (entry.subset, entry.expected_duration_sec)
    for entry in file.entries.values()
  }


@pytest.mark.parametrize("name", [n for n in FORMS if n != "sta.txt"])
def test_builds_read_the_same_form_without_what_cannot_be_used(tmp_path, name):
  _, _, segments, captions = FORMS[name]
  file = own_files.read(source_files.SourceFiles(write(tmp_path, name)))
  usable = [
    (video, start, end) for video, start, end, *_ in segments if start < end
  ]
  if name != "whole.json":  # its label ends with the video that is found
    assert [span[:3] for span in spans(file, "segments")] == usable
  usable = [span for span in captions if span[1] < span[2]]
  assert spans(file, "captions") == usable
  assert len(file.rejected) == sum(
    s > e or s == e for _, s, e, *_ in segments
  ) + len(captions) - len(usable)


@pytest.mark.parametrize(
  ("name", "content", "problem"),
  [
    ("a.json", {"v": {"subset": "x"}}, "v: got the keys"),
    ("a.json", {"v": {"label": "x"}}, "v.label: .*duration"),
    ("a.json", {"v": {"annotations": [{"segment": [0, 1]}]}}, "got no label"),
    ("a.json", {"v": {"timestamps": [[0, 1]], "sentences": []}}, "as many"),
    ("a.json", [{"qid": 1, "relevant_windows": None}], "expected windows"),
    ("a.json", [{"qid": 1, "relevant_windows": []}], "cannot be scored"),
    ("a.jsonl", '{"qid": 1, "relevant_windows": [[0, 1]]}\n' * 2, "1 again"),
    ("a.csv", "video,start,end,label\nv,x,1,run\n", "line 2: .*'x'"),
  ],
)  # fmt: skip
def test_a_problem_is_listed_with_its_place(tmp_path, name, content, problem):
  path = tmp_path / name
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  with pytest.raises(MalformedFileError, match=problem):
    given_file.read(path)


@pytest.mark.parametrize("name", ["missing", "missing.json", "missing.csv"])
def test_a_missing_file_is_missing_whatever_its_ending(tmp_path, name):
  with pytest.raises(FileNotFoundError, match="missing"):
    given_file.read(tmp_path / name)


def test_the_names_of_class_numbers_must_be_unique(tmp_path):
  path = tmp_path / "a.json"
  for numbers, problem in (((0, 1), None), ((0, 0), "0"), (("a", 1), "'a'")):
    annotations = [
      {"segment": [0, 1], "label": label, "label_id": number}
      for label, number in zip(("x", "y"), numbers, strict=True)
    ]
    path.write_text(json.dumps({"v": {"annotations": annotations}}))
    file = given_file.read(path)
    if problem is None:
      assert file.numbered_labels() == {0: "x", 1: "y"}
    else:
      with pytest.raises(ValueError, match=f"label_id.* {problem}"):
        file.numbered_labels()
