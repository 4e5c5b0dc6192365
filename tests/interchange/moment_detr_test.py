"""Public Moment-DETR's outputs and losses to the number, and its imports."""

import json

import jax
import numpy as np
import pytest

import clap_jax
from clap_jax.inference import model_directory, predict
from clap_jax.interchange import import_heads, torch_file, wrappers
from clap_jax.interchange import moment_detr_options as options_lib
from clap_jax.losses import moment_detr as losses
from clap_jax.trainers import fit, grounding, imported_heads, registry
from clap_jax.training import paths
from tests.interchange import published_moment_detr as published_lib

NAME = "moment_detr_small"


def full(shared_data) -> published_lib.Published:
  folder = shared_data / "published_heads"
  if not folder.is_dir():
    pytest.skip(f"no reference values: {folder} is missing")
  unwrapped = wrappers.unwrap(
    torch_file.read(folder / f"{NAME}.ckpt"), is_known=lambda key: False
  )
  with np.load(folder / f"{NAME}.npz") as archive:
    expected = dict(archive)
  config = published_lib.config_of(folder / f"{NAME}.json")
  return published_lib.Published(
    config, unwrapped.tensors, expected, has_decoder=True
  )


@pytest.fixture(scope="module", params=["repository", "full"])
def published(request):
  if request.param == "repository":
    return published_lib.small()
  return full(request.getfixturevalue("shared_data"))


@pytest.fixture(scope="module")
def predictions(published):
  output = jax.jit(published.model.apply)(
    published.params(), *published.inputs()
  )
  return output.predictions


def test_outputs(published, predictions):
  found = {"saliency_scores": predictions.saliency}
  if published.has_decoder:
    found["pred_logits"] = predictions.logits[-1]
    found["pred_spans"] = predictions.spans[-1]
  for name, array in found.items():
    np.testing.assert_allclose(
      array, published.expected[name], rtol=0, atol=1e-4, err_msg=name
    )


def layer_outputs(published, predictions, layer):
  """(logits, spans) of a decoder layer, of the reference where it has them."""
  if published.has_decoder:
    return predictions.logits[layer], predictions.spans[layer]
  names = ("pred_logits", "pred_spans") if layer else ("logits_0", "spans_0")
  return tuple(published.expected[name] for name in names)


@pytest.mark.parametrize(("layer", "suffix"), [(0, "_0"), (1, "")])
def test_losses_of_layers(published, predictions, layer, suffix):
  config = published.config.loss.detr
  found = jax.jit(losses.layer_loss, static_argnames="config")(
    *layer_outputs(published, predictions, layer),
    published_lib.WINDOWS,
    mask=published_lib.WINDOW_MASK,
    asked=np.ones(2, bool),
    config=config,
  )
  weights = {
    "span": ("loss_span", config.span_weight),
    "iou": ("loss_giou", config.iou_weight),
    "label": ("loss_label", config.label_weight),
  }
  assert found.keys() == weights.keys()
  for name, (total, count) in found.items():
    theirs, weight = weights[name]
    np.testing.assert_allclose(
      total / count / weight,
      published.expected[f"loss/{theirs}{suffix}"],
      rtol=0,
      atol=1e-5,
      err_msg=name,
    )


def test_loss_of_highlights(published):
  pairs = losses.Pairs(
    published_lib.POSITIVES, published_lib.NEGATIVES, np.ones(2, bool)
  )
  config = published.config.loss.detr
  total, count = losses.pair_loss(
    published.expected["saliency_scores"],
    pairs,
    has_pairs=pairs.has_pairs,
    config=config,
  )["saliency"]
  np.testing.assert_allclose(
    total / count / config.saliency_weight,
    published.expected["loss/loss_saliency"],
    rtol=0,
    atol=1e-5,
  )


# Imports are of a whole model: that of the repository with other decoders.


@pytest.fixture(scope="module")
def small():
  return published_lib.small()


@pytest.fixture(scope="module")
def checkpoint(small, tmp_path_factory):
  path = tmp_path_factory.mktemp("checkpoint") / "model_best.npz"
  tensors = published_lib.public_tensors(small)
  np.savez(path, **{f"model.{name}": array for name, array in tensors.items()})
  return path


@pytest.fixture(scope="module")
def directory(checkpoint, tmp_path_factory):
  out = tmp_path_factory.mktemp("imported") / "head"
  done = import_heads.import_moment_detr(
    checkpoint, options_file=published_lib.OPTIONS, out=out
  )
  unused = {key.split(".")[1] for key in done.conversion.left_out}
  assert unused <= {"txt_position_embed", "position_embeddings", "LayerNorm"}
  return done.directory


def with_options(tmp_path, **changes):
  options = json.loads(published_lib.OPTIONS.read_text()) | changes
  path = tmp_path / "opt.json"
  kept = {key: value for key, value in options.items() if value != "absent"}
  path.write_text(json.dumps(kept))
  return path


def test_an_imported_head_is_restored_and_evaluated(directory):
  facts, task, params = fit.restored(
    directory, grounding.MODEL_FILE, grounding.make_task
  )
  assert facts["feature_width"] == 22 and facts["query_width"] == 16
  assert not task.takes_any_length and task.max_length == 75
  values = json.loads((directory / "config.json").read_text())
  config = registry.resolve(values)
  assert config.optimizer.gradient_clip == 0.1
  assert config.loop.length.value == 200.0
  assert config.decode.sigma == 0.0
  start = imported_heads.starter(
    imported_heads.HeadStart(str(directory)), facts, model_file="grounder.json"
  )
  source = start.keywords["source"]
  assert source.keys() == paths.flatten(params).keys()


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"feature_width": 20}, "width 22"),
    ({"query_width": 8}, "width 16"),
    ({"kind": "map"}, "'detr'"),
    ({"max_length": 80}, "--config.data.max_length=75"),
  ],
)
def test_heads_that_do_not_fit(directory, changes, match):
  facts = json.loads((directory / grounding.MODEL_FILE).read_text()) | changes
  with pytest.raises(ValueError, match=match):
    imported_heads.starter(
      imported_heads.HeadStart(str(directory)),
      facts,
      model_file=grounding.MODEL_FILE,
    )


def test_predictions_are_those_of_the_model(small, directory, tmp_path):
  video, _, text, text_mask = small.inputs()
  np.save(tmp_path / "video.npy", video[0])
  texts = ("a dog", "a cat")
  np.savez(tmp_path / "texts.npz", texts=texts, vectors=text, mask=text_mask)
  model = model_directory.load_model(directory, needs_encoder=False)
  document = predict.predict(
    model,
    [tmp_path / "video.npy"],
    queries=texts,
    texts=tmp_path / "texts.npz",
  )
  (entry,) = document["videos"]
  params = imported_heads.restore_params(directory)
  both = np.stack([video[0], video[0]])
  output = jax.jit(small.model.apply)(
    params, both, np.ones((2, 40), bool), text, text_mask
  )
  for row, name in enumerate(texts):
    probability = jax.nn.softmax(output.predictions.logits[-1, row])[:, 0]
    center, width = np.asarray(output.predictions.spans[-1, row]).T
    expected = np.stack(
      [center - width / 2, center + width / 2, probability / 80], axis=1
    )
    expected = 80 * expected[np.argsort(-probability)]  # 40 features of 2 s
    expected[:, :2] = expected[:, :2].clip(0, entry["duration_sec"])
    found = [
      [moment["start_sec"], moment["end_sec"], moment["score"]]
      for moment in entry["predictions"]
      if moment["query"] == name
    ]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(
      entry["highlights"][name], output.saliency_logits[row], atol=1e-4
    )
  assert entry["absence"] is None  # it has no such output


def test_the_published_file_of_one_query(small, directory, tmp_path):
  video, _, text, _ = small.inputs()
  np.save(tmp_path / "video.npy", video[0])
  np.savez(tmp_path / "qid7.npz", last_hidden_state=text[0])
  model = clap_jax.load_model(directory)

  def ask(*queries, texts=tmp_path / "qid7.npz"):
    return model.predict(tmp_path / "video.npy", queries, texts=texts)

  found = ask("a dog")
  assert len(found.predictions) == 10
  assert len(found.entry["highlights"]["a dog"]) == 40
  with pytest.raises(ValueError, match="2 are asked"):
    ask("a dog", "a cat")
  with pytest.raises(ValueError, match="--texts"):
    ask("a dog", texts=None)
  np.savez(tmp_path / "wide.npz", last_hidden_state=np.ones((4, 9)))
  with pytest.raises(ValueError, match="width 9"):
    ask("a dog", texts=tmp_path / "wide.npz")
  np.savez(
    tmp_path / "texts.npz", texts=["x"], vectors=text[:1], mask=text[:1, :, 0]
  )
  with pytest.raises(ValueError, match="a dog"):
    ask("a dog", texts=tmp_path / "texts.npz")


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"nheads": "absent"}, "nheads"),
    ({"hidden_dim": "wide"}, "hidden_dim"),
    ({"hidden_dim": 30}, "num_heads"),
    ({"span_loss_type": "ce"}, "span_loss_type"),
    ({"position_embedding": "learned"}, "position_embedding"),
    ({"ctx_mode": "tef"}, "ctx_mode"),
    ({"pre_norm": 1}, "pre_norm"),
    ({"n_input_proj": 4}, "num_projections"),
    ({"max_windows": 11}, "max_windows"),
    ({"v_feat_dirs": ["a", "b"], "no_norm_vfeat": False}, "v_feat_dims"),
    ({"v_feat_dim": 20}, "v_feat_dim"),
    ({"dim_feedforward": 65}, "up/dense"),
    ({"enc_layers": 3}, "encoder_2"),
    ({"use_txt_pos": True, "max_q_l": 16}, "text_position"),
  ],
)
def test_options_of_other_models(checkpoint, tmp_path, changes, match):
  with pytest.raises(ValueError, match=match):
    import_heads.import_moment_detr(
      checkpoint,
      options_file=with_options(tmp_path, **changes),
      out=tmp_path / "head",
    )
  assert not (tmp_path / "head").exists()


def test_options_of_a_public_run(tmp_path):
  """Folders of features give the widths that are normalized."""
  path = with_options(
    tmp_path,
    v_feat_dim=2816,  # the public program adds 2 when this is written
    t_feat_dim=512,
    v_feat_dirs=["f/slowfast_features", "f/clip_features"],
    t_feat_dir="f/clip_text_features/",
    ctx_mode="video_tef",
    no_norm_vfeat=False,
    no_norm_tfeat=False,
    n_epoch=200,
    lr_drop=80,
    exp_id="exp",
  )
  options = options_lib.read(path)
  config = registry.resolve(options_lib.run_config(options, 2818))
  assert options_lib.input_sizes(options, 2818)["feature_width"] == 2816
  assert config.detr.stream_widths == (2304, 512)
  assert config.detr.time_channels and config.detr.normalize_text
  assert config.data.files.names == (
    "slowfast_features/{id}.npz",
    "clip_features/{id}.npz",
  )
  assert config.data.queries.texts == "f/clip_text_features/qid{id}.npz"
  assert config.optimizer.decay_percents == (40.0, 80.0)


def test_options_beside_the_checkpoint(checkpoint, tmp_path):
  with pytest.raises(FileNotFoundError, match="--config"):
    options_lib.beside(tmp_path / "model_best.ckpt")
  path = with_options(tmp_path)
  assert options_lib.beside(tmp_path / "model_best.ckpt") == path


def test_text_positions_and_three_projections(small, tmp_path):
  """As in the public program's other configurations; norms stand first."""
  tensors = published_lib.public_tensors(small)
  for stream in ("vid", "txt"):
    name = f"input_{stream}_proj"
    for part in ("LayerNorm.weight", "net.1.weight", "net.1.bias"):
      tensors[f"{name}.2.{part}"] = tensors[f"{name}.1.{part}"]
    tensors[f"{name}.2.LayerNorm.bias"] = tensors[f"{name}.1.LayerNorm.bias"]
  for part in ("weight", "bias"):
    norm = f"transformer.encoder.norm.{part}"
    tensors[norm] = tensors[f"transformer.decoder.norm.{part}"]
  path = tmp_path / "model_best.npz"
  np.savez(path, **{f"model.{name}": array for name, array in tensors.items()})
  done = import_heads.import_moment_detr(
    path,
    options_file=with_options(
      tmp_path, use_txt_pos=True, n_input_proj=3, pre_norm=True
    ),
    out=tmp_path / "head",
  )
  assert not done.conversion.left_out
  facts, task, params = fit.restored(
    done.directory, grounding.MODEL_FILE, grounding.make_task
  )
  positions = params["params"]["text_position"]["positions"]
  np.testing.assert_array_equal(
    positions, tensors["txt_position_embed.position_embeddings.weight"]
  )
  output = jax.jit(task.model.apply)(params, *small.inputs())
  assert np.isfinite(output.predictions.logits).all()
  assert facts["detr"]["norm_first"]
