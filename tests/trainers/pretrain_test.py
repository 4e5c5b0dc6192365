"""The pre-training task for every row of the comparison, and retrieval."""

import dataclasses
import os
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax import types as clap_types
from clap_jax.data import records
from clap_jax.data import tokenizer as tokenizer_lib
from clap_jax.evaluation import retrieval
from clap_jax.models import dual_encoder
from clap_jax.storage import metadata as metadata_lib
from clap_jax.trainers import encoders, pretrain, pretrain_task, registry
from configs import pretrain_sprites
from configs.parts import pretraining
from tests.configs import keys
from tests.data import built_dataset
from tests.trainers import toy_features

BATCH_SIZE = 8


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  """toy/small with a tokenizer."""
  path = tmp_path_factory.mktemp("clips")
  built_dataset.write_dataset(path, num_videos=4)
  dataset = records.open_dataset(path, "toy/small")
  infos = dataset.split("train").metadata().examples
  texts = [text for info in infos for _, _, text in info.captions]
  tokenizer_lib.train(texts, vocab_size=64, path=path / "tokenizer.model")
  return path


def resolved(directory, encoder="clap", **changes):
  config = pretrain_sprites.get_config(f"tiny,encoder={encoder}")
  keys.change(
    config,
    {
      "data.dataset": "toy/small",
      "data.data_dir": str(directory),
      "data.tokenizer": str(directory / "tokenizer.model"),
      "data.train_split": "train",
      "data.selection_split": "train",
      "data.eval_split": "train",
      "data.batch_size": BATCH_SIZE,
    }
    | changes,
  )
  return registry.resolve(config)


def task_and_batch(config):
  reader = pretrain.open_reader(config)
  model = dual_encoder.DualEncoder(pretrain.model_config(config, reader))
  source = reader.training_source()
  items = [source.item(index, seed=0) for index in range(BATCH_SIZE)]
  batch = source.collate(items, batch_size=BATCH_SIZE)
  return pretrain_task.PretrainTask(model, config.loss), batch


def gradient_norms(gradients):
  """Of each module directly below the root."""
  return {
    name: float(np.sqrt(sum(np.sum(np.square(x)) for x in leaves)))
    for name, leaves in (
      (name, jax.tree.leaves(module))
      for name, module in jax.device_get(gradients)["params"].items()
    )
  }


def at_the_start(task, batch):
  """The loss with its metrics, and the gradients, of initial parameters."""
  params = jax.jit(task.init)(jax.random.key(0))
  value_and_grad = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
  return value_and_grad(params, batch, jax.random.key(1))


@pytest.mark.parametrize("encoder", list(pretraining.ENCODERS))
def test_loss_and_where_its_gradient_flows(directory, encoder):
  config = resolved(directory, encoder)
  task, batch = task_and_batch(config)
  (loss, metrics), gradients = at_the_start(task, batch)
  assert np.isfinite(loss)
  assert loss > 0
  assert all(np.isfinite(value).all() for value in metrics.values())
  norms = gradient_norms(gradients)
  assert all(np.isfinite(norm) for norm in norms.values())
  learning = {name for name, norm in norms.items() if norm > 0}
  both_towers = {"text_tower", "video_projection", "text_projection"}
  expected = {"video_tower"}
  if config.loss.contrastive_weight:
    expected |= both_towers | {"logit_scale"}
  if config.loss.class_weight:
    expected |= {"class_head"}
  if config.loss.region_weight:
    expected |= {"region_head"}
  assert learning == expected
  assert (learning >= both_towers) == (encoder not in ("tac", "tsp"))
  total = sum(
    getattr(config.loss, f"{name}_weight") * metrics.get(name, 0.0)
    for name in ("contrastive", "class", "region")
  )
  assert float(loss) == pytest.approx(float(total), rel=1e-5)


def test_background_is_seen_by_clap_and_tsp_only(directory):
  for encoder in pretraining.ENCODERS:
    _, batch = task_and_batch(resolved(directory, encoder))
    has_background = not batch.pairs.is_action.all()
    assert has_background == (encoder in ("random", "clap", "tsp")), encoder
    assert batch.pairs.is_action.any()
    assert (batch.pairs.class_id[batch.pairs.is_action] >= 0).all()


def test_clips_across_boundaries_have_soft_targets_and_no_pairs(directory):
  config = resolved(
    directory,
    "clap",
    **{
      "loss.region_weight": 1.0,
      "sampling.boundary_share": 1.0,
      "sampling.background_share": 0.5,
    },
  )
  task, batch = task_and_batch(config)
  share = batch.pairs.action_share
  crossing = (share > 0) & (share < 1)
  assert 0 < crossing.sum() < BATCH_SIZE
  params = jax.jit(task.init)(jax.random.key(0))
  loss = jax.jit(task.loss)
  _, metrics = loss(params, batch, jax.random.key(1))
  output = task.model.apply(
    params, batch.frames, batch.tokens, batch.token_mask
  )
  log_probability = np.asarray(jax.nn.log_softmax(output.region_logits))
  expected = -(
    (1 - share) * log_probability[:, 0] + share * log_probability[:, 1]
  )
  assert metrics["region"] == pytest.approx(expected.mean(), rel=1e-5)
  log_probability = np.asarray(jax.nn.log_softmax(output.class_logits))
  picked = log_probability[np.arange(BATCH_SIZE), batch.pairs.class_id]
  labelled = batch.pairs.is_action * share
  assert metrics["class"] == pytest.approx(
    -(picked * labelled).sum() / labelled.sum(), rel=1e-5
  )
  frames = batch.frames.copy()
  frames[crossing] = 0
  _, without = loss(params, batch._replace(frames=frames), jax.random.key(1))
  assert without["contrastive"] == metrics["contrastive"]


def test_a_class_loss_without_any_labelled_clip_is_zero(directory):
  task, batch = task_and_batch(resolved(directory, "tac"))
  pairs = batch.pairs._replace(class_id=np.full_like(batch.pairs.class_id, -1))
  (loss, _), gradients = at_the_start(task, batch._replace(pairs=pairs))
  assert loss == 0.0
  assert set(gradient_norms(gradients).values()) == {0.0}


@pytest.mark.parametrize("encoder", ["clap", "tsp"])
def test_the_full_size_can_be_traced(encoder):
  """Shapes only: no memory, no device time."""
  config = registry.resolve(
    pretrain_sprites.get_config(f"full,encoder={encoder}")
  )
  reader = types.SimpleNamespace(
    tokenizer=types.SimpleNamespace(vocab_size=512),
    dataset=types.SimpleNamespace(label_names=("verb",) * 24),
  )
  model = dual_encoder.DualEncoder(pretrain.model_config(config, reader))
  task = pretrain_task.PretrainTask(model, config.loss)
  batch = batch_shapes(config)
  params = jax.eval_shape(task.init, jax.random.key(0))
  (loss, _), gradients = jax.eval_shape(
    jax.value_and_grad(task.loss, has_aux=True),
    params,
    batch,
    jax.random.key(0),
  )
  assert loss.shape == ()
  assert loss.dtype == np.float32
  jax.tree.map(
    lambda p, g: np.testing.assert_equal(
      (p.shape, p.dtype), (g.shape, g.dtype)
    ),
    params,
    gradients,
  )


def batch_shapes(config):
  count, clip = config.data.batch_size, config.clip

  def rows(dtype, *shape):
    return jax.ShapeDtypeStruct((count, *shape), dtype)

  def kind(name):
    if name in ("is_action", "has_text", "generic_text", "valid"):
      return bool
    return np.float32 if name.endswith(("_sec", "_share")) else np.int32

  side, length = clip.image_size, config.model.max_text_length
  return clap_types.ClipBatch(
    frames=rows(np.uint8, clip.num_frames, side, side, 3),
    tokens=rows(np.int32, length),
    token_mask=rows(bool, length),
    pairs=clap_types.PairMetadata(
      *(rows(kind(name)) for name in clap_types.PairMetadata._fields)
    ),
  )


def retrieval_score(directory, function, batch_size=BATCH_SIZE):
  config = resolved(directory, **{"data.batch_size": batch_size})
  reader = pretrain.open_reader(config)
  score = retrieval.Evaluator(
    config, reader, pretrain._make_task(config, reader)
  )
  score._predict = toy_features.FixedPredictor(function)
  return score


def vectors_of_texts(batch, shift=0):
  """Outputs that are known: equal vectors for equal texts, else unlike ones."""

  def vector(text_id):
    drawn = np.random.default_rng(abs(int(text_id))).normal(size=64)
    return drawn / np.linalg.norm(drawn)

  ids = batch.pairs.text_id
  video = np.stack([vector(i + shift) for i in ids])
  # Padding, if it were scored, would be the best match of everything.
  video[~batch.pairs.valid] = 9.0
  return {"video": video, "text": np.stack([vector(i) for i in ids])}


@pytest.mark.parametrize("batch_size", [8, 32])
def test_equal_captions_are_one_query(directory, batch_size):
  dataset = records.open_dataset(directory, "toy/small")
  captions = [
    " ".join(text.lower().split())
    for info in dataset.split("train").metadata().examples
    for _, _, text in info.captions
  ]
  score = retrieval_score(directory, vectors_of_texts, batch_size)
  metrics = score(None, "train")
  assert len(set(captions)) < len(captions)
  assert metrics["video_to_text/num_queries"] == len(captions)
  assert metrics["text_to_video/num_queries"] == len(set(captions))
  for direction in ("video_to_text", "text_to_video"):
    assert metrics[f"{direction}/r@1"] == 1.0
    assert metrics[f"{direction}/median_rank"] == 1.0


def test_wrong_embeddings_earn_nothing(directory):
  score = retrieval_score(directory, lambda b: vectors_of_texts(b, shift=1))
  metrics = score(None, "train")
  assert metrics["text_to_video/r@1"] < 0.5
  assert metrics["video_to_text/r@1"] < 0.5


def test_retrieval_rows_have_a_card(directory):
  rows = retrieval_score(directory, vectors_of_texts).rows(None, "train")
  assert {row["metric"] for row in rows} >= {"text_to_video/r@1"}
  for row in rows:
    assert (row["encoder"], row["task"]) == ("clap", "retrieval")
    assert row["card"]["split"] == "train"
    assert row["card"]["num_evaluated"] == 4


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"clip.num_frames": 15}, r"clip\.num_frames is 15.*model\.patch"),
    ({"clip.image_size": 36}, r"clip\.image_size is 36"),
    (
      {
        "loss.contrastive_weight": 0.0,
        "loss.class_weight": 0.0,
        "loss.region_weight": 0.0,
      },
      "are all 0",
    ),
    ({"loss.preset": "caption"}, r"loss\.preset: got 'caption'; choose"),
    ({"sampling.background_share": 1.5}, r"sampling\.background_share"),
    ({"model.video_size": "huge"}, r"model\.video_size.*micro"),
    ({"clip.clip_sec": 0.0}, r"clip\.clip_sec: must be above 0"),
    (
      {"model.video_tower": "resnet"},
      r"video_tower: got 'resnet'.*r2plus1d_34",
    ),
    ({"model.video_tower": "clip"}, r"motion_gain is 5\.0.*colours only"),
    (
      {
        "model.video_tower": "r2plus1d_micro",
        "model.motion_gain": 0.0,
        "loss.num_microbatches": 2,
      },
      "normalises over the batch",
    ),
    ({"model.attention": "chunked"}, "chunked and query_chunk 0"),
    ({"data.num_processes": 2}, "num_processes is 2 and cache_mib 2048"),
  ],
)
def test_values_that_do_not_fit(directory, changes, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    resolved(directory, **changes)


@pytest.mark.parametrize(
  ("cache_mib", "num_processes", "cores", "expected"),
  [
    (64.0, None, 16, 0),
    (64.0, 1, 16, 1),
    (0.0, None, 2, 0),
    (0.0, None, 16, 14),
    (0.0, 0, 16, 0),
    (0.0, 3, 2, 3),
  ],
)
def test_processes_that_decode(
  directory, monkeypatch, *, cache_mib, num_processes, cores, expected
):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
  config = resolved(
    directory,
    **{"data.cache_mib": cache_mib, "data.num_processes": num_processes},
  )
  assert config.data.decoding_processes == expected


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"data.dataset": "toy/big"}, "toy/big.*there is toy/small"),
    ({"data.eval_split": "test"}, "'test'.*choose from train"),
    (
      {"data.tokenizer": "/nowhere.model"},
      "data.tokenizer.*/nowhere.model.*clap tokenizer",
    ),
    ({"sampling.hidden_classes": ("jumps",)}, r"jumps.*slides"),
  ],
)
def test_data_that_is_not_there(directory, tmp_path, changes, message):
  config = resolved(directory, **changes)
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    pretrain.train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_what_an_encoder_has_seen(directory, tmp_path):
  """The novel classes must be hidden in every stage, and known to be."""

  def facts_of(**changes):
    config = resolved(directory, **changes)
    return pretrain.training_history_of(config, pretrain.open_reader(config))

  def seen(**changes):
    return facts_of(**changes)["seen_classes"]

  assert seen() == ["fades", "slides", "spins"]
  assert seen(**{"sampling.hidden_classes": ("spins",)}) == ["fades", "slides"]
  split = tmp_path / "split.json"
  split.write_text(
    '{"base": ["slides"], "validation": ["fades"], "novel": ["spins"]}'
  )
  base_only = {"sampling.class_split": str(split)}
  assert seen(**base_only) == ["slides"]
  untrained = {"loop.steps": 0, "optimizer.warmup_steps": 0}
  assert seen(encoder="random", **untrained) == []
  start = tmp_path / "start"
  start.mkdir()
  after = base_only | {"start.workdir": str(start)}
  assert seen(**after) is None, "nobody knows what that run has seen"
  facts = dict.fromkeys(("encoder", "seed", "clip", "model"))
  facts["training"] = {"seen_classes": ["slides", "spins"]}
  metadata_lib.write(start / encoders.ENCODER_FILE, facts)
  assert seen(**after) == ["slides", "spins"]
  assert facts_of(**after)["captions"] is None, "that run does not say"
  read = {"dataset": "toy/small", "hidden": ["fades", "spins"]}
  assert facts_of(**base_only)["captions"] == [read]
  for nothing_read in (
    {"sampling.text_source": "labels"},
    {"loss.contrastive_weight": 0.0, "loss.class_weight": 1.0},
  ):
    assert facts_of(**base_only, **nothing_read)["captions"] == []


def test_microbatches_change_neither_loss_nor_gradient(directory):
  config = resolved(directory, "clap")
  task, batch = task_and_batch(config)
  parts = dataclasses.replace(
    task, loss_config=dataclasses.replace(config.loss, num_microbatches=4)
  )
  (loss, metrics), gradients = at_the_start(task, batch)
  (same, same_metrics), same_gradients = at_the_start(parts, batch)
  np.testing.assert_allclose(same, loss, rtol=1e-5)
  assert set(same_metrics) == set(metrics)
  largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradients))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest),
    same_gradients,
    gradients,
  )


def test_microbatches_must_divide_the_batch(directory):
  changes = {"loss.num_microbatches": 3}  # of 8 clips
  with pytest.raises(ValueError, match=r"num_microbatches 3"):
    resolved(directory, "clap", **changes)
