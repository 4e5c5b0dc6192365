"""Few-shot localization: who may be judged, by what, and what is told of it."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax import main
from clap_jax.data import (
  class_splits,
  episode_batches,
  episodes,
  feature_reader,
)
from clap_jax.evaluation import fewshot as fewshot_evaluation
from clap_jax.evaluation import (
  fewshot_cards,
  fewshot_methods,
  results,
)
from clap_jax.evaluation import predictor as predictor_lib
from clap_jax.metrics import intervals
from clap_jax.trainers import abstract, fewshot, registry
from clap_jax.training import mesh as mesh_lib
from configs import fewshot_sprites
from tests.configs import keys
from tests.trainers import toy_features

SPLIT = {"base": ["fades", "slides"], "validation": [], "novel": ["spins"]}


@pytest.fixture
def split_file(tmp_path) -> pathlib.Path:
  path = tmp_path / "split.json"
  path.write_text(json.dumps(SPLIT))
  return path


def resolved(directory, split_file, **changes):
  config = fewshot_sprites.get_config("tiny")
  keys.change(
    config,
    toy_features.overrides(directory)
    | {
      "class_split": str(split_file),
      "pyramid.dropout_rate": 0.0,
      "evaluation.min_episodes": 10,
    }
    | changes,
  )
  return registry.resolve(config)


@pytest.fixture
def parts(toy_directory, split_file):
  """(config, reader, scores)."""
  config = resolved(toy_directory, split_file)
  reader = feature_reader.FeatureReader(config.data)
  split = class_splits.class_split(str(split_file))
  return config, reader, fewshot_evaluation.Evaluator(config, reader, split)


def told(directory, **training) -> None:
  """Changes what the extraction says of its encoder."""
  path = directory / "features" / feature_reader.EXTRACTION_FILE
  facts = json.loads(path.read_text())
  results.write_json(path, facts | {"training": training})


@pytest.mark.parametrize(
  ("split", "named"),
  [
    (
      {"base": ["fades"], "validation": ["slides"], "novel": ["spins"]},
      ("data.eval_split", "novel classes", "spins: 5", "evaluation.shots"),
    ),
    (
      {"base": ["fades"], "validation": [], "novel": ["spins", "slides"]},
      ("data.eval_split", "novel classes", "evaluation.ways"),
    ),
  ],
)
def test_too_few_videos_are_found_before_training(
  toy_directory, split_file, tmp_path, split, named
):
  split_file.write_text(json.dumps(split))
  config = resolved(
    toy_directory,
    split_file,
    **{"evaluation.shots": (20,), "allow_seen_classes": True},
  )
  with pytest.raises(ValueError, match="20-shot") as error:
    fewshot.train(config, tmp_path / "run")
  for text in named:
    assert text in str(error.value), text
  assert not (tmp_path / "run").exists()


def test_a_run_from_features_to_rows_with_cards(
  toy_directory, split_file, tmp_path
):
  config = resolved(toy_directory, split_file, **{"evaluation.shots": (2,)})
  workdir = tmp_path / "run"
  rows = fewshot.train(config, workdir)
  assert rows == results.read(workdir)
  assert {row["task"] for row in rows} == {"fewshot"}
  metrics = {row["metric"] for row in rows}
  for shots in (2,):
    for method in ("prototypes", "nearest_prototype", "text_only"):
      assert f"1way_{shots}shot/{method}/average_map" in metrics
    path = workdir / f"episodes_1way_{shots}shot.json"
    drawn = json.loads(path.read_text())
    cards = [
      row["card"]
      for row in rows
      if row["metric"].startswith(f"1way_{shots}shot/")
    ]
    assert {card["episodes_sha256"] for card in cards} == {drawn["sha256"]}
    num_episodes = sum(map(len, drawn["runs"]))
    assert {card["num_episodes"] for card in cards} == {num_episodes}
    assert num_episodes >= 10
    queries = {episode["query"] for episode in drawn["runs"][0]}
    assert {card["num_evaluated"] for card in cards} == {len(queries)}
  for row in rows:
    low, high = row["card"]["interval_95"]
    assert low <= row["value"] <= high
    notes = " ".join(row["card"]["notes"])
    assert "trained on no validation and no novel class" in notes
    assert "not for reporting" in notes, "fewer than 1,000 episodes"
    assert "LEGACY" not in notes and "allow_seen_classes" not in notes
  again = fewshot.evaluate(config, workdir)
  assert [r["value"] for r in again] == [r["value"] for r in rows]

  out = tmp_path / "again.json"
  asked = ["eval", f"--workdir={workdir}", f"--json={out}"]
  other = "--config.evaluation.instances=('all', 'single')"
  assert main.main([*asked, other]) == 0
  found = json.loads(out.read_text())["rows"]
  assert found[: len(rows)] == rows
  names = {row["metric"].partition("/")[0] for row in found[len(rows) :]}
  assert names == {"1way_2shot_single"}
  assert main.main([*asked, "--config.loop.steps=5"]) == 2


@pytest.mark.parametrize(
  ("training", "message"),
  [
    (
      {"seen_classes": ["slides", "spins"]},
      r"on the novel classes \['spins'\]",
    ),
    ({"seen_classes": None}, "are not recorded"),
    ({}, "are not recorded"),
    ({"seen_classes": ["slides"]}, "captions .* are not recorded"),
    (
      {
        "seen_classes": [],
        "captions": [{"dataset": "other", "hidden": ["fades"]}],
      },
      "captions of other from which the novel classes were not hidden",
    ),
    (
      {"seen_classes": ["slides", "It spinned"], "captions": []},
      r"on the novel classes \['It spinned'\]",
    ),
  ],
)
def test_an_encoder_that_saw_the_novel_classes_is_refused(
  own_toy_directory, split_file, tmp_path, training, message
):
  told(own_toy_directory, **training)
  with pytest.raises(ValueError, match=message):
    fewshot.train(resolved(own_toy_directory, split_file), tmp_path / "run")
  assert not (tmp_path / "run").exists()

  allowed = resolved(
    own_toy_directory, split_file, **{"allow_seen_classes": True}
  )
  reader = feature_reader.FeatureReader(allowed.data)
  scores = fewshot_evaluation.Evaluator(
    allowed, reader, class_splits.class_split(str(split_file))
  )
  card = row_of(scores)["card"]
  assert any("allow_seen_classes is on" in note for note in card["notes"])
  spins = allowed_truths(reader)
  assert card["num_ground_truths"] == spins * card["num_runs"]


def test_videos_without_features_are_missing_on_the_card(
  own_toy_directory, split_file
):
  """They hold a novel class and are no query: nobody may overlook that."""
  config = resolved(own_toy_directory, split_file)
  path = own_toy_directory / "features" / feature_reader.EXTRACTION_FILE
  facts = json.loads(path.read_text())
  failed = [{"id": "video_001", "reason": "broken"}]
  results.write_json(path, facts | {"failed": failed})
  (own_toy_directory / "features" / "video_001.npz").unlink()
  scores = fewshot_evaluation.Evaluator(
    config,
    feature_reader.FeatureReader(config.data),
    class_splits.class_split(str(split_file)),
  )
  card = row_of(scores)["card"]
  assert (card["num_missing"], card["missing"]) == (1, ["video_001"])


def allowed_truths(reader) -> int:
  """Segments of the novel class, whose videos are all queries."""
  spins = reader.dataset.label_names.index("spins")
  return sum(
    int((info.labels == spins).sum()) for info in reader.examples("train")
  )


def test_an_encoder_that_saw_validation_classes_is_said_to_have():
  split = class_splits.ClassSplit("x", ("a",), ("b",), ("c",))
  extraction = {"training": {"seen_classes": ["a", "b"], "captions": []}}
  note = fewshot_cards.check_seen(extraction, split, allow=False)
  assert "validation classes ['b']" in note


def row_of(scores) -> dict:
  """A result row of predictions that found nothing."""
  drawn, *_ = scores.draw_all("train").values()
  nothing = (np.zeros((0, 2)), np.zeros(0), [])
  rows = scores._rows_of(
    "1way_1shot", "prototypes", drawn, [nothing] * drawn.num_episodes, "train"
  )
  assert {row["value"] for row in rows} == {0.0}
  return rows[0]


def test_the_older_protocol_says_so_on_its_card(toy_directory, split_file):
  config = resolved(
    toy_directory, split_file, **{"evaluation.legacy_qat": True}
  )
  reader = feature_reader.FeatureReader(config.data)
  scores = fewshot_evaluation.Evaluator(
    config, reader, class_splits.class_split(str(split_file))
  )
  card = row_of(scores)["card"]
  assert any("LEGACY PROTOCOL" in note for note in card["notes"])
  assert card["ground_truth_filter"] == "shorter than 0.1 of the video"
  assert card["num_episodes"] == 200


def test_an_annotation_file_in_place_of_a_dataset(
  toy_directory, split_file, tmp_path
):
  built = feature_reader.FeatureReader(resolved(toy_directory, split_file).data)
  names = built.dataset.label_names
  path = tmp_path / "own.json"
  entries = {
    info.id: {
      "duration": info.duration_sec,
      "subset": "train",
      "annotations": [
        {"segment": segment.tolist(), "label": names[label]}
        for segment, label in zip(info.segments, info.labels, strict=True)
      ],
    }
    for info in built.examples("train")
  }
  path.write_text(json.dumps({"database": entries}))
  config = resolved(
    toy_directory,
    split_file,
    **{"data.dataset": None, "data.annotations": str(path)},
  )
  reader = feature_reader.FeatureReader(config.data)
  scores = fewshot_evaluation.Evaluator(
    config, reader, class_splits.class_split(str(split_file))
  )
  assert row_of(scores)["dataset"] == "own"


def test_a_filter_that_leaves_nothing_is_found_before_the_work(
  toy_directory, split_file, tmp_path, monkeypatch
):
  monkeypatch.setattr(fewshot_evaluation, "_LEGACY_MIN_SHARE", {1: 0.9})
  config = resolved(
    toy_directory, split_file, **{"evaluation.legacy_qat": True}
  )
  with pytest.raises(ValueError, match=r"instances=.'single',."):
    fewshot.train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def found_like(drawn, reader, change=lambda name: name) -> list:
  """What one who knows the truth would say, under names changed."""
  infos = {info.id: info for info in reader.examples("train")}
  names = reader.dataset.label_names
  found = []
  for run in drawn.runs:
    for episode in run:
      info = infos[episode.query]
      own = [names[i] in episode.classes for i in info.labels]
      found.append(
        (
          info.segments[own].astype(float),
          np.full(sum(own), 0.5),
          [change(names[i]) for i in info.labels[own]],
        )
      )
  return found


def test_the_truth_scores_one_and_a_wrong_label_nothing(
  toy_directory, split_file
):
  split_file.write_text(
    json.dumps(
      {"base": ["fades"], "validation": [], "novel": ["slides", "spins"]}
    )
  )
  config = resolved(
    toy_directory,
    split_file,
    **{"evaluation.ways": (2,), "allow_seen_classes": True},
  )
  reader = feature_reader.FeatureReader(config.data)
  scores = fewshot_evaluation.Evaluator(
    config, reader, class_splits.class_split(str(split_file))
  )
  (drawn,) = scores.draw_all("train").values()
  right = scores.run_metrics(drawn, found_like(drawn, reader), "train")
  assert right["average_map"] == pytest.approx([1.0] * len(drawn.runs))
  swap = {"slides": "spins", "spins": "slides"}
  wrong = found_like(drawn, reader, swap.get)
  assert max(scores.run_metrics(drawn, wrong, "train")["average_map"]) == 0.0


def test_training_hides_what_it_must(parts):
  """No segment of a hidden class, and no feature that sees one."""
  config, reader, scores = parts
  videos = scores.videos("train", hidden=("spins",))
  sampler = episodes.EpisodeSampler(
    videos.counts(),
    ("fades", "slides"),
    episodes.EpisodeOptions(ways=2, shots=1),
  )
  source = episode_batches.TrainingEpisodes(videos, sampler)
  infos = {info.id: info for info in reader.examples("train")}
  spins = reader.dataset.label_names.index("spins")
  for index in range(8):
    query = sampler.episode(index, seed=0).query
    batch = source.collate([source.item(index, seed=0)], batch_size=1)
    info, grid = infos[query], videos.grid(query)
    for start_sec, end_sec in info.segments[info.labels == spins]:
      first_sec = grid.start_sec + grid.stride_sec * np.arange(
        config.data.max_length
      )
      sees = (first_sec < end_sec) & (first_sec + grid.clip_sec > start_sec)
      assert sees.any() and not batch.query_mask[0, sees].any()


def test_a_step_along_the_gradient_lowers_the_loss(parts):
  config, reader, scores = parts
  videos = scores.videos("train", hidden=())
  sampler = episodes.EpisodeSampler(
    videos.counts(),
    reader.dataset.label_names,
    episodes.EpisodeOptions(ways=2, shots=1),
  )
  source = episode_batches.TrainingEpisodes(videos, sampler)
  task = fewshot.make_task(
    fewshot.model_metadata(config, videos.feature_width),
    loss_config=config.loss,
  )
  batch = source.collate(
    [source.item(i, seed=0) for i in range(4)], batch_size=6
  )
  rng = jax.random.key(1)
  value_and_grad = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
  params = jax.jit(task.init)(jax.random.key(0))
  (before, _), gradients = value_and_grad(params, batch, rng)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  smaller = jax.tree.map(lambda p, g: p - 0.02 * g, params, gradients)
  (after, _), _ = value_and_grad(smaller, batch, rng)
  assert after < before
  padding = jax.tree.map(np.array, batch)
  padding.query[4:] = 100.0  # rows of no episode
  (again, _), _ = value_and_grad(params, padding, rng)
  np.testing.assert_allclose(again, before, rtol=1e-5)


def test_videos_encoded_once_are_matched_as_before(parts):
  config, reader, scores = parts
  videos = scores.videos("train", hidden=())
  sampler = episodes.EpisodeSampler(
    videos.counts(),
    reader.dataset.label_names,
    episodes.EpisodeOptions(ways=2, shots=2),
  )
  run = sampler.run(0)
  task = fewshot.make_task(fewshot.model_metadata(config, videos.feature_width))
  params = jax.jit(task.init)(jax.random.key(0))
  predictor = predictor_lib.Predictor(
    task.encode, mesh=mesh_lib.make_mesh(config.mesh), batch_size=8
  )
  encoded = fewshot_methods.encode_videos(
    predictor, params, videos, batch_size=8
  )
  assert set(encoded) == {info.id for info in videos.examples}
  found = []
  for predict, source in (
    (task.predict, episode_batches.EvaluationEpisodes(videos, run)),
    (
      task.predict_encoded,
      fewshot_methods.EncodedEpisodes(videos, run, encoded),
    ),
  ):
    rows = [source[i] for i in range(3)]
    batch = source.collate(rows, batch_size=8)
    found.append(jax.device_get(jax.jit(predict)(params, batch)))
  for name, array in found[0]._asdict().items():
    np.testing.assert_allclose(
      array[:3], getattr(found[1], name)[:3], atol=1e-4, err_msg=name
    )


def test_intervals():
  interval = intervals.mean_interval([1.0, 2.0, 3.0])
  # t(0.975, 2) = 4.302653, standard error = 1 / sqrt(3)
  assert interval.mean == 2.0
  assert interval.high - 2.0 == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
  assert 2.0 - interval.low == pytest.approx(interval.high - 2.0)
  with pytest.raises(ValueError, match="at least 2 runs"):
    intervals.mean_interval([1.0])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"data.crop_probability": 0.3}, "crop_probability must be 0"),
    ({"evaluation.legacy_qat": True, "evaluation.ways": (5,)}, "1-way"),
    ({"evaluation.ways": ()}, "at least one value each"),
    ({"evaluation.shots": (0,)}, r"evaluation\.shots"),
    ({"evaluation.instances": ("few",)}, "choose from all, single, multi"),
    ({"matcher.num_heads": 3}, r"matcher\.num_heads is 3"),
    ({"protocol": "kinetics"}, "choose from"),
  ],
)
def test_values_out_of_range(toy_directory, split_file, changes, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    resolved(toy_directory, split_file, **changes)


def test_the_shapes_without_data_are_those_with_it(parts):
  config, _, scores = parts
  videos = scores.videos("train", hidden=("spins",))
  sampler = episodes.EpisodeSampler(
    videos.counts(),
    ("fades", "slides"),
    episodes.EpisodeOptions(**dataclasses.asdict(config.episodes)),
  )
  source = episode_batches.TrainingEpisodes(videos, sampler)
  size = config.data.batch_size
  batch = source.collate(
    [source.item(i, seed=0) for i in range(size)], batch_size=size
  )
  facts = abstract.DataFacts(
    feature_width=videos.feature_width, max_segments=videos.max_segments
  )
  run = fewshot.abstract_run(config, facts)
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), run.batch)
  assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), batch)
