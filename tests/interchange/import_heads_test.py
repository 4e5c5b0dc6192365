"""Imported heads: what is written, predicted, and trained on."""

import json
import types

import jax
import numpy as np
import pytest
import yaml

from clap_jax.data import feature_files, features
from clap_jax.inference import model_directory, predict
from clap_jax.interchange import (
  actionformer_config,
  actionformer_run,
  import_heads,
)
from clap_jax.trainers import (
  fit,
  imported_heads,
  localization,
  localizers,
  registry,
)
from clap_jax.training import paths
from tests.interchange import published_heads

CONFIG = published_heads.FIXTURES / "actionformer_anet_short.yaml"
LABELS = ("jump", "run", "sit", "swim", "walk")


@pytest.fixture(scope="module")
def published():
  return published_heads.small()


@pytest.fixture(scope="module")
def checkpoint(published, tmp_path_factory):
  path = tmp_path_factory.mktemp("checkpoint") / "epoch_010.npz"
  prefix = "state_dict.module."
  np.savez(path, **{f"{prefix}{k}": v for k, v in published.tensors.items()})
  return path


def imported(checkpoint, out, **options):
  return import_heads.import_actionformer(
    checkpoint, config_file=CONFIG, out=out, **options
  )


@pytest.fixture(scope="module")
def directory(checkpoint, tmp_path_factory):
  folder = tmp_path_factory.mktemp("imported")
  names = folder / "labels.txt"
  names.write_text("\n".join(LABELS))
  return imported(checkpoint, folder / "head", labels=names).directory


def test_parameters(published, directory):
  facts, _, params = fit.restored(
    directory, localization.MODEL_FILE, localization.make_task
  )
  assert tuple(facts["label_names"]) == LABELS
  assert facts["length"] == "resize"
  expected = paths.flatten(published.params())
  assert params["loss_stats"]["num_positives"] == 200
  found = paths.flatten({"params": params["params"]})
  assert found.keys() == expected.keys()
  for name, leaf in expected.items():
    np.testing.assert_array_equal(found[name], leaf)


def test_config_resolves(directory):
  config = registry.resolve(json.loads((directory / "config.json").read_text()))
  assert config.classifier.combination == "geometric_mean"
  assert config.data.files.names == ("v_{id}.npy",)
  assert config.loop.length.value == 15.0
  assert config.optimizer.warmup.value == 5.0


def test_predictions(published, directory, tmp_path):
  path = tmp_path / "v_one.npy"
  np.save(path, published.expected["features"])
  model = model_directory.load_model(directory, needs_encoder=False)
  document = predict.predict(model, [path], max_predictions=10)
  (video,) = document["videos"]
  grid = features.FeatureGrid.from_frames(
    fps=15.0, stride_frames=16, clip_frames=16
  )
  resized = feature_files.resized(
    features.VideoFeatures(published.expected["features"], grid), 192
  )
  found = jax.device_get(
    model.detect(
      model.localizer[2], resized.features[None], np.ones((1, 192), bool)
    )
  )
  seconds = resized.grid.to_seconds(found.segments[0, :10].astype(np.float64))
  seconds = seconds.clip(0.0, video["duration_sec"])
  for row, entry in enumerate(video["predictions"]):
    assert entry["score"] == pytest.approx(float(found.scores[0, row]))
    assert entry["label"] == LABELS[found.labels[0, row]]
    np.testing.assert_allclose(
      [entry["start_sec"], entry["end_sec"]], seconds[row], atol=1e-5
    )


def facts_here(directory, **changes):
  facts = json.loads((directory / localization.MODEL_FILE).read_text())
  return facts | changes


def dataset(names, **label_ids):
  """Classes of a dataset; label_ids are written class=number."""
  return types.SimpleNamespace(
    label_names=tuple(names),
    label_ids={number: name for name, number in label_ids.items()},
  )


def starter(directory, facts):
  return imported_heads.starter(
    imported_heads.HeadStart(str(directory)),
    facts,
    model_file=localization.MODEL_FILE,
    dataset=dataset(facts["label_names"]),
  )


def test_training_starts_from_classes_in_the_order_of_the_data(
  published, directory
):
  order = [3, 0, 4, 1, 2]
  names = [LABELS[i] for i in order]
  prepare = starter(directory, facts_here(directory, label_names=names))
  source = prepare.keywords["source"]
  head = published.params()["params"]["class_head"]["out"]["dense"]
  for name in ("kernel", "bias"):
    np.testing.assert_array_equal(
      source[f"params/class_head/out/dense/{name}"], head[name][..., order]
    )


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"label_names": ["jump", "run", "sit", "swim", "fly"]}, "fly"),
    ({"feature_width": 25}, "width 24"),
    ({"max_length": 384}, "--config.data.max_length=192"),
    ({"localizer": "points"}, "'actionformer'"),
  ],
)
def test_heads_that_do_not_fit(directory, changes, match):
  with pytest.raises(ValueError, match=match):
    starter(directory, facts_here(directory, **changes))


def test_another_size_lists_its_flags(directory):
  facts = facts_here(directory)
  model = facts["model"] | {"num_heads": 2, "dropout_rate": 0.3}
  with pytest.raises(ValueError, match=r"--config.model.num_heads=4") as caught:
    starter(directory, facts | {"model": model})
  assert "dropout_rate" not in str(caught.value)  # training may change it


def test_classes_without_names(checkpoint, tmp_path, capsys):
  done = imported(checkpoint, tmp_path / "head")
  facts = facts_here(done.directory)
  names = imported_heads.class_names(facts, dataset(LABELS), place="head")
  assert names == LABELS
  assert "--labels" in capsys.readouterr().err
  with pytest.raises(ValueError, match="--labels"):
    imported_heads.class_names(facts, dataset(LABELS[:4]), place="head")
  with pytest.raises(FileExistsError, match="--out"):
    imported(checkpoint, tmp_path / "head")


@pytest.mark.parametrize(
  ("label_ids", "expected"),
  [
    (
      {"walk": 0, "jump": 1, "sit": 2, "run": 3, "swim": 4},
      ("walk", "jump", "sit", "run", "swim"),
    ),
    # EPIC-KITCHENS has numbers without any segment.
    ({"sit": 4, "run": 1}, ("class 0", "run", "class 2", "class 3", "sit")),
    ({"sit": 5, "run": 1}, None),
  ],
)
def test_numbers_of_the_annotations_name_classes(
  checkpoint, tmp_path, label_ids, expected
):
  facts = facts_here(imported(checkpoint, tmp_path / "head").directory)
  data = dataset(sorted(label_ids), **label_ids)
  if expected is None:
    with pytest.raises(ValueError, match=r"numbers up to 5.*--labels"):
      imported_heads.class_names(facts, data, place="head")
    return
  assert imported_heads.class_names(facts, data, place="head") == expected


def test_classes_that_the_data_lacks_are_left_out(directory, capsys):
  prepare = starter(directory, facts_here(directory, label_names=["run"]))
  kernel = prepare.keywords["source"]["params/class_head/out/dense/kernel"]
  assert kernel.shape[-1] == 1
  assert "4 classes that the data lacks" in capsys.readouterr().err


def test_labels_of_annotations(checkpoint, tmp_path):
  entries = [
    {"label": name, "label_id": 4 - i, "segment": [0.0, 1.0]}
    for i, name in enumerate(LABELS)
  ]
  path = tmp_path / "annotations.json"
  path.write_text(json.dumps({"database": {"a": {"annotations": entries}}}))
  done = imported(checkpoint, tmp_path / "head", labels=path)
  assert done.label_names == LABELS[::-1]
  entries[0]["label_id"] = 9
  path.write_text(json.dumps({"database": {"a": {"annotations": entries}}}))
  with pytest.raises(ValueError, match=r"--labels.*9.*0 to 4"):
    imported(checkpoint, tmp_path / "other", labels=path)
  entries[0]["label_id"] = 3
  path.write_text(json.dumps({"database": {"a": {"annotations": entries}}}))
  with pytest.raises(ValueError, match=r"--labels.*label_id 3"):
    imported(checkpoint, tmp_path / "other", labels=path)
  path.write_text(json.dumps({"database": {"a": {"annotations": entries[1:]}}}))
  done = imported(checkpoint, tmp_path / "fewer", labels=path)
  assert done.label_names == (*LABELS[:0:-1], "class 4")
  short = tmp_path / "labels.txt"
  short.write_text("jump\nrun\n")
  with pytest.raises(ValueError, match="names 2 classes"):
    imported(checkpoint, tmp_path / "other", labels=short)


def changed(tmp_path, section, **keys):
  values = yaml.safe_load(CONFIG.read_text())
  values.setdefault(section, {}).update(keys)
  path = tmp_path / "changed.yaml"
  path.write_text(yaml.safe_dump(values))
  return path


@pytest.mark.parametrize(
  ("section", "keys", "match"),
  [
    ("model", {"fpn_type": "fpn"}, "fpn_type"),
    ("model", {"scale_factor": 4}, "scale_factor"),
    ("model", {"n_heads": 4}, "n_heads"),
    ("model", {"embd_dim": 64}, "fpn_dim"),
    ("model", {"n_mha_win_size": [7, 7]}, "windows"),
    ("model", {"backbone_arch": [2, "two", 5]}, "backbone_arch"),
    ("model", {"n_head": 5}, "num_heads"),
    ("train_cfg", {"center_sample": "box"}, "center_sample"),
    ("test_cfg", {"nms_method": "hard"}, "nms_method"),
    ("opt", {"learning_rate": "1e-3"}, "learning_rate"),
    ("opt", {"type": "Lion"}, "opt.type"),
    ("dataset", {"max_seq_len": 100}, "max_length"),
    ("trainer", {"x": 1}, "trainer"),
  ],
)
def test_configurations_of_other_models(
  checkpoint, tmp_path, section, keys, match
):
  path = changed(tmp_path, section, **keys)
  with pytest.raises(ValueError, match=match):
    import_heads.import_actionformer(
      checkpoint, config_file=path, out=tmp_path / "head"
    )
  assert not (tmp_path / "head").exists()


@pytest.mark.parametrize("text", ["", "[1]", "model: {a", "!!python/name:os.x"])
def test_files_that_are_not_configuration(tmp_path, text):
  path = tmp_path / "wrong.yaml"
  path.write_text(text)
  with pytest.raises(actionformer_config.ConfigurationError, match="wrong"):
    actionformer_config.read(path)


def test_a_checkpoint_of_another_configuration(checkpoint, tmp_path):
  path = changed(tmp_path, "model", head_dim=64)
  with pytest.raises(ValueError, match="class_head/conv_0"):
    import_heads.import_actionformer(
      checkpoint, config_file=path, out=tmp_path / "head"
    )


def test_a_single_class_takes_every_label():
  values = actionformer_config.read(CONFIG)
  values["dataset"]["num_classes"] = 1
  config = registry.resolve(actionformer_run.run_config(values))
  assert config.class_agnostic
  assert config.class_names(LABELS) == (localizers.ANY_ACTION,)


def public_tensors(values):
  """Zeros under the public names, of two streams with learned distances."""
  tensors = dict(published_heads.small().tensors)
  width = values["model"]["fpn_dim"]
  for number, (stream, projected) in enumerate(
    zip(
      values["dataset"]["input_dim"], values["model"]["embd_dim"], strict=True
    )
  ):
    conv = f"backbone.proj.{number}.conv"
    tensors[f"{conv}.weight"] = np.full((projected, stream, 1), number, "f4")
    tensors[f"{conv}.bias"] = np.zeros(projected, np.float32)
  embed = "backbone.embd.0.conv.weight"
  tensors[embed] = np.zeros((width, width, 3), np.float32)
  for part, count in (("stem", 2), ("branch", 4)):  # the last sees all
    for block in range(count):
      name = f"backbone.{part}.{block}.attn.rel_pe"
      tensors[name] = np.arange(4 * 7, dtype=np.float32).reshape(1, 1, 4, 7)
  return tensors


def test_streams_and_distances(tmp_path):
  values = yaml.safe_load(CONFIG.read_text())
  values["dataset"]["input_dim"] = [10, 14]
  values["dataset"]["feat_folder"] = ["data/ego/a", "data/ego/b"]
  values["model"] |= {"embd_dim": [20, 12], "use_rel_pe": True}
  config = tmp_path / "streams.yaml"
  config.write_text(yaml.safe_dump(values))
  path = tmp_path / "streams.npz"
  np.savez(path, **public_tensors(values))
  done = import_heads.import_actionformer(
    path, config_file=config, out=tmp_path / "head"
  )
  facts, task, params = fit.restored(
    done.directory, localization.MODEL_FILE, localization.make_task
  )
  assert facts["feature_width"] == 24
  assert facts["files"]["names"] == ["a/v_{id}.npy", "b/v_{id}.npy"]
  own = params["params"]
  assert own["project_1"]["kernel"].shape == (14, 12)
  assert (own["project_1"]["kernel"] == 1).all()
  bias = own["stem_block_0"]["attention"]["distance_bias"]
  np.testing.assert_array_equal(bias, np.arange(28).reshape(4, 7))
  # Longer than in training: whole, padded to a multiple of 96 steps.
  length = task.padded_length(200)
  assert length == 288
  found = jax.eval_shape(
    task.detect,
    params,
    np.zeros((1, length, 24), "f4"),
    np.ones((1, length), bool),
  )
  assert found.segments.shape == (1, 100, 2)
