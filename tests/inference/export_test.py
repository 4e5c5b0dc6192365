"""Predictions in other programs' forms, and the page that plays them."""

import csv
import html
import io
import json

import pytest

from clap_jax.inference import export
from tests.data import built_dataset


@pytest.fixture
def document(tmp_path):
  video = tmp_path / "two words.mp4"
  video.write_bytes(built_dataset.encode_mp4(24))
  return {
    "videos": [
      {
        "video": str(video),
        "duration_sec": 3723.5,
        "predictions": [
          {"start_sec": 0.5, "end_sec": 2.25, "score": 0.4, "label": "spins"},
          {
            "start_sec": 3661.0,
            "end_sec": 3723.5,
            "score": 0.9,
            "query": "a <b> --> c\nfalls",
          },
        ],
        "absence": {
          "a <b> --> c\nfalls": {"probability": 0.1, "absent": False},
          "nobody": {"probability": 0.9, "absent": True},
        },
        "absent": False,
      }
    ],
    "failed": [],
  }


def test_activitynet_and_qvhighlights(document):
  results = export.activitynet(document)["results"]
  assert results["two words"] == [
    {"label": "a <b> --> c\nfalls", "score": 0.9, "segment": [3661.0, 3723.5]},
    {"label": "spins", "score": 0.4, "segment": [0.5, 2.25]},
  ]
  rows = export.qvhighlights(document)
  assert [row["qid"] for row in rows] == [0, 1]
  assert {row["vid"] for row in rows} == {"two words"}
  assert rows[0]["pred_relevant_windows"] == [[3661.0, 3723.5, 0.9]]
  assert rows[1]["query"] == "nobody" and not rows[1]["pred_relevant_windows"]


def test_table_keeps_every_value(document):
  rows = list(csv.DictReader(io.StringIO(export.csv_text(document))))
  assert [row["label"] or row["query"] for row in rows] == [
    "a <b> --> c\nfalls",
    "spins",
  ]
  assert float(rows[1]["end_sec"]) == 2.25


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula_and_numbers_stay_numbers(document, start):
  entry = document["videos"][0]
  found = entry["predictions"][0] | {"label": f"{start}1+1", "score": -0.5}
  entry = entry | {"video": f"{start}a.mp4", "predictions": [found]}
  text = io.StringIO(export.csv_text({"videos": [entry]}), newline="")
  (row,) = csv.DictReader(text)
  start = start.replace("\r", "\n")
  assert row["label"] == f"'{start}1+1" and row["video"] == f"'{start}a.mp4"
  assert float(row["score"]) == -0.5


def test_the_page_escapes_names(document):
  entry = document["videos"][0] | {"video": "/x/<img src=y>&'\".mp4"}
  text = export.player.render(entry)
  assert "<img" not in text and "&lt;img src=y&gt;" in text


def test_a_name_makes_a_file_of_its_own_that_can_be_written(tmp_path):
  names = ["a\nb.mp4", "a\x1bb.mp4", "\udcff.mp4", "名" * 80 + ".mp4"]
  stems = export.file_stems({"videos": [{"video": name} for name in names]})
  assert stems[:2] == ["a_b", "a_b-2"] and len(set(stems)) == len(names)
  for stem in stems:
    (tmp_path / f"{stem}.html").write_text("")


def test_files_appear_once_and_are_not_overwritten(document, tmp_path):
  out = tmp_path / "out"
  done = export.write(document, out)
  assert not done.failed
  assert sorted(path.name for path in done.files) == [
    "predictions.activitynet.json",
    "predictions.csv",
    "predictions.qvhighlights.jsonl",
    "two words.html",
  ]
  assert json.loads((out / "predictions.activitynet.json").read_text())
  with pytest.raises(FileExistsError, match="--overwrite"):
    export.write(document, out)
  export.write(document, out, overwrite=True)


def test_page_embeds_the_video_and_escapes_texts(document):
  text = export.player.render(document["videos"][0])
  assert 'src="data:video/mp4;base64,' in text
  assert "<b>" not in text and html.escape("a <b> -") in text
  assert text.count("data-start=") == 2 * 2 + 0
  assert "no such moment" in text and "://" not in text


def test_page_of_a_missing_video_states_it(document):
  entry = document["videos"][0] | {"video": "/nowhere/gone.mp4"}
  text = export.player.render(entry)
  assert "gone.mp4 was not found" in text and "<video" not in text


def test_videos_of_one_name_get_files_of_their_own(document):
  other = document["videos"][0] | {"video": "/elsewhere/two words.mp4"}
  twice = document | {"videos": [document["videos"][0], other]}
  assert export.file_stems(twice) == ["two words", "two words-2"]


def test_no_video_is_given_the_name_of_another(document):
  paths = ("/a/x.mp4", "/b/x.mp4", "/x-2.mp4", "/v_--0edUL8zmA.mp4")
  several = document | {
    "videos": [document["videos"][0] | {"video": path} for path in paths]
  }
  names = ["/a/x.mp4", "/b/x.mp4", "x-2", "v_--0edUL8zmA"]
  assert list(export.activitynet(several)["results"]) == names
  rows = export.qvhighlights(several)
  assert list(dict.fromkeys(row["vid"] for row in rows)) == names
