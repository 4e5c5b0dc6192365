"""Facts of a received workdir are refused before anything is built of them."""

import json
import os

import jax
import numpy as np
import pytest

from clap_jax.data import vocabulary
from clap_jax.storage import metadata
from clap_jax.trainers import encoders, fit, localizers
from clap_jax.training import checkpoint, pretrained
from tests.storage.metadata_test import ENCODER

LOCALIZER = {
  "localizer": "points",
  "label_names": ["slides", "spins"],
  "feature_width": 8,
  "max_length": 16,
  "standardization": None,
  "pyramid": {"width": 8, "num_levels": 2, "num_heads": 2},
  "head": {"num_convs": 1, "kernel_size": 3},
  "decode": {"num_kept": 5, "num_candidates": 40},
  "use_ema": False,
}


def changed(document, path, value):
  document = json.loads(json.dumps(document))
  *sections, key = path.split("/")
  part = document
  for section in sections:
    part = part[section]
  part[key] = value
  return document


def load(tmp_path, name, document):
  (tmp_path / name).write_text(json.dumps({"format": 1} | document))
  make = {
    "encoder.json": encoders.described,
    "localizer.json": localizers.make_task,
  }[name]
  return metadata.load(tmp_path, name, make)


ENCODER_ATTACKS = [
  ("clip/clip_sec", "x"),
  ("clip/clip_sec", 0),
  ("clip/clip_sec", float("nan")),
  ("clip/clip_sec", float("inf")),
  ("clip/num_frames", 10**9),
  ("clip/num_frames", 10**30),
  ("clip/num_frames", "4"),
  ("clip/num_frames", 8),  # not that of the model
  ("clip/image_size", 10**7),
  ("clip/image_size", -1),
  ("clip/resize", "../x"),
  ("model/video_size", ["a"]),
  ("model/video_size", 7),
  ("model/patch", [0, 8, 8]),
  ("model/patch", ["a", "b", "c"]),
  ("model/patch", []),
  ("model/patch", None),
  ("model/vocab_size", 10**12),
  ("model/vocab_size", -1),
  ("model/max_text_length", 10**9),
  ("model/max_text_length", 0),
  ("model/projection_width", 0),
  ("model/num_classes", 10**12),
  ("model/dtype", "object"),
  ("model/dtype", "S10"),
  ("model/remat_policy", "os.system"),
  ("model/query_chunk", 1.5),
  ("model/unknown", 1),
  ("model", []),
  ("clip", None),
]
LOCALIZER_ATTACKS = [
  ("localizer", "os.system"),
  ("localizer", {}),
  ("label_names", []),
  ("label_names", "abc"),
  ("label_names", [1, 2]),
  ("label_names", ["\ud800", "b"]),
  ("label_names", ["a", "a"]),
  ("max_length", 10**12),
  ("max_length", 0),
  ("max_length", "x"),
  ("feature_width", 10**12),
  ("feature_width", -1),
  ("standardization", "x"),
  ("pyramid/width", 10**9),
  ("pyramid/width", "8"),
  ("pyramid/num_levels", 10**6),
  ("pyramid/num_stem_convs", 10**6),
  ("pyramid/range_factor", float("nan")),
  ("pyramid", [1]),
  ("head/num_convs", 10**6),
  ("head/kernel_size", "3"),
  ("decode/num_candidates", 10**12),
  ("decode/min_score", float("nan")),
  ("decode/min_score", "x"),
  ("decode/unknown", 1),
]


@pytest.mark.parametrize(
  ("name", "path", "value"),
  [("encoder.json", *attack) for attack in ENCODER_ATTACKS]
  + [("localizer.json", *attack) for attack in LOCALIZER_ATTACKS],
)
def test_absurd_facts_are_refused_by_name(tmp_path, name, path, value):
  whole = {"encoder.json": ENCODER, "localizer.json": LOCALIZER}[name]
  load(tmp_path, name, whole)
  with pytest.raises(metadata.FormatError, match=name):
    load(tmp_path, name, changed(whole, path, value))


@pytest.mark.parametrize("name", metadata.FORMATS)
def test_other_files_are_not_read(tmp_path, name):
  target = tmp_path / name
  for content in (b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe\xfa"):
    target.write_bytes(content)
    with pytest.raises(metadata.FormatError, match=name):
      metadata.read(tmp_path, name)
  target.unlink()
  os.mkfifo(target)
  with pytest.raises(FileNotFoundError, match=name):
    metadata.read(tmp_path, name)
  target.unlink()
  (tmp_path / "elsewhere.json").write_text(json.dumps({"format": 1}))
  target.symlink_to(tmp_path / "elsewhere.json")
  with pytest.raises(metadata.FormatError, match="symbolic link"):
    metadata.read(tmp_path, name)


def init(rng):
  return {"params": {"kernel": jax.random.normal(rng, (4, 2))}}


def test_parameters_of_another_model_are_refused():
  fitting = {"params": {"kernel": np.zeros((4, 2))}}
  pretrained.check_fits(fitting, init, name="a.json")
  # A tower that is not used may be absent, or stay from training.
  pretrained.check_fits({"params": {"other": np.zeros(3)}}, init, name="a.json")
  other = {"params": {"kernel": np.zeros((4, 3))}}
  with pytest.raises(ValueError, match=r"a\.json.*\n.*params/kernel"):
    pretrained.check_fits(other, init, name="a.json")


def test_a_model_that_cannot_be_built_is_refused():
  def broken(rng):
    return 1 // 0

  with pytest.raises(ValueError, match=r"a\.json.*ZeroDivisionError"):
    pretrained.check_fits({}, broken, name="a.json")


@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_a_tokenizer_that_is_not_a_file_is_refused(tmp_path, kind):
  path = tmp_path / "tokenizer.model"
  if kind == "pipe":
    os.mkfifo(path)
  else:
    path.symlink_to("/dev/zero")
  with pytest.raises(ValueError, match=r"tokenizer\.model"):
    vocabulary.load(path)


def test_a_deeper_head_than_the_checkpoint_holds(tmp_path, monkeypatch):
  task = localizers.make_task(LOCALIZER)
  params = jax.device_get(jax.jit(task.init)(jax.random.key(0)))
  monkeypatch.setattr(
    checkpoint, "restore_params", lambda *_, **__: (params, {})
  )
  for num_convs in (1, 2):
    document = changed(LOCALIZER, "head/num_convs", num_convs)
    load(tmp_path, "localizer.json", document)
    arguments = tmp_path, "localizer.json", localizers.make_task
    if num_convs == 1:
      fit.restored(*arguments)
    else:
      with pytest.raises(ValueError, match=r"localizer\.json .*\n.*missing"):
        fit.restored(*arguments)
