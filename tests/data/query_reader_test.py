"""Annotation files joined with feature files of others."""

import json

import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax.data import queries, query_reader
from clap_jax.metrics.score import score
from clap_jax.trainers import grounding, registry
from configs import grounding_activitynet_captions, grounding_qvhighlights
from tests.configs import keys

WIDTHS = (6, 4)


def write_texts(path, texts):
  rng = np.random.default_rng(0)
  np.savez(
    path,
    texts=np.array(texts),
    vectors=rng.normal(size=(len(texts), 5, 8)).astype(np.float16),
    mask=np.arange(5) < rng.integers(1, 6, (len(texts), 1)),
  )


def captions(path, videos):
  """Two sentences per video of 40 s."""
  entry = {"duration": 40.0, "timestamps": [[2, 10], [12.5, 30]]}
  path.write_text(
    json.dumps(
      {v: entry | {"sentences": [f"{v} runs.", f"{v} sits"]} for v in videos}
    )
  )


@pytest.fixture
def directory(tmp_path):
  """Three splits of captions, features of all videos but "v_6"."""
  videos = [f"v_{number}" for number in range(8)]
  for name, part in (
    ("train", videos[:5]),
    ("val_1", videos[5:7]),
    ("val_2", videos[7:]),
  ):
    captions(tmp_path / f"{name}.json", part)
  write_texts(
    tmp_path / "texts.npz",
    [f"{v} {verb}" for v in videos for verb in ("runs.", "sits")],
  )
  for number, video in enumerate(videos):
    if video != "v_6":
      array = np.random.default_rng(number).normal(size=(20 + number, 6))
      np.save(tmp_path / f"{video}.npy", array.astype(np.float32))
  return tmp_path


def resolved(directory, **changes):
  config = grounding_activitynet_captions.get_config("tiny")
  files = {
    name: str(directory / f"{name}.json")
    for name in ("train", "val_1", "val_2")
  }
  keys.change(
    config,
    {
      "data.features_dir": str(directory),
      "data.files.names": ("{id}.npy",),
      "data.files.key": "",
      "data.queries.files": files,
      "data.queries.texts": str(directory / "texts.npz"),
      **changes,
    },
  )
  return registry.resolve(config)


def test_splits_features_and_texts(directory):
  config = resolved(directory)
  reader = query_reader.open_reader(config.data)
  split = reader.grounding_split("val_1")
  assert [q.id for q in split.queries] == ["v_5_0", "v_5_1", "v_6_0", "v_6_1"]
  loaded = reader.features("val_1")
  assert set(loaded) == {"v_5"}  # the other is on the card
  video = loaded["v_5"]
  assert video.features.shape == (256, 6)  # resized
  assert video.grid.to_seconds(255) == pytest.approx(40 - 40 / 512)
  assert reader.texts.vectors.shape == (16, 5, 8)
  card = reader.card("val_1", task="grounding", protocol="x")
  assert (card["num_evaluated"], card["missing"]) == (1, ["v_6"])
  assert "c3d" in card["notes"][0]
  source = grounding.make_source(config, reader)
  batch = source.collate([source.item(0, seed=0)], batch_size=1)
  assert batch.features.shape == (1, 256, 6) and batch.valid.sum() == 4


def test_held_out_videos_select(directory):
  (directory / "ids.txt").write_text("v_1\nv_3\n")
  config = resolved(
    directory,
    **{
      "data.queries.held_out": str(directory / "ids.txt"),
      "data.selection_split": "selection",
    },
  )
  reader = query_reader.open_reader(config.data)
  assert set(reader.features("train")) == {"v_0", "v_2", "v_4"}
  assert set(reader.features("selection")) == {"v_1", "v_3"}
  with pytest.raises(ValueError, match="no annotation file of the split 'tst'"):
    reader.grounding_split("tst")
  (directory / "ids.txt").write_text("nobody\n")
  reader = query_reader.open_reader(config.data)
  with pytest.raises(ValueError, match="10 queries to train on and 0"):
    reader.grounding_split("train")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"data.eval_split": "val_1"}, "cannot both select and be reported"),
    ({"data.dataset": None}, "dataset"),
  ],
)
def test_configs_that_cannot_be(directory, changes, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    resolved(directory, **changes)


def highlights(path, videos):
  records = [
    {
      "qid": 10 * number + place,
      "query": f"{video} {place}",
      "vid": video,
      "duration": 40,
      "relevant_windows": windows,
      "relevant_clip_ids": ids,
      "saliency_scores": [[4, 2, 3]] * len(ids),
    }
    for number, video in enumerate(videos)
    for place, (windows, ids) in enumerate(
      [([[2, 6]], [1, 2]), ([[10, 12], [20, 30]], [5, 10, 11, 12, 13, 14])]
    )
  ]
  path.write_text("".join(json.dumps(r) + "\n" for r in records))
  return [record["query"] for record in records]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pyramid", "map"])
def test_highlights_from_files_to_the_benchmarks_own_scores(tmp_path, kind):
  """What the run reports equals `clap score` on the file that it writes."""
  train = [f"{letter}_0.0_40.0" for letter in "abcd"]
  texts = highlights(tmp_path / "train.jsonl", train)
  texts += highlights(tmp_path / "val.jsonl", ["e_0.0_40.0", "f_0.0_40.0"])
  write_texts(tmp_path / "texts.npz", list(dict.fromkeys(texts)))
  (tmp_path / "ids.txt").write_text("a\nb\n")
  for folder, width in zip(("slow", "clip"), WIDTHS, strict=True):
    (tmp_path / folder).mkdir()
    for video in (*train, "e_0.0_40.0", "f_0.0_40.0"):
      np.savez(
        tmp_path / folder / f"{video}.npz",
        features=np.random.default_rng(width).normal(size=(20, width)),
      )
  config = grounding_qvhighlights.get_config(f"tiny,kind={kind}")
  keys.change(
    config,
    {
      "data.features_dir": str(tmp_path),
      "data.files.names": ("slow/{id}.npz", "clip/{id}.npz"),
      "data.queries.files": {
        name: str(tmp_path / f"{name}.jsonl") for name in ("train", "val")
      },
      "data.queries.texts": str(tmp_path / "texts.npz"),
      "data.queries.held_out": str(tmp_path / "ids.txt"),
      "data.batch_size": 8,  # one for each of the tests' devices
      "data.max_length": 24,
      "map.pooling_counts": (7,),
    },
  )
  rows = grounding.train(registry.resolve(config), tmp_path / "run")
  values = {row["metric"]: row["value"] for row in rows}
  assert {"MR-full-mAP", "HL-min-VeryGood-Hit1", "absent_f1"} <= set(values)
  (report,) = score(
    tmp_path / "run" / "predictions.jsonl",
    ground_truth_path=tmp_path / "val.jsonl",
    protocols=["qvhighlights"],
  )
  for name, value in report["metrics"].items():
    assert values[name] == pytest.approx(value, abs=0.011), name


def test_real_highlight_features(shared_data, tmp_path):
  """One clip of QVHighlights: SlowFast beside CLIP, two seconds a step."""
  folder = shared_data / "features" / "qvhighlights"
  annotations = shared_data / "qvhighlights/highlight_train_release.jsonl"
  lines = [
    x for x in annotations.read_text().split("\n") if '"qid": 5263,' in x
  ]
  (tmp_path / "train.jsonl").write_text(lines[0] + "\n")
  (tmp_path / "val.jsonl").write_text(lines[0] + "\n")
  query = json.loads(lines[0])["query"]
  text = np.load(folder / "clip_text_qid5263.npz")["last_hidden_state"]
  np.savez(
    tmp_path / "texts.npz",
    texts=np.array([query]),
    vectors=text[None],
    mask=np.ones((1, len(text)), bool),
  )
  config = grounding_qvhighlights.get_config("tiny")
  keys.change(
    config,
    {
      "data.features_dir": str(folder),
      "data.files.names": ("slowfast_{id}.npz", "clip_{id}.npz"),
      "data.queries.files": {
        name: str(tmp_path / f"{name}.jsonl") for name in ("train", "val")
      },
      "data.queries.texts": str(tmp_path / "texts.npz"),
      "data.queries.held_out": None,
      "data.selection_split": "train",
    },
  )
  config = registry.resolve(config)
  reader = query_reader.open_reader(config.data)
  (video,) = reader.features("train").values()
  assert video.features.shape == (75, 2304 + 512)
  source = grounding.make_source(config, reader)
  batch = source.collate([source.item(0, seed=0)], batch_size=1)
  steps = np.flatnonzero(batch.saliency[0, 0])
  np.testing.assert_array_equal(steps, [*range(15), *range(39, 55)])
  segments = batch.segments[0, 0][batch.segment_mask[0, 0]]
  seconds = video.grid.to_seconds(segments)
  np.testing.assert_allclose(seconds, [[0, 30], [78, 110]], atol=1e-4)
  (asked,) = reader.grounding_split("train").queries
  middle_sec = video.grid.to_seconds(np.arange(75))
  back = queries.clip_saliency(
    queries.snippet_saliency(asked, middle_sec), middle_sec, duration_sec=150.0
  )
  np.testing.assert_allclose(back, asked.saliency.mean(axis=1) / 4, atol=1e-6)
