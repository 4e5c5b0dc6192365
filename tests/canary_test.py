"""Files that would run code in a careless loader: none of ours runs it.

Every loader of files that come from somewhere else gets files whose loading
would leave a mark. What the loader says is its own business; the mark is not.
"""

import json
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from clap_jax import config as config_lib
from clap_jax import main
from clap_jax.data import (
  class_splits,
  class_texts,
  feature_files,
  feature_reader,
  features,
  query_annotations,
  records,
  tokenizer,
  vocabulary,
)
from clap_jax.evaluation import results
from clap_jax.inference import encoder, index, model_directory, support
from clap_jax.interchange import export_weights, weight_files
from clap_jax.metrics import score, video_classifier
from clap_jax.report import run_files
from clap_jax.storage import metadata
from clap_jax.trainers import registry
from clap_jax.training import checkpoint, goodput, weights, workdir, writer
from configs import localization_sprites
from tests.trainers import toy_features
from tfds_builders import build


class Canary:
  """An object whose unpickling touches a file."""

  def __init__(self, mark):
    self._mark = mark

  def __reduce__(self):
    return pathlib.Path.touch, (self._mark,)


def codes(mark):
  """Texts that touch the mark in eval, YAML, a shell, or a template."""
  touch = f"__import__('pathlib').Path({str(mark)!r}).touch()"
  return [
    touch,
    f"!!python/object/apply:os.system ['touch {mark}']",
    f"$(touch {mark})",
    f"`touch {mark}`",
    f"; touch {mark} ;",
    f"{{{{ {touch} }}}}",
    f"| touch {mark}",
  ]


def pickled(mark):
  return pickle.dumps(Canary(mark))


def write_array(path, mark):
  np.save(path, np.array([Canary(mark)], object), allow_pickle=True)


def write_archive(path, mark, names=("features",)):
  """An .npz whose every member is a pickled array."""
  member = path.with_suffix(".member.npy")
  write_array(member, mark)
  with zipfile.ZipFile(path, "w") as archive:
    for name in names:
      archive.write(member, f"{name}.npy")


@pytest.fixture
def mark(tmp_path):
  return tmp_path / "EXECUTED"


def attempt(function):
  """Whatever a loader raises is an answer."""
  try:
    function()
  except (Exception, SystemExit):
    return


def hostile_files(folder, mark):
  """Files of every ending that anything here reads."""
  for suffix in (".npz", ".npy"):
    path = folder / f"array{suffix}"
    if suffix == ".npz":
      write_archive(
        path,
        mark,
        (
          "features",
          "start_sec",
          "stride_sec",
          "clip_sec",
          "video-id",
          "label",
        ),
      )
    else:
      write_array(path, mark)
    yield path
  for suffix in (
    ".json",
    ".jsonl",
    ".csv",
    ".txt",
    ".npz",
    ".npy",
    ".model",
    ".pkl",
    ".pt",
    ".pth",
    ".yaml",
    ".tfrecord",
    ".mp4",
    ".safetensors",
    ".list",
    ".h5",
    ".log",
    ".stablehlo",
  ):
    path = folder / f"pickle{suffix}"
    path.write_bytes(pickled(mark))
    yield path
    for number, code in enumerate(codes(mark)):
      path = folder / f"code{number}{suffix}"
      path.write_text(code)
      yield path
  for number, code in enumerate(codes(mark)):
    span = {"segment": [code, code], "label": code, "score": code}
    path = folder / f"valid{number}.json"
    path.write_text(
      json.dumps(
        {
          "database": {code: {"annotations": [span], "subset": code}},
          "results": {code: [span], "v": [span | {"segment": [0, 1]}]},
          "version": code,
        }
      )
    )
    yield path
    path = folder / f"valid{number}.csv"
    cell = '"' + code.replace('"', '""') + '"'
    path.write_text(
      f"video,start,end,label,caption,subset\n{','.join([cell] * 6)}\n"
    )
    yield path


def _build(path):
  if path.suffix in (".json", ".csv"):  # others are refused by their ending
    build.build(
      "folder",
      data_dir=path.parent / "built",
      videos=path.parent,
      annotations=path,
    )


def _study(path):
  """What a search does with the record of an earlier one."""
  journal = pytest.importorskip(
    "optuna.storages.journal", reason="the extra `study` is not installed"
  )
  optuna = pytest.importorskip("optuna")
  study = optuna.create_study(
    study_name="clap",
    storage=optuna.storages.JournalStorage(
      journal.JournalFileBackend(str(path))
    ),
    load_if_exists=True,
  )
  study.ask()


READERS = {
  "features": features.read_features,
  "predictions": lambda path: score.score(
    path, ground_truth_path=path, protocols=("activitynet",)
  ),
  "grounding": lambda path: score.score(
    path, ground_truth_path=path, protocols=("qvhighlights",)
  ),
  "tokenizer": tokenizer.Tokenizer.load,
  "curve": lambda path: run_files.curve(path, "train/loss", name="x"),
  "build": _build,
  "weights": weight_files.read,
  "vocabulary": vocabulary.load,
  "foreign vocabulary": vocabulary.from_vocabulary,
  "class split": lambda path: class_splits.class_split(
    str(path), label_names=("a", "b")
  ),
  "class texts": class_texts.load,
  "hdf5": lambda path: feature_files.hdf5_ids(path, ["v"], key="{id}"),
  "queries": query_annotations.read_split,
  "sentences": query_annotations.read_sentences,
  "video classifier": video_classifier.read_video_scores,
  "scalar keys": run_files.scalar_keys,
  "study": _study,
}


@pytest.mark.parametrize("name", READERS)
def test_files(name, tmp_path, mark):
  count = 0
  for path in hostile_files(tmp_path, mark):
    attempt(lambda path=path: READERS[name](path))
    assert not mark.exists(), f"{name} ran what {path.name} holds"
    count += 1
  assert count > 150


def test_directories(tmp_path, mark):
  """Every file of a run, a dataset or a feature folder is the canary."""
  loaders = (
    encoder.load_encoder,
    model_directory.load_model,
    checkpoint.restore_params,
    results.read,
    registry.evaluate,
    support.read_folder,
    index.open_index,
    weights.read,
    lambda path: export_weights.load_tower(path, "video_tower.stablehlo"),
    lambda path: export_weights.load_tower(path, "text_tower.stablehlo"),
    lambda path: goodput.GoodputTracker(path, start_step=0),
    lambda path: writer.MetricsWriter(path, step=0).close(),
    lambda path: workdir.write_config(path, {}),
    *(
      lambda path, name=name: metadata.read(path, name)
      for name in metadata.FORMATS
    ),
    lambda path: records.open_dataset(path.parent, path.name),
    lambda path: features.load_features(path, "video"),
    lambda path: (
      feature_reader.FeatureReader(
        config_lib.resolve(
          feature_reader.FeatureData,
          localization_sprites.get_config().data.to_dict()
          | {"features_dir": str(path)},
        )
      ).texts
    ),
  )
  names = (
    "config.json",
    "results.json",
    *metadata.FORMATS,
    "manifest.json",
    "weights.safetensors",
    "video_tower.stablehlo",
    "text_tower.stablehlo",
    "vectors.npy",
    "segments.csv",
    "goodput.json",
    "metrics.jsonl",
    "features.json",
    "dataset_info.json",
    "tokenizer.model",
    "texts/vectors.npz",
    "video.npz",
    "checkpoints/1/manifest.json",
    "checkpoints/1/params/manifest.ocdbt",
  )
  contents = [pickled(mark), *(code.encode() for code in codes(mark))]
  for number, content in enumerate(contents):
    directory = tmp_path / f"run{number}"
    for name in names:
      path = directory / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(content)
    if not number:
      write_archive(directory / "texts/vectors.npz", mark, ("texts", "mask"))
      write_archive(directory / "video.npz", mark)
      write_array(directory / "vectors.npy", mark)
      (directory / "index.json").write_text(
        json.dumps(dict.fromkeys(metadata.FORMATS["index.json"].keys, ()))
      )
    for loader in loaders:
      attempt(lambda loader=loader, path=directory: loader(path))
      assert not mark.exists(), (number, loader)


@pytest.mark.parametrize("key", ["pythonClassName", "type"])
def test_a_dataset_that_names_a_module(tmp_path, mark, monkeypatch, key):
  """TFDS imports the module of a class that features.json names."""
  (tmp_path / "evil.py").write_text(codes(mark)[0])
  monkeypatch.syspath_prepend(tmp_path)
  directory = tmp_path / "toy" / "1.0.0"
  directory.mkdir(parents=True)
  (directory / "features.json").write_text(
    json.dumps({key: "evil.Feature", "content": {}})
  )
  (directory / "dataset_info.json").write_text(
    json.dumps({"name": "toy", "fileFormat": "tfrecord", "splits": []})
  )
  with pytest.raises(records.DatasetError, match=r"evil\.Feature"):
    records.open_dataset(tmp_path, "toy")
  assert not mark.exists()


def test_overrides(tmp_path, mark):
  """Values of flags are values."""
  toy = toy_features.overrides(tmp_path)
  for code in codes(mark):
    for key in ("loop.steps", "data.dataset", "optimizer.groups", "protocol"):
      arguments = ["train", "--config=configs/localization_sprites.py:tiny"]
      arguments += [f"--workdir={tmp_path / 'run'}"]
      arguments += [f"--config.{k}={v}" for k, v in toy.items()]
      attempt(
        lambda arguments=arguments, key=key, code=code: main.main(
          [*arguments, f"--config.{key}={code}"]
        )
      )
      assert not mark.exists(), (key, code)


def test_careless_loaders_would_execute_the_content(tmp_path, mark):
  """In a careless loader they would leave their mark."""
  write_archive(tmp_path / "a.npz", mark)
  with np.load(tmp_path / "a.npz", allow_pickle=True) as archive:
    archive["features"]
  assert mark.exists()
  mark.unlink()
  pickle.loads(pickled(mark))
  assert mark.exists()
  mark.unlink()
  eval(codes(mark)[0])
  assert mark.exists()
