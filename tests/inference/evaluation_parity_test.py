"""`clap predict` on a video finds what `clap eval` finds on its features."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from clap_jax.data import (
  class_texts,
  episode_batches,
  feature_reader,
  features,
  queries,
)
from clap_jax.data import episodes as episodes_lib
from clap_jax.evaluation import grounding as grounding_evaluation
from clap_jax.evaluation import (
  localization,
  moment_retrieval,
  results,
)
from clap_jax.inference import model_directory, predict, streaming
from clap_jax.models import fewshot_matcher, gtad, heads, localizer, pyramid
from clap_jax.models.gtad_decoding import GtadDecodeConfig
from clap_jax.trainers import fewshot, localizers
from tests.data import built_dataset
from tests.inference import toy_model
from tests.trainers import toy_features

LABELS = built_dataset.LABEL_NAMES
DURATION_SEC = 48.0  # 47 snippets; the heads are trained on 16
MANY = 10_000
DECODE = {"num_kept": 40, "num_candidates": 200, "min_score": 0.0}


@pytest.fixture(scope="module")
def folder(encoder, tmp_path_factory):
  """Two videos, their features as `clap extract` writes them, annotations."""
  folder = tmp_path_factory.mktemp("parity")
  database = {}
  for number, name in enumerate(("asked", "example")):
    path = folder / f"{name}.mp4"
    frames = round(DURATION_SEC * built_dataset.FPS)
    path.write_bytes(built_dataset.encode_mp4(frames, seed=number))
    encoded, _ = streaming.encode_video(
      encoder, path, stride_sec=toy_model.STRIDE_SEC
    )
    features.save_features(folder / "features", name, encoded)
    database[name] = {
      "subset": "validation",
      "duration": DURATION_SEC,
      "annotations": [
        {"label": label, "segment": [3.0 + 12 * place, 9.0 + 12 * place]}
        for place, label in enumerate(LABELS)
      ],
    }
  (folder / "annotations.json").write_text(json.dumps({"database": database}))
  results.write_json(
    folder / "features" / feature_reader.EXTRACTION_FILE,
    {
      "format": 1,
      "encoder": "clap",
      "dataset": "toy",
      "stride_sec": toy_model.STRIDE_SEC,
      "parameters": encoder.fingerprint,
    },
  )
  class_texts.save(
    folder / "features" / feature_reader.CLASSES_FILE,
    encoder.class_texts(LABELS),
  )
  (folder / "support").mkdir()
  (folder / "support" / "example.mp4").write_bytes(
    (folder / "example.mp4").read_bytes()
  )
  rows = [
    f"example.mp4,{3 + 12 * place},{9 + 12 * place},{label}\n"
    for place, label in enumerate(LABELS)
  ]
  (folder / "support" / "segments.csv").write_text(
    "video,start,end,label\n" + "".join(rows)
  )
  return folder


def reader_of(folder, length, max_length=toy_model.MAX_LENGTH):
  return feature_reader.FeatureReader(
    feature_reader.FeatureData(
      features_dir=str(folder / "features"),
      annotations=str(folder / "annotations.json"),
      train_split="validation",
      selection_split=None,
      eval_split="validation",
      batch_size=2,
      max_length=max_length,
      crop_probability=0.0,
      num_threads=0,
      length=length,
    )
  )


def initial(task, facts):
  params = jax.device_get(jax.jit(task.init)(jax.random.key(2)))
  # Heads begin with nearly equal scores; spread ones order the predictions.
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(0)
  leaves = [leaf + 0.3 * rng.normal(size=leaf.shape) for leaf in leaves]
  leaves = [np.asarray(leaf, np.float32) for leaf in leaves]
  return task, facts, jax.tree.unflatten(tree, leaves)


def predictor_of(task, params):
  compiled = jax.jit(task.predict)
  return lambda batch: jax.device_get(compiled(params, batch))


def make_localizer(encoder, kind, length):
  facts = {
    "localizer": kind,
    "label_names": sorted(LABELS),
    "feature_width": encoder.feature_width,
    "max_length": toy_model.MAX_LENGTH,
    "length": length,
    "standardization": None,
  }
  if kind == "points":
    facts |= {
      "pyramid": dataclasses.asdict(
        pyramid.PyramidConfig(width=16, num_levels=2, num_heads=2)
      ),
      "head": dataclasses.asdict(heads.HeadConfig()),
      "decode": dataclasses.asdict(localizer.DecodeConfig(**DECODE)),
    }
  else:
    facts |= {
      "graph": dataclasses.asdict(
        gtad.GtadConfig(
          width=8,
          num_groups=2,
          max_duration=8,
          num_bins=4,
          num_context_bins=1,
          map_widths=(8, 8),
        )
      ),
      "decode": dataclasses.asdict(GtadDecodeConfig(**DECODE)),
    }
  return initial(localizers.make_task(facts), facts)


def model_of(encoder, **parts):
  none = dict.fromkeys(("localizer", "grounder", "matcher"))
  return model_directory.Model(
    encoder=encoder, stride_sec=toy_model.STRIDE_SEC, **none | parts
  )


def predicted(folder, model, **request):
  document = predict.predict(
    model, [folder / "asked.mp4"], max_predictions=MANY, **request
  )
  assert document["failed"] == []
  return document["videos"][0]["predictions"]


def check_same(found, expected):
  """Rows (start_sec, end_sec, score, name), in any order of equal scores."""

  def ordered(rows):
    # The last digits of a score may differ between batch sizes.
    return sorted(rows, key=lambda row: (row[3], -round(row[2], 5), row[0]))

  assert len(expected) > 5
  assert len({row[2] for row in expected}) > 5
  assert len(found) == len(expected)
  for mine, theirs in zip(ordered(found), ordered(expected), strict=True):
    assert mine[3] == theirs[3]
    assert mine[2] == pytest.approx(theirs[2], rel=1e-3, abs=1e-6)
    assert mine[:2] == pytest.approx(
      theirs[:2], abs=toy_model.STRIDE_SEC / 2, rel=0
    )


def rows_of(entries, key="label"):
  return [(e["start_sec"], e["end_sec"], e["score"], e[key]) for e in entries]


@pytest.mark.parametrize("length", ["pad", "resize", "windows"])
@pytest.mark.parametrize("kind", ["points", "subgraph"])
def test_localizers(encoder, folder, tmp_path, kind, length):
  task, facts, params = make_localizer(encoder, kind, length)
  table = localization.detections(
    reader_of(folder, length),
    toy_features.FixedPredictor(predictor_of(task, params)),
    None,
    "validation",
    decode=task.decode_config,
    takes_any_length=task.takes_any_length,
  )
  written = tmp_path / "predictions.json"
  localization.write_predictions(table, written)
  expected = [
    (*entry["segment"], entry["score"], entry["label"])
    for entry in json.loads(written.read_text())["results"]["asked"]
  ]
  model = model_of(encoder, localizer=(task, facts, params))
  check_same(rows_of(predicted(folder, model)), expected)
  stored = folder / "features" / "asked.npz"
  document = predict.predict(model, [stored], max_predictions=MANY)
  check_same(rows_of(document["videos"][0]["predictions"]), expected)


def test_the_subgraph_head_never_sees_more_than_its_trained_length(
  encoder, folder
):
  _, facts, params = make_localizer(encoder, "subgraph", "pad")
  seen = []

  class Watched(localizers.SubgraphTask):
    def detect(self, params, features, mask):
      seen.append(features.shape)
      return super().detect(params, features, mask)

  task = localizers.make_task(facts)
  watched = Watched(**{
    field.name: getattr(task, field.name) for field in dataclasses.fields(task)
  })  # fmt: skip
  model = model_of(encoder, localizer=(watched, facts, params))
  assert predicted(folder, model)
  assert {shape[1] for shape in seen} == {toy_model.MAX_LENGTH}
  assert max(shape[0] for shape in seen) <= 4


@pytest.mark.parametrize("length", ["pad", "resize"])
@pytest.mark.parametrize("kind", ["pyramid", "map"])
def test_grounders(encoder, folder, kind, length):
  texts = ("it spins", "the square slides", "nothing moves")
  task, facts, _ = toy_model.make_model(encoder).grounder
  facts = facts | {
    "kind": kind,
    "length": length,
    "decode": facts["decode"] | DECODE,
  }
  task, facts, params = initial(toy_model.grounding.make_task(facts), facts)
  vectors, mask = encoder.text_vectors(list(texts))
  found = grounding_evaluation.find_moments(
    moment_retrieval.MomentSearch(task),
    params,
    split=queries.GroundingSplit(
      queries=tuple(
        queries.GroundingQuery(
          id=text, video_id="asked", text=text, windows=((0.0, 1.0),)
        )
        for text in texts
      ),
      duration_sec={"asked": DURATION_SEC},
    ),
    features=reader_of(folder, length).features("validation"),
    vectors=queries.QueryVectors(texts, vectors, mask),
    seed=0,
  )
  model = model_of(encoder, grounder=(task, facts, params))
  entries = predicted(folder, model, queries=list(texts))
  expected = [
    (*window, text)
    for text, answer in found.answers.items()
    for window in answer.windows.tolist()
  ]
  check_same(rows_of(entries, "query"), expected)


@pytest.mark.parametrize(
  ("length", "max_length"), [("pad", 64), ("resize", 16)]
)
def test_matchers(encoder, folder, length, max_length):
  facts = {
    "max_length": max_length,
    "length": length,
    "feature_width": encoder.feature_width,
    "pyramid": dataclasses.asdict(
      pyramid.PyramidConfig(width=16, num_levels=2, num_heads=2)
    ),
    "head": dataclasses.asdict(heads.HeadConfig()),
    "matcher": dataclasses.asdict(fewshot_matcher.MatcherConfig(use_text=True)),
    "decode": dataclasses.asdict(localizer.DecodeConfig(**DECODE)),
  }
  task, facts, params = initial(fewshot.make_task(facts), facts)
  reader = reader_of(folder, length, max_length)
  videos = episode_batches.EpisodeVideos(
    reader.examples("validation"),
    reader.features("validation"),
    label_names=reader.dataset.label_names,
    max_length=max_length,
    texts=reader.class_texts,
  )
  classes = tuple(sorted(LABELS))
  episode = episodes_lib.Episode("asked", classes, (("example",),) * 3)
  source = episode_batches.EvaluationEpisodes(videos, [episode])
  output = predictor_of(task, params)(source.collate([source[0]], batch_size=1))
  keep = output.mask[0]
  segments = videos.grid("asked").to_seconds(
    output.segments[0][keep].astype(np.float64)
  )
  expected = [
    (*segment, score, classes[label])
    for segment, score, label in zip(
      segments.clip(0.0, DURATION_SEC).tolist(),
      output.scores[0][keep].tolist(),
      output.labels[0][keep],
      strict=True,
    )
  ]
  model = model_of(encoder, matcher=(task, facts, params))
  entries = predicted(folder, model, support_dir=folder / "support")
  check_same(rows_of(entries), expected)
