"""A run is recognised by what it read, wherever that lies now."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax.evaluation import results
from clap_jax.trainers import inputs, registry
from clap_jax.training import manifest
from clap_jax.training import workdir as workdir_lib
from configs import localization_hapt, pretrain_sprites
from tests.configs import keys
from tests.data import built_dataset

ROW = {"task": "localization", "metric": "average_map", "value": 0.5}


def write(directory: pathlib.Path) -> pathlib.Path:
  """DIRECTORY/annotations.json and DIRECTORY/features of two splits."""
  (directory / "features").mkdir(parents=True)
  database = {}
  for number, subset in enumerate(("training", "training", "validation")):
    array = np.random.default_rng(number).normal(size=(20, 4))
    np.save(directory / "features" / f"v{number}.npy", array)
    database[f"v{number}"] = {
      "subset": subset,
      "duration": 20.0,
      "annotations": [{"segment": [3, 9], "label": "run"}],
    }
  text = json.dumps({"database": database})
  (directory / "annotations.json").write_text(text)
  return directory


def resolved(directory: pathlib.Path, **changes):
  return registry.resolve(config_of(directory, **changes))


def config_of(directory: pathlib.Path, **changes):
  config = localization_hapt.get_config("tiny,all=True")
  with config.unlocked():
    keys.change(
      config,
      {
        "data.annotations": str(directory / "annotations.json"),
        "data.features_dir": str(directory / "features"),
        "data.files.names": ("{id}.npy",),
        "data.files.timing": "even",
      }
      | changes,
    )
  return config


@pytest.fixture
def data(tmp_path):
  return write(tmp_path / "data")


@pytest.fixture
def workdir(tmp_path, data):
  """Of a run on `data` that has begun."""
  begin(tmp_path / "run", resolved(data))
  return tmp_path / "run"


def begin(workdir, config) -> None:
  inputs.take(workdir, config)
  workdir_lib.write_config(workdir, config)


def test_moved_data_is_the_same(workdir, data, tmp_path):
  moved = shutil.move(data, tmp_path / "elsewhere")
  found = inputs.compare(workdir, resolved(pathlib.Path(moved)))
  assert found == inputs.Differences()
  inputs.take(workdir, resolved(pathlib.Path(moved)))
  document = json.loads((workdir / inputs.INPUTS_FILE).read_text())
  assert document["inputs"]["data.annotations"]["path"] == str(
    tmp_path / "elsewhere" / "annotations.json"
  )


def other_features(directory):
  np.save(directory / "features" / "v1.npy", np.zeros((20, 4)))


def other_validation(directory):
  np.save(directory / "features" / "v2.npy", np.zeros((20, 4)))


def other_annotations(directory):
  path = directory / "annotations.json"
  path.write_text(path.read_text().replace("run", "walk"))


@pytest.mark.parametrize(
  ("change", "name"),
  [
    (other_features, "data.features_dir[training]"),
    (other_validation, "data.features_dir[validation]"),
    (other_annotations, "data.annotations"),
  ],
)
@pytest.mark.parametrize("place", ["data", "elsewhere"])
def test_other_data_is_refused(workdir, data, change, name, place):
  before = inputs.fingerprints(resolved(data))[name]
  place = data.parent / place
  if place != data:
    shutil.copytree(data, place)
  change(place)
  config = resolved(place)
  now = inputs.fingerprints(config)[name]
  with pytest.raises(ValueError, match="other data") as error:
    inputs.take(workdir, config)
  for text in (name, before["path"], now["path"]):
    assert text in str(error.value)
  for entry in (before, now):
    assert entry["sha256"][:16] in str(error.value)


def test_files_beside_those_of_the_run_do_not_count(workdir, data):
  (data / "features" / "v9.npy").write_bytes(b"x")
  assert inputs.compare(workdir, resolved(data)) == inputs.Differences()


@pytest.mark.parametrize(
  ("changes", "lines", "part"),
  [
    ({"data.eval_split": "training"}, 1, "evaluation"),
    ({"data.selection_split": "validation"}, 1, "evaluation"),
    ({"decode.sigma": 0.3, "decode.num_kept": 7}, 2, "evaluation"),
    ({"protocol": "thumos14"}, 1, "evaluation"),
    ({"loop.eval_every_steps": 3, "data.num_threads": 0}, 0, "evaluation"),
    ({"data.batch_size": 3}, 1, "training"),
    ({"data.ignored_videos": ("v1",)}, 2, "training"),  # and the features
  ],
)
def test_which_keys_may_change(workdir, data, changes, lines, part):
  found = inputs.compare(workdir, resolved(data, **changes))
  other = {"training": "evaluation", "evaluation": "training"}[part]
  assert len(getattr(found, part)) == lines
  assert not getattr(found, other)


def test_without_fingerprints_paths_are_compared(workdir, data, tmp_path):
  (workdir / inputs.INPUTS_FILE).unlink()
  assert inputs.compare(workdir, resolved(data)) == inputs.Differences()
  moved = shutil.copytree(data, tmp_path / "elsewhere")
  found = inputs.compare(workdir, resolved(pathlib.Path(moved)))
  assert [line.partition(":")[0] for line in found.training] == [
    "data.annotations",
    "data.features_dir",
  ]


def test_a_finished_run_outlives_its_data(workdir, data):
  results.write(workdir, [ROW])
  shutil.rmtree(data)
  config = config_of(data)
  assert registry.train(config, workdir) == [ROW]
  config.data.features_dir = str(data / "nowhere")
  with pytest.raises(ValueError, match="nowhere"):
    registry.train(config, workdir)


def test_large_features_count_by_their_ends(monkeypatch, workdir, data):
  monkeypatch.setattr(inputs, "_MAX_HASHED_BYTES", 0)
  monkeypatch.setattr(inputs, "_END_BYTES", 64)
  whole = inputs.hash_file(data / "features" / "v0.npy")
  ends = inputs.hash_file(data / "features" / "v0.npy", ends_only=True)
  assert whole != ends
  before = inputs.fingerprints(resolved(data))
  other_features(data)
  now = inputs.fingerprints(resolved(data))
  changed = {name for name in now if now[name] != before[name]}
  assert changed == {"data.features_dir[training]"}


def write_checkpoint(run: pathlib.Path, content: bytes) -> None:
  directory = run / "checkpoints" / "5"
  shutil.rmtree(directory, ignore_errors=True)
  directory.mkdir(parents=True)
  (directory / "array").write_bytes(content)
  manifest.write_manifest(directory, tree={}, metadata={})


def test_inputs_of_a_pretraining(tmp_path):
  built_dataset.write_dataset(tmp_path, num_videos=2)
  (tmp_path / "tokenizer.model").write_bytes(b"tokens")
  write_checkpoint(tmp_path / "before", b"one")
  config = pretrain_sprites.get_config("tiny")
  keys.change(
    config,
    {
      "data.dataset": "toy/small",
      "data.data_dir": str(tmp_path),
      "data.tokenizer": str(tmp_path / "tokenizer.model"),
      "start.workdir": str(tmp_path / "before"),
    },
  )
  before = inputs.fingerprints(registry.resolve(config))
  assert set(before) == {"data.data_dir", "data.tokenizer", "start.workdir"}
  (tmp_path / "tokenizer.model").write_bytes(b"others")
  write_checkpoint(tmp_path / "before", b"two")
  (path,) = (tmp_path / "toy").rglob("dataset_info.json")
  path.write_text(path.read_text() + " ")
  now = inputs.fingerprints(registry.resolve(config))
  assert {name for name in before if now[name] != before[name]} == set(before)


@pytest.mark.parametrize("key", ["meshed", "data.num_threads_more", "decoder"])
def test_a_changeable_key_ends_at_a_dot(key):
  found = workdir_lib.config_differences({key: 1}, {key: 2})
  assert found == [f"{key}: was 1, now 2"]


@pytest.mark.parametrize("key", ["mesh.data", "data.num_threads", "loop.seed"])
def test_a_changeable_key_covers_its_section(key):
  section, _, last = key.partition(".")
  found = workdir_lib.config_differences(
    {section: {last: 1}}, {section: {last: 2}}
  )
  assert bool(found) == (key == "loop.seed")


def test_every_input_key_is_one_of_a_trainer():
  """A renamed key of a dataclass must be renamed here as well."""
  known = set()
  for file in ("localization_open_sprites", "grounding_tacos"):
    config = __import__(f"configs.{file}", fromlist=["x"]).get_config("tiny")
    values = config_lib.as_dict(registry.resolve(config))
    known |= set(workdir_lib.flattened(values))
  known |= set(
    workdir_lib.flattened(
      config_lib.as_dict(registry.resolve(pretrain_sprites.get_config("tiny")))
    )
  )
  for key in workdir_lib.INPUT_KEYS:
    if key.split(".")[0] not in ("tower", "class_split"):
      assert any(workdir_lib.is_below(name, (key,)) for name in known), key
