import json

import numpy as np
import pytest

from clap_jax.data import query_annotations as annotations
from clap_jax.metrics import query_files

# A line of a video whose saliency would take 200 TiB.
LONG = json.dumps(
  {
    "qid": 1,
    "query": "x",
    "vid": "a",
    "duration": 1e14,
    "relevant_windows": [[0, 2]],
    "relevant_clip_ids": [0],
    "saliency_scores": [[1]],
  }
)


def write(path, content):
  text = content if isinstance(content, str) else json.dumps(content)
  path.write_text(text)
  return path


def test_by_video_in_seconds_and_in_frames(tmp_path):
  entry = {"timestamps": [[0, 10], [30, 20]], "sentences": [" a  b. ", "c"]}
  seconds = write(tmp_path / "s.json", {"v_1": {"duration": 50.0, **entry}})
  split = annotations.read_split(seconds)
  (query,) = split.queries  # the second one ends before it starts
  assert (query.id, query.text, query.windows) == ("v_1_0", "a b.", ((0, 10),))
  assert split.duration_sec == {"v_1": 50.0}
  frames = write(
    tmp_path / "f.json", {"s1.avi": {"fps": 2.0, "num_frames": 80, **entry}}
  )
  split = annotations.read_split(frames)
  assert split.queries[0].windows == ((0, 5),)
  assert split.duration_sec == {"s1": 40.0}


def test_lines_with_saliency(tmp_path):
  record = {
    "qid": 7,
    "query": "x",
    "vid": "a_0.0_8.0",
    "duration": 8,
    "relevant_clip_ids": [1, 2],
    "saliency_scores": [[1, 2, 3], [4, 4, 4]],
    "relevant_windows": [[2, 6]],
  }
  path = write(tmp_path / "q.jsonl", json.dumps(record) + "\n\n")
  (query,) = annotations.read_split(path).queries
  np.testing.assert_array_equal(
    query.saliency, [[0, 0, 0], [1, 2, 3], [4, 4, 4], [0, 0, 0]]
  )


def test_text_needs_durations(tmp_path):
  path = write(tmp_path / "c.txt", "ABC 1.0 2.5##a man sits.\n")
  with pytest.raises(ValueError, match="1 videos have no duration"):
    annotations.read_split(path)
  lengths = write(tmp_path / "l.csv", "id,subject,length\nABC,x,31.2\n")
  split = annotations.read_split(path, duration_files=[str(lengths)])
  assert split.queries[0].id == "0"
  assert split.duration_sec == {"ABC": 31.2}
  with pytest.raises(ValueError, match=r"w\.csv.*lacks .*'length'"):
    annotations.read_split(
      path, duration_files=[write(tmp_path / "w.csv", "video\nABC\n")]
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_of_every_editor(tmp_path, encoding):
  texts = {
    "a.json": '{"A": {"duration": "1:00", "timestamps": [["0:01", 5]], '
    '"sentences": ["sits"]}}',
    "a.jsonl": '{"qid": 0, "query": "sits", "vid": "A", "duration": 60, '
    '"relevant_windows": [[1, "00:05"]]}\r\n',
    "a.txt": "A 0:01 5.0##sits\r\n",
  }
  for name, text in texts.items():
    (tmp_path / name).write_bytes(text.encode(encoding))
  for text in ("id,length\r\nA,60\r\n", "Video;Duration (s)\nA;60,0\n"):
    (tmp_path / "l.csv").write_bytes(text.encode(encoding))
    for name in texts:
      split = annotations.read_split(
        tmp_path / name, duration_files=[str(tmp_path / "l.csv")]
      )
      (query,) = split.queries
      assert (query.text, query.windows) == ("sits", ((1.0, 5.0),))
      assert split.duration_sec == {"A": 60.0}
  (tmp_path / "ids").write_bytes("#x\r\nA\r\n".encode(encoding))
  assert annotations.read_ids(str(tmp_path / "ids")) == {"A"}


def test_bytes_of_another_encoding_are_named(tmp_path):
  (tmp_path / "a.txt").write_bytes(b"A 0 5##sits\nB 1 2##caf\xe9\n")
  with pytest.raises(ValueError, match=r"a\.txt.*\n.*line 2"):
    annotations.read_split(tmp_path / "a.txt")


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.json", "[1", r"a\.json is not JSON"),
    ("a.json", [1], r"\[0\]: not an object"),
    ("a.json", {"v": {"duration": 1, "timestamps": [], "sentences": ["x"]}},
     r"v\.timestamps.*as many timestamps as sentences"),
    ("a.json", {"v": {"duration": 9, "timestamps": [["x", 1]],
                      "sentences": ["x"]}}, r"v\.timestamps\[0\].*'x'"),
    ("a.json", {"v": {"duration": 9, "timestamps": [[0, 1]],
                      "sentences": [" "]}}, r"s\[0\]: got no sentence"),
    ("a.json", {"v": {"duration": 9, "annotations": []}}, "found no query"),
    ("a.jsonl", '{"qid": 1}\nx',
     r"line 1: got[^\n]*\n  line 2: it is not JSON"),
    ("a.jsonl", "[" * 100_000, "line 1: .* nested too deeply"),
    ("a.json", '{"a":' * 100_000, "nested too deeply"),
    ("a.jsonl", "x\n" * 20_000, "the rest was not read"),
    ("a.txt", "x\n" * 20_000, "the rest was not read"),
    ("a.jsonl", LONG, "saliency of 50000000000000 clips"),
    ("a.jsonl", '{"qid": 1, "vid": "a", "query": "x", "duration": 3}',
     "test file without them"),
    ("a.txt", "ABC 1.0##x", "line 1: got 'ABC 1.0##x'"),
    ("a.xml", "<a/>", "unknown kind of annotations"),
  ],
)  # fmt: skip
def test_what_is_malformed_is_located(tmp_path, name, content, message):
  path = write(tmp_path / name, content)
  with pytest.raises(ValueError, match=message):
    annotations.read_split(path)


def test_held_out_videos_and_the_clips_cut_from_them(tmp_path):
  entry = {"duration": 9, "timestamps": [[0, 1]], "sentences": ["x"]}
  names = ["a", "b", "c_0.0_9.0", "a_b"]
  split = annotations.read_split(
    write(tmp_path / "s.json", {name: entry for name in names})
  )
  path = write(tmp_path / "ids.txt", "# a comment\na\n\nc\n")
  rest, out = annotations.divided(split, annotations.read_ids(str(path)))
  assert set(out.duration_sec) == {"a", "c_0.0_9.0"}
  assert {q.video_id for q in rest.queries} == {"b", "a_b"}
  with pytest.raises(FileNotFoundError, match="charades_sta, qvhighlights"):
    annotations.read_ids("nothing")


FILES = [
  ("activitynet_captions/val_1.json", 4917, 17505),
  ("activitynet_captions/val_2.json", 4885, 17031),
  ("charades_sta/charades_sta_test.txt", 1334, 3720),
  ("charades_sta/mmn_charades_test.json", 1334, 3720),
  ("tacos/val.json", 27, 4436),
  ("tacos/cgdetr_test.jsonl", 25, 4001),
  ("qvhighlights/highlight_val_release.jsonl", 1519, 1550),
]


@pytest.mark.parametrize(("name", "num_videos", "num_queries"), FILES)
def test_published_files(shared_data, name, num_videos, num_queries):
  """All queries, under the ids and with the windows of `clap score`."""
  path = shared_data / name
  lengths = path.parent / "Charades_v1_test.csv"
  split = annotations.read_split(
    path, duration_files=[str(lengths)] if path.suffix == ".txt" else ()
  )
  assert len(split.queries) == num_queries
  assert len(split.duration_sec) == num_videos
  answers = query_files.read_query_answers(path).windows
  assert set(answers) == {query.id for query in split.queries}
  for query in split.queries:
    np.testing.assert_allclose(query.windows, answers[query.id])


@pytest.mark.parametrize(
  ("name", "file", "num_videos"),
  [
    ("charades_sta", "charades_sta/charades_sta_train.txt", 534),
    ("qvhighlights", "qvhighlights/highlight_train_release.jsonl", 221),
  ],
)
def test_published_held_out_lists(shared_data, name, file, num_videos):
  """They lie in the training files, and leave most of them."""
  held_out = annotations.read_ids(name)
  assert len(held_out) == num_videos
  path = shared_data / file
  lengths = path.parent / "Charades_v1_train.csv"
  split = annotations.read_split(
    path, duration_files=[str(lengths)] if path.suffix == ".txt" else ()
  )
  rest, out = annotations.divided(split, held_out)
  share = len(out.queries) / len(split.queries)
  assert 0.08 < share < 0.12
  assert not set(rest.duration_sec) & set(out.duration_sec)
