"""Scoring of files: every form reads the same, every problem is listed."""

import json

import numpy as np
import pytest

from clap_jax.annotations.problems import MalformedFileError
from clap_jax.metrics.score import protocol_names, score

TRUTH = {
  "database": {
    "a": {
      "subset": "validation",
      "annotations": [
        {"label": "jump", "label_id": 3, "segment": [0, 10]},
        {"label": "run", "label_id": 4, "segment": ["20", "30.5"]},
      ],
    },
    "b": {"subset": "validation", "annotations": []},
    "c": {
      "subset": "training",
      "annotations": [{"label": "swim", "segment": [0, 1]}],
    },
  }
}
ROWS = [
  ("a", 0.0, 9.0, "jump", 3, 0.9),
  ("a", 21.0, 30.0, "run", 4, 0.8),
  ("b", 1.0, 2.0, "jump", 3, 0.95),
]


def write(path, document):
  path.write_text(
    document if isinstance(document, str) else json.dumps(document)
  )
  return path


def score_one(tmp_path, predictions, *, name="p.json", truth=None, **options):
  path = write(tmp_path / name, predictions)
  answer = write(tmp_path / "truth.json", truth or TRUTH)
  options = {"protocols": ["activitynet"], **options}
  [result] = score(path, ground_truth_path=answer, **options)
  return result


def problems_of(tmp_path, predictions, **options):
  with pytest.raises(MalformedFileError) as error:
    score_one(tmp_path, predictions, **options)
  return error.value.problems


def activitynet_form():
  videos: dict[str, list] = {}
  for video, start, end, label, _, value in ROWS:
    entry = {"label": label, "score": value, "segment": [start, end]}
    videos.setdefault(video, []).append(entry)
  return {"version": "1.3", "results": videos, "external_data": {}}


def forms(tmp_path):
  plain = activitynet_form()
  yield "p.json", plain
  database: dict[str, list] = {}
  for video, start, end, _, number, value in ROWS:
    entry = {"label_id": number, "scores": value, "segment": [start, end]}
    database.setdefault(video, []).append(entry)
  yield "p.json", {"database": database}
  video, start, end, label, number, value = map(list, zip(*ROWS, strict=True))
  columns = {
    "video-id": video,
    "t-start": start,
    "t-end": end,
    "label": number,
    "score": value,
  }
  yield "p.json", columns
  np.savez(tmp_path / "columns.npz", **columns)
  yield "columns.npz", None
  yield (
    "p.txt",
    "\n".join(
      f"{v} {s} {e} {label} {x}"
      for v, s, e, label, x in zip(video, start, end, label, value, strict=True)
    ),
  )
  yield (
    "p.json",
    {
      "videos": [
        {
          "video": name,
          "duration_sec": 60,
          "predictions": [
            {
              "start_sec": entry["segment"][0],
              "end_sec": entry["segment"][1],
              "score": entry["score"],
              "label": entry["label"],
            }
            for entry in entries
          ],
        }
        for name, entries in plain["results"].items()
      ],
      "failed": [],
    },
  )


def community_forms(tmp_path):
  """Shapes that are met in the wild beside the documented ones."""
  plain = activitynet_form()["results"]
  yield "bare.json", plain
  yield "ego4d.json", {"detect_results": plain}
  flat = [
    {"video_id": v, "t_start": s, "t_end": e, "class": label, "conf": x}
    for v, s, e, label, _, x in ROWS
  ]
  yield "flat.json", flat
  yield "flat.jsonl", "\n".join(map(json.dumps, flat))
  yield "lines_called.json", "\n".join(map(json.dumps, flat))
  header = "video-id,t-start,t-end,label,score\n"
  rows = [f"{v},{s},{e},{label},{x}" for v, s, e, label, _, x in ROWS]
  yield "frame.csv", header + "\n".join(rows)
  lists = {
    name: {
      "segments": [entry["segment"] for entry in entries],
      "scores": [entry["score"] for entry in entries],
      "labels": [entry["label"] for entry in entries],
    }
    for name, entries in plain.items()
  }
  yield "parallel.json", lists
  yield "output.json", [{"video_id": n, **v} for n, v in lists.items()]


def test_shapes_of_the_community_score_the_same(tmp_path):
  expected = score_one(tmp_path, activitynet_form())
  for name, document in community_forms(tmp_path):
    assert score_one(tmp_path, document, name=name) == expected, name


def test_proposals_need_no_label(tmp_path):
  entries = [{"score": 0.9, "segment": [0, 9]}]
  document = {"results": {"a": entries}}
  result = score_one(tmp_path, document, protocols=["activitynet_proposals"])
  assert result["metrics"]["ar@1"] > 0
  problems = problems_of(tmp_path, document)
  assert problems == ["results['a'][0].label: got nothing; expected a class"]


def test_every_form_scores_the_same(tmp_path):
  truth = write(tmp_path / "truth.json", TRUTH)
  results = []
  for name, document in forms(tmp_path):
    path = tmp_path / name
    if document is not None:
      write(path, document)
    results += score(path, ground_truth_path=truth, protocols=["activitynet"])
  assert len(results) == 6
  assert all(result == results[0] for result in results)
  metrics = results[0]["metrics"]
  assert metrics["map@0.85"] == 0.75  # jump 1/2 behind b's wrong one, run 1
  assert metrics["map@0.95"] == 0.0


def test_the_card_says_what_was_scored(tmp_path):
  predictions = activitynet_form()
  predictions["results"]["z"] = [
    {"label": "fly", "score": 0.9, "segment": [0, 1]}
  ]
  card = score_one(tmp_path, predictions, class_source="own head")["card"]
  assert card["split"] == "validation"
  assert (card["num_evaluated"], card["num_missing"]) == (2, 0)
  assert (card["num_unknown"], card["num_ignored_labels"]) == (1, 1)
  assert (card["num_predictions"], card["num_ground_truths"]) == (4, 2)
  assert card["class_source"] == "own head"
  assert len(card["split_hash"]) == 16
  json.dumps(card)
  del predictions["results"]["a"]
  assert score_one(tmp_path, predictions)["card"]["missing"] == ["a"]


def test_blocked_videos_are_left_out(tmp_path):
  blocked = write(tmp_path / "blocked.json", ["b"])
  result = score_one(tmp_path, activitynet_form(), blocked_videos_path=blocked)
  assert result["metrics"]["map@0.85"] == 1.0
  assert "1 blocked" in result["card"]["notes"][0]


def test_several_protocols_read_one_file(tmp_path):
  path = write(tmp_path / "p.json", activitynet_form())
  truth = write(tmp_path / "truth.json", TRUTH)
  names = ["activitynet", "activitynet_opentad", "hacs", "motion_sprites"]
  results = score(path, ground_truth_path=truth, protocols=names)
  assert [result["card"]["protocol"] for result in results] == names


def test_several_protocols_share_the_first_ones_split(tmp_path):
  path = write(tmp_path / "p.json", activitynet_form())
  truth = write(tmp_path / "truth.json", TRUTH)
  names = ["ActivityNet", " thumos14", "ego4d-mq"]
  results = score(path, ground_truth_path=truth, protocols=names)
  assert {result["card"]["split"] for result in results} == {"validation"}


def test_labels_that_all_miss_are_noted(tmp_path):
  entry = {"label": "fly", "score": 0.9, "segment": [0, 1]}
  result = score_one(tmp_path, {"results": {"a": [entry]}})
  assert result["metrics"]["average_map"] == 0.0
  assert "no predicted label" in result["card"]["notes"][0]


def test_ego4d_ground_truth(tmp_path):
  label = {"label": "jump", "start_time": 0, "end_time": 10, "primary": True}
  clip = {
    "clip_uid": "a",
    "annotations": [
      {"labels": [label, {**label, "label": "x", "primary": False}]}
    ],
  }
  truth = {"videos": [{"split": "val", "clips": [clip]}]}
  options = {"truth": truth, "protocols": ["ego4d_mq"]}
  result = score_one(tmp_path, activitynet_form(), **options)
  assert result["metrics"]["recall@1x@0.50"] == 1.0
  assert result["card"]["num_ground_truths"] == 1
  truth["videos"][0].pop("split")
  assert "videos[0]" in problems_of(tmp_path, activitynet_form(), **options)[0]


def test_epic_kitchens_labels(tmp_path):
  truth = {
    "v": {
      "annotations": [
        {"verb_label": "id_1", "noun_label": "id_2", "segment": [0, 1]}
      ]
    }
  }
  entry = {"verb": 1, "noun": 5, "score": 0.5, "segment": [0, 1]}
  for name, expected in (("verb", 1.0), ("noun", 0.0), ("action", 0.0)):
    result = score_one(
      tmp_path,
      {"results": {"v": [entry]}},
      truth=truth,
      protocols=[f"epic_kitchens_{name}"],
    )
    assert result["metrics"]["average_map"] == expected


def test_every_problem_is_listed_with_its_location(tmp_path):
  good = {"label": "jump", "score": 1, "segment": [0, 1]}
  problems = problems_of(
    tmp_path,
    {
      "results": {
        "a": [
          good,
          {"label": "jump", "score": "high", "segment": [0, 1]},
          {"score": 0.5, "segment": [0, 1, 2]},
          7,
          {**good, "segment": [5, 4]},
          {**good, "score": float("nan")},
          {**good, "score": True, "segment": [5, 4]},
        ],
        "b": "nothing",
      }
    },
  )
  locations = [problem.split(": ")[0] for problem in problems]
  assert sorted(locations) == [
    "results['a'][1].score",
    "results['a'][2].label",
    "results['a'][2].segment",
    "results['a'][3]",
    "results['a'][4]",
    "results['a'][5]",
    "results['a'][6].score",
    "results['a'][6].segment",
    "results['b']",
  ]
  assert any("[5.0, 4.0]" in problem for problem in problems)


@pytest.mark.parametrize(
  ("document", "name", "words"),
  [
    ('{"results": {"a": [}', "p.json", "line 1 column 20"),
    ("[]", "p.json", "expected an object with 'results'"),
    ('{"results": {"a": [], "a": []}}', "p.json", "the key 'a' twice"),
    ('{"a": {"segments": [[0, 1]], "scores": []}}', "p.json", "['a']: got"),
    ('{"x": 1}\n{"x": ', "p.json", "line 2: it is not JSON"),
    ("video,t-start\na,1", "p.csv", "line 2.score: got nothing"),
    (f'{{"results": {{"a": [{"9" * 5000}]}}}}', "p.json", "not JSON"),
    (
      '{"a": [{"label": "x", "score": 1, "segment": [0, 1' + "0" * 400 + "]}]}",
      "p.json",
      "['a'][0]",
    ),
    ("[" * 100_000, "p.json", "nested too deeply"),
    ("a 0 1 jump\na 0 1 jump 0.5", "p.txt", "line 1"),
    ("a 0 x jump 0.5", "p.txt", "line 1"),
    ("", "p.pkl", "can run code"),
    ('{"video-id": ["a"], "t-start": [0]}', "p.json", "expected an object"),
    (
      '{"video-id": ["a"], "t-start": [0], "t-end": [1], "label": ["x"],'
      ' "score": []}',
      "p.json",
      "columns of lengths",
    ),
    ("no archive", "p.npz", "not an .npz"),
    (
      '{"results": {"q": [{"label": "x", "score": 1, "segment": [0, 1]}]}}',
      "p.json",
      "no video in common",
    ),
  ],
)
def test_unreadable_files_say_why(tmp_path, document, name, words):
  problems = problems_of(tmp_path, document, name=name)
  assert any(words in problem for problem in problems), problems


def test_bytes_that_are_not_text(tmp_path):
  path = tmp_path / "p.json"
  path.write_bytes(b'{"results": "\xff"}')
  truth = write(tmp_path / "truth.json", TRUTH)
  with pytest.raises(MalformedFileError, match="UTF-8"):
    score(path, ground_truth_path=truth, protocols=["activitynet"])


def test_unknown_protocol_and_subset(tmp_path):
  with pytest.raises(ValueError, match="choose from activitynet"):
    score_one(tmp_path, activitynet_form(), protocols=["coco"])
  problems = problems_of(tmp_path, activitynet_form(), subset="test")
  assert "['training', 'validation']" in problems[0]
  assert {"qvhighlights", "charades_sta", "thumos14"} <= set(protocol_names())


def highlight_lines(**change):
  record = {
    "qid": 1,
    "pred_relevant_windows": [[0, 10, 0.9]],
    "pred_saliency_scores": [0.1, 0.2],
  }
  return json.dumps({**record, **change})


HIGHLIGHT_TRUTH = json.dumps(
  {
    "qid": 1,
    "duration": 4,
    "relevant_windows": [[0, 10]],
    "relevant_clip_ids": [0],
    "saliency_scores": [[4, 4, 4]],
  }
)


def score_highlights(tmp_path, lines):
  path = write(tmp_path / "p.jsonl", lines)
  truth = write(tmp_path / "truth.jsonl", HIGHLIGHT_TRUTH)
  return score(path, ground_truth_path=truth, protocols=["qvhighlights"])


def test_highlight_problems_are_listed_by_line(tmp_path):
  [result] = score_highlights(tmp_path, highlight_lines())
  assert result["metrics"]["MR-full-mAP"] == 100.0
  lines = [
    highlight_lines(pred_relevant_windows=[[0, 10], [3, 2, 0.1]]),
    "{",
    highlight_lines(pred_saliency_scores=[None]),
    highlight_lines(qid=None, pred_relevant_windows=[]),
  ]
  with pytest.raises(MalformedFileError) as error:
    score_highlights(tmp_path, "\n".join(lines))
  locations = [problem.split(": ")[0] for problem in error.value.problems]
  assert locations == [
    "line 1.pred_relevant_windows[0]",
    "line 1.pred_relevant_windows[1]",
    "line 2",
    "line 3.qid",
    "line 3.pred_saliency_scores",
    "line 4.qid",
    "line 4.pred_relevant_windows",
  ]
  with pytest.raises(MalformedFileError, match="qid 1: got no prediction"):
    score_highlights(tmp_path, highlight_lines(qid=2))


def test_grounding_forms(tmp_path):
  truth = write(
    tmp_path / "captions.json",
    {
      "v.avi": {
        "timestamps": [[0, 50], [50, 100]],
        "sentences": ["one", "two"],
        "fps": 10,
      }
    },
  )
  documents = {
    "a.json": {
      "results": {"v_0": [{"segment": [0, 5], "score": 1}], "v_1": []}
    },
    "b.json": {"v_0": [[0, 5, 0.4]], "v_1": [[0, 1, 0.1]]},
    "c.json": {"v_0": {"timestamp": [[0, 5]]}, "v_1": {"timestamp": []}},
    "d.jsonl": '{"qid": "v_0", "pred_relevant_windows": [[0, 5, 1]]}',
    "e.json": {"v": [[[0, 5, 0.4]], [[0, 1, 0.1]]]},
    "f.json": [
      {"query_id": "v_0", "windows": [[0, 1], [0, 5]], "scores": [0.1, 0.2]},
      {"query_id": "v_1", "timestamp": [0, 1]},
    ],
    "g.json": {
      "results": {
        "v": [
          {"sentence": "One", "timestamp": [0, 5]},
          {"sentence": "two", "timestamp": [0, 1]},
        ]
      }
    },
    "h.json": {
      "videos": [
        {
          "video": "somewhere/v.avi",
          "predictions": [
            {"query": "one", "start_sec": 0, "end_sec": 5, "score": 1},
            {"query": "two", "start_sec": 0, "end_sec": 1, "score": 1},
          ],
        }
      ]
    },
  }
  for name, document in documents.items():
    [result] = score(
      write(tmp_path / name, document),
      ground_truth_path=truth,
      protocols=["tacos"],
    )
    assert result["metrics"]["r1@0.7"] == 0.5, name
    assert result["card"]["num_missing"] == (name == "d.jsonl")
  bad = write(tmp_path / "bad.json", {"v_0": [[0, "x", 1]], "v_1": 3})
  with pytest.raises(MalformedFileError) as error:
    score(bad, ground_truth_path=truth, protocols=["tacos"])
  assert len(error.value.problems) == 2
  unknown = {"results": {"v": [{"sentence": "four", "timestamp": [0, 5]}]}}
  write(bad, unknown)
  with pytest.raises(MalformedFileError, match="expected an annotated query"):
    score(bad, ground_truth_path=truth, protocols=["tacos"])
