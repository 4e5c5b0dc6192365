"""Predictions and annotations as text of every form; names of videos."""

import itertools
import json
import unicodedata

import pytest

from clap_jax.annotations.problems import MalformedFileError
from clap_jax.metrics import ground_truth_files, prediction_files, query_files
from clap_jax.metrics.score import score

TRUTH = {
  "database": {
    "a": {
      "subset": "validation",
      "annotations": [{"segment": [1.0, 4.0], "label": "run"}],
    },
    "caf\u00e9": {
      "subset": "validation",
      "annotations": [{"segment": ["0:02", "0:06.5"], "label": "jump"}],
    },
  }
}
ROWS = (("a", "1.0", "4.0", "run", "0.9"), ("b", "2.0", "6.5", "jump", "0.8"))


def _lines(delimiter, *, preamble, header, clock):
  def time(text):
    if clock:
      return f"00:0{text}"
    return text if delimiter == "," else text.replace(".", ",")

  rows = [
    (video, time(start), time(end), label, value)
    for video, start, end, label, value in ROWS
  ]
  lines = [delimiter.join(cells) for cells in (header, *rows)]
  return [f"sep={delimiter}", *lines] if preamble else lines


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
  "header",
  [
    ("video", "start", "end", "label", "score"),
    ("Video ID", " T-Start", "T-End ", "LABEL", "Score"),
    ("video-id", "t-start", "t-end", "label", "score"),
  ],
)
def test_tables_of_predictions_and_annotations(tmp_path, encoding, header):
  path = tmp_path / "p.csv"
  truth_header = ("video", "start", "end", "label", "score")
  for delimiter, preamble, clock in itertools.product(
    ",;\t", (False, True), (False, True)
  ):
    options = {"preamble": preamble, "clock": clock}
    for names in (header, truth_header):
      lines = _lines(delimiter, header=names, **options)
      path.write_bytes("\r\n".join([*lines, "", ""]).encode(encoding))
      if names is header:
        table = prediction_files.read_detections(path)
        assert table.score.tolist() == [0.9, 0.8]
      else:
        truth = ground_truth_files.read_ground_truth(path, subset=None)
        table = truth.table
      assert table.segments.tolist() == [[1.0, 4.0], [2.0, 6.5]]
      assert table.video_names == ("a", "b")
      assert set(table.label_names) == {"run", "jump"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_other_texts(tmp_path, encoding):
  (tmp_path / "truth.json").write_bytes(json.dumps(TRUTH).encode(encoding))
  truth = ground_truth_files.read_ground_truth(
    tmp_path / "truth.json", subset="Val"
  )
  assert truth.table.segments.tolist() == [[1.0, 4.0], [2.0, 6.5]]
  (tmp_path / "sta.txt").write_bytes(
    "A 0 5##sits\r\nB 1 2##x\r\n".encode(encoding)
  )
  answers = query_files.read_query_answers(tmp_path / "sta.txt")
  assert answers.id_of_text == {("A", "sits"): "0", ("B", "x"): "1"}
  (tmp_path / "p.txt").write_bytes("a.mp4 1 4 7 0.5\r\n".encode(encoding))
  table = prediction_files.read_detections(tmp_path / "p.txt")
  assert (table.video_names, len(table)) == (("a",), 1)


@pytest.mark.parametrize(
  "content,word",
  [
    (b"video,start,end,label\na,1,2,z\xfcr\n", "line 2"),
    (b"video,start,end,label\na,x,2,run\n", "line 2"),
    (b"video,Video,start,end,label\n", "several columns"),
    (b"PK\x03\x04", "Excel"),
  ],
)
def test_bad_tables_are_named(tmp_path, content, word):
  path = tmp_path / "t.csv"
  path.write_bytes(content)
  with pytest.raises(MalformedFileError, match=rf"t\.csv.*\n.*{word}"):
    ground_truth_files.read_ground_truth(path, subset=None)


@pytest.mark.parametrize(
  ("name", "line", "read"),
  [
    ("p.jsonl", "a", prediction_files.read_detections),
    ("p.jsonl", "{}", prediction_files.read_detections),
    ("p.txt", "a", prediction_files.read_detections),
    ("p.txt", "a", query_files.read_query_answers),
    ("p.jsonl", "a", query_files.read_query_answers),
  ],
)
def test_of_very_many_problems_the_first_are_listed(tmp_path, name, line, read):
  path = tmp_path / name
  path.write_text(f"{line}\n" * 20_000)
  with pytest.raises(
    MalformedFileError, match="the rest was not read"
  ) as error:
    read(path)
  assert len(error.value.problems) == 1000


@pytest.mark.parametrize("content", ["{}", "a,b\n1,2\n", "[" * 200_000])
def test_a_table_without_a_known_column_is_an_error(tmp_path, content):
  path = tmp_path / "p.csv"
  path.write_text(content)
  with pytest.raises(MalformedFileError, match=r"p\.csv.*\n.*(header|line 1)"):
    prediction_files.read_detections(path)


@pytest.mark.parametrize(
  "names,note",
  [
    (("a", "caf\u00e9"), None),
    (("v_a", "v_caf\u00e9"), "'v_'"),
    (("a.mp4", "caf\u00e9.mp4"), "'a.mp4' is 'a'"),
    (("x/a.mp4", "C:\\y\\caf\u00e9.mkv"), "file names"),
    (("other", unicodedata.normalize("NFD", "caf\u00e9")), "file names"),
  ],
)
def test_names_of_predicted_videos(tmp_path, names, note):
  truth, path = tmp_path / "truth.json", tmp_path / "p.json"
  truth.write_text(json.dumps(TRUTH))
  results = {
    name: [{"segment": [*segment], "label": label, "score": 0.5}]
    for name, segment, label in zip(
      names, ((1, 4), (2, 6.5)), ("run", "jump"), strict=True
    )
  }
  path.write_text(json.dumps({"results": results}))
  (result,) = score(path, ground_truth_path=truth, protocols=["activitynet"])
  notes = result["card"]["notes"]
  assert result["metrics"]["average_map"] == (0.5 if "other" in names else 1.0)
  assert bool(notes) == (note is not None)
  assert note is None or note in notes[0]


def test_two_names_of_one_video_are_not_joined(tmp_path):
  truth, path = tmp_path / "truth.json", tmp_path / "p.json"
  truth.write_text(json.dumps(TRUTH))
  entry = [{"segment": [1, 4], "label": "run", "score": 0.5}]
  path.write_text(json.dumps({"results": {"x/a.mp4": entry, "y/a.mp4": entry}}))
  with pytest.raises(MalformedFileError, match="no video in common"):
    score(path, ground_truth_path=truth, protocols=["activitynet"])


def test_sentences_match_in_every_unicode_form(tmp_path):
  video, text = "caf\u00e9", "un caf\u00e9"
  truth, path = tmp_path / "truth.json", tmp_path / "p.json"
  truth.write_text(
    json.dumps({video: {"timestamps": [[1, 4]], "sentences": [text]}})
  )
  video, text = (unicodedata.normalize("NFD", part) for part in (video, text))
  path.write_text(
    json.dumps([{"video": video, "query": text, "windows": [[1, 4]]}])
  )
  answers = query_files.read_query_answers(truth)
  found = query_files.read_windows(path, id_of_text=answers.id_of_text)
  assert list(found.windows) == ["caf\u00e9_0"]
