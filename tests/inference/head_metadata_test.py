"""What `clap predict` reads of a head's metadata."""

import json

import pytest

from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import model_directory
from clap_jax.storage import metadata as metadata_lib
from clap_jax.trainers import fit, localization, localizers, registry
from configs import localization_activitynet
from tests.inference import toy_model

FILES = {
  "names": ["{id}.npy"],
  "timing": "frames",
  "fps": 15.0,
  "stride_frames": 16.0,
  "window_frames": 16.0,
}


@pytest.fixture
def load(encoder, tmp_path, monkeypatch):
  """Loads a head of the given facts, beside a model.json or alone."""
  task, known, params = toy_model.make_model(encoder).localizer

  def load(changes, *, config=None, stride_sec=None, **options):
    facts = {k: v for k, v in known.items() if k != "length"} | changes
    if isinstance(config, dict):
      facts = metadata_lib.of_config(config) | facts
    monkeypatch.setattr(fit, "restored", lambda *_: (dict(facts), task, params))
    monkeypatch.setattr(encoder_lib, "load_encoder", lambda _: encoder)
    (tmp_path / localization.MODEL_FILE).write_text("{}")
    if config is not None:
      (tmp_path / "config.json").write_text(json.dumps(config))
    if stride_sec is not None:
      model_directory.write_model(
        tmp_path,
        encoder="encoder",
        stride_sec=stride_sec,
        localization_dir=".",
        grounding_dir=None,
      )
    return model_directory.load_model(tmp_path, **options)

  return load


@pytest.mark.parametrize(
  ("changes", "config", "length"),
  [
    ({"length": "resize"}, None, "resize"),
    ({"length": "resize"}, {"data": {"length": "pad"}}, "resize"),
    ({}, {"data": {"length": "windows"}}, "windows"),  # of earlier revisions
    ({}, {"data": {}}, "pad"),
  ],
)
def test_length_mode(load, changes, config, length):
  changes = changes | {"encoder_directory": "e", "stride_sec": 1.0}
  assert load(changes, config=config).localizer[1]["length"] == length


@pytest.mark.parametrize(
  ("changes", "config", "message"),
  [
    ({}, None, r"localizer\.json.*length None.*pad, resize, windows"),
    ({"length": "crop"}, None, r"localizer\.json.*'crop'"),
    ({}, [], "None"),
    ({}, {"data": {"length": 3}}, r"localizer\.json.* 3"),
    ({"length": "pad", "stride_sec": "1"}, None, "stride_sec is '1'"),
    ({"length": "pad", "clip_sec": -1.0}, None, r"clip_sec is -1\.0"),
    ({"length": "pad", "files": 3}, None, r"localizer\.json: files"),
    ({"length": "pad", "files": FILES | {"x": 1}}, None, "files.*'x'"),
    ({"length": "pad", "files": FILES | {"fps": -1}}, None, "files.*fps"),
  ],
)
def test_metadata_that_cannot_be_used(load, changes, config, message):
  with pytest.raises(ValueError, match=message):
    load(changes, config=config)


def test_another_stride_than_that_of_training_is_refused(load):
  known = {"length": "pad", "stride_sec": 0.5}
  with pytest.raises(ValueError, match=r"every 0\.5 s.*1.*model\.json"):
    load(known, stride_sec=1.0)
  assert load(known, stride_sec=0.5).stride_sec == 0.5
  known = {"length": "resize", "files": FILES}
  with pytest.raises(ValueError, match=r"every 1\.06667 s"):
    load(known, stride_sec=1.0)
  assert load(known, stride_sec=16 / 15).localizer


def test_a_head_on_imported_features(load):
  known = {"length": "resize", "files": FILES}
  model = load(known, needs_encoder=False)
  assert model.encoder is None and model.stride_sec == pytest.approx(16 / 15)
  with pytest.raises(ValueError, match="feature files"):
    load(known)


def test_trainers_write_the_length_mode():
  config = registry.resolve(localization_activitynet.get_config("tiny"))
  facts = localizers.model_metadata(config, ["a"], 4)
  assert (facts["length"], facts["max_length"]) == (
    "resize",
    config.data.max_length,
  )


def test_trainers_write_what_prediction_reads():
  files = {"names": ("a.npy",)}
  facts = metadata_lib.encoder_metadata(
    {"encoder": "i3d", "files": files, "clip": {"clip_sec": 2.0}}
  )
  assert facts["files"] == files and facts["clip_sec"] == 2.0
