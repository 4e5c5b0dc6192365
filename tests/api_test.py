"""Tests that the Python API equals the commands and is imported lazily."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import clap_jax
from clap_jax import api, main
from clap_jax.inference import model_directory
from tests import documents, main_test
from tests.data import built_dataset
from tests.inference import toy_model

QUERIES = ["the square spins", "it fades"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """`workdir/pretrain`, `my_video.mp4`, `my_videos` and `support`."""
  root = tmp_path_factory.mktemp("api")
  directory = root / "workdir" / "pretrain"
  directory.mkdir(parents=True)
  toy_model.write_imported(directory, toy_model.make_encoder(directory))
  (root / "my_video.mp4").write_bytes(built_dataset.encode_mp4(96))
  (root / "my_videos").mkdir()
  (root / "my_videos" / "a.mp4").write_bytes(
    built_dataset.encode_mp4(48, seed=1)
  )
  (root / "my_videos" / "broken.mp4").write_bytes(b"no video")
  for name in built_dataset.LABEL_NAMES[:2]:
    (root / "support" / name).mkdir(parents=True)
    (root / "support" / name / "clip.mp4").write_bytes(
      built_dataset.encode_mp4(24, seed=len(name))
    )
  return root


@pytest.fixture(scope="module")
def model(folder):
  return clap_jax.load_model(folder / "workdir" / "pretrain")


def clap(folder, *arguments) -> dict:
  """Returns the JSON output of a command with the same encoder."""
  out = folder / "command.json"
  words = [str(word) for word in (*arguments, "--json", out)]
  assert main.main(words) == 0
  return json.loads(out.read_text())


def test_importing_the_package_loads_nothing_else():
  program = """
import json, sys
before = set(sys.modules)
import clap_jax
assert {"load_model", "Model"} <= set(dir(clap_jax))
try:
  clap_jax.no_such_name
except AttributeError as error:
  assert "no_such_name" in str(error)
else:
  raise SystemExit("no AttributeError")
early = set(sys.modules) - before
assert callable(clap_jax.load_model)
print(json.dumps([sorted(early), sorted(set(sys.modules) - before)]))
"""
  done = subprocess.run(
    [sys.executable, "-c", program],
    capture_output=True,
    text=True,
    check=True,
    timeout=120,
  )
  early, late = json.loads(done.stdout)
  roots = {name.partition(".")[0] for name in early}
  assert not roots & {*main_test.HEAVY, "numpy"}
  assert [name for name in early if name.startswith("clap_jax")] == ["clap_jax"]
  assert "clap_jax.api" in late and "jax" in late
  assert not {name.partition(".")[0] for name in late} & {
    "matplotlib",
    "pandas",
  }


def test_public_names_are_those_of_the_interface():
  for name in clap_jax.__all__:
    assert getattr(clap_jax, name) is getattr(api, name)
    assert getattr(api, name).__doc__


@pytest.mark.parametrize(
  "request_",
  [
    {"queries": QUERIES},
    {"queries": QUERIES[0]},
    {"labels": list(built_dataset.LABEL_NAMES)},
    {"support": "support"},
    {"queries": QUERIES, "labels": ["slides"], "max_predictions": 3},
  ],
  ids=str,
)
def test_predict_is_clap_predict(model, folder, request_):
  video = folder / "my_video.mp4"
  flags = []
  queries = request_.get("queries", [])
  for query in [queries] if isinstance(queries, str) else queries:
    flags += ["--query", query]
  if "labels" in request_:
    (folder / "labels.txt").write_text("\n".join(request_["labels"]))
    flags += ["--labels", folder / "labels.txt"]
  if "support" in request_:
    request_ = request_ | {"support": folder / "support"}
    flags += ["--support", folder / "support"]
  if "max_predictions" in request_:
    flags += ["--max_predictions", request_["max_predictions"]]
  document = clap(
    folder, "predict", video, "--model", folder / "workdir/pretrain", *flags
  )
  found = model.predict(video, **request_)
  assert [found.to_dict()] == document["videos"]
  assert json.loads(found.to_json()) == found.to_dict()
  assert found.support == document.get("support")
  assert found.method == "zero-shot similarity"
  (entry,) = document["videos"]
  assert (found.video, found.duration_sec) == (str(video), 12.0)
  assert found.absent is entry["absent"]
  assert [
    {k: v for k, v in dataclasses.asdict(moment).items() if v is not None}
    for moment in found.predictions
  ] == entry["predictions"]


def test_a_model_with_heads(folder):
  parts = toy_model.make_model(toy_model.make_encoder(folder))
  found = api.Model(parts).predict(folder / "my_video.mp4")
  assert found.predictions[0].label in built_dataset.LABEL_NAMES
  assert found.method is None and "method" not in found.to_dict()
  assert api.Model(parts).label_names == tuple(built_dataset.LABEL_NAMES)


def test_what_was_found_cannot_be_changed_from_outside(model, folder):
  found = model.predict(folder / "my_video.mp4", queries=QUERIES)
  found.to_dict()["predictions"].clear()
  assert found.to_dict()["predictions"]
  with pytest.raises(dataclasses.FrozenInstanceError):
    found.absent = None


def test_encoded_videos_are_those_of_clap_extract(folder, model, tmp_path):
  built_dataset.write_dataset(tmp_path, num_videos=1)
  directory = folder / "workdir/pretrain"
  clap(
    folder, "extract", "--model", directory, "--data", "toy/small",
    "--data_dir", tmp_path, "--out", tmp_path / "features",
  )  # fmt: skip
  from clap_jax.data import features, records  # noqa: PLC0415

  dataset = records.open_dataset(tmp_path, "toy/small")
  example = dataset.split("train")[0]
  (tmp_path / "video.mp4").write_bytes(example.video)
  stored = features.load_features(tmp_path / "features", example.id)
  tower = model.encode_video(tmp_path / "video.mp4", space="tower")
  np.testing.assert_allclose(tower.features, stored.features, atol=1e-5)
  count = np.arange(len(stored.features))
  np.testing.assert_allclose(tower.times_sec, stored.grid.to_seconds(count))
  video, times_sec = model.encode_video(tmp_path / "video.mp4")
  np.testing.assert_array_equal(times_sec, tower.times_sec)
  assert video.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(video, axis=1), 1.0, atol=1e-5)
  texts = model.encode_text(QUERIES)
  assert texts.dtype == np.float32
  assert texts.shape == (2, video.shape[1])
  np.testing.assert_array_equal(model.encode_text(QUERIES[0]), texts[:1])
  coarse = model.encode_video(tmp_path / "video.mp4", stride_sec=1.0)
  np.testing.assert_allclose(coarse.features, video[::2], atol=1e-5)


def test_index_and_search_are_clap_index_and_search(folder, model, tmp_path):
  made = model.index(folder / "my_videos", tmp_path / "index")
  assert made.videos == (str(folder / "my_videos" / "a.mp4"),)
  assert [entry["video"] for entry in made.failed] == [
    str(folder / "my_videos" / "broken.mp4")
  ]
  document = clap(
    folder, "search", QUERIES[0], "--index", made.directory, "--top", 3
  )
  assert made.search(QUERIES[0], top=3) == document["moments"]
  opened = model.open_index(made.directory)
  assert opened.search(QUERIES[0], top=3) == document["moments"]
  with pytest.raises(ValueError, match="empty"):
    opened.search(" ")
  other = api.Model(
    model_directory.Model(
      toy_model.make_encoder(tmp_path, seed=1), 0.5, None, None
    )
  )
  with pytest.raises(ValueError, match="parameters"):
    other.open_index(made.directory)


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (lambda m, f: m.predict(f / "none.mp4", ["x"]), FileNotFoundError, "none"),
    (lambda m, f: m.predict(f / "my_videos", ["x"]), FileNotFoundError, "vid"),
    (
      lambda m, f: m.predict(f / "my_videos/broken.mp4", ["x"]),
      ValueError,
      r"broken\.mp4",
    ),
    (lambda m, f: m.predict(f / "my_video.mp4"), ValueError, "--query"),
    (
      lambda m, f: m.encode_video(f / "my_video.mp4", space="other"),
      ValueError,
      "other",
    ),
    (lambda m, f: m.encode_text([]), ValueError, "texts"),
    (lambda m, f: clap_jax.load_model(f), FileNotFoundError, "no model"),
  ],
)
def test_invalid_calls_raise(model, folder, call, error, message):
  with pytest.raises(error, match=message):
    call(model, folder)


def test_a_head_without_its_encoder():
  alone = api.Model(model_directory.Model(None, 0.5, None, None))
  with pytest.raises(ValueError, match="encoder"):
    alone.encode_text(["x"])


ENTRY = {
  "video": "videos/a.mp4",
  "duration_sec": 10.0,
  "predictions": [
    {"start_sec": 1.0, "end_sec": 3.0, "score": 0.9, "query": "it spins"},
    {"start_sec": 6.0, "end_sec": 7.5, "score": 0.3, "query": "it spins"},
    {"start_sec": 0.0, "end_sec": 9.0, "score": 0.5, "label": "slides"},
  ],
  "absent": False,
  "absence": {
    "it spins": {"probability": 0.2, "absent": False},
    "it fades": {"probability": 0.8, "absent": True},
  },
}


def found_of(entry):
  return api.VideoPredictions(
    video=entry["video"],
    duration_sec=entry["duration_sec"],
    predictions=tuple(api.Prediction(**e) for e in entry["predictions"]),
    absent=entry["absent"],
    absence=entry["absence"],
    method=None,
    support=None,
    entry=entry,
  )


def test_a_table_has_one_row_per_prediction():
  pytest.importorskip("pandas")
  table = found_of(ENTRY).to_dataframe()
  assert list(table.columns) == [
    "video", "start_sec", "end_sec", "score", "label", "query",
  ]  # fmt: skip
  assert table["start_sec"].tolist() == [1.0, 6.0, 0.0]
  assert set(table["video"]) == {"videos/a.mp4"}


def test_a_timeline_has_one_line_per_name():
  matplotlib = pytest.importorskip("matplotlib")
  matplotlib.use("Agg")
  axes = found_of(ENTRY).plot()
  names = [label.get_text() for label in axes.get_yticklabels()]
  assert names == ["it spins", "it fades (absent)", "slides"]
  assert axes.get_xlim() == (0.0, 10.0)
  drawn = [
    path.get_extents()
    for collection in axes.collections
    for path in collection.get_paths()
  ]
  assert sorted((box.x0, box.x1) for box in drawn) == [
    (0.0, 9.0), (1.0, 3.0), (6.0, 7.5),
  ]  # fmt: skip
  assert found_of(ENTRY).plot(axes) is axes


@pytest.mark.parametrize(
  ("package", "method"), [("pandas", "to_dataframe"), ("matplotlib", "plot")]
)
def test_a_missing_package_is_named(package, method, monkeypatch):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ImportError, match=package):
    getattr(found_of(ENTRY), method)()


def python_blocks(name="docs/python_api.md"):
  text = (documents.ROOT / name).read_text(encoding="utf-8")
  return [
    block
    for language, block in documents.FENCE.findall(text)
    if language == "python"
  ]


@pytest.fixture
def names_of_the_document(folder, tmp_path, monkeypatch):
  """What the first block of the document leaves, run as it stands."""
  for name in ("workdir", "my_video.mp4", "my_videos"):
    (tmp_path / name).symlink_to(folder / name)
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(python_blocks()[0], names)
  return names


def test_the_document_runs(names_of_the_document):
  names = names_of_the_document
  assert names["similarity"].shape == (len(names["times_sec"]), 2)
  assert names["found"].method == "zero-shot similarity"
  assert names["moments"]


def test_the_readme_runs(folder, tmp_path, monkeypatch, capsys):
  (tmp_path / "workdir/demo/models/seed0").mkdir(parents=True)
  (tmp_path / "workdir/demo/models/seed0/clap").symlink_to(
    folder / "workdir/pretrain"
  )
  (tmp_path / "my_video.mp4").symlink_to(folder / "my_video.mp4")
  monkeypatch.chdir(tmp_path)
  (block,) = python_blocks("README.md")
  names = {}
  exec(block, names)
  assert names["texts"].shape[1] == names["video"].shape[1]
  assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_document_s_table_and_timeline(names_of_the_document):
  pytest.importorskip("pandas")
  pytest.importorskip("matplotlib").use("Agg")
  exec(python_blocks()[1], names_of_the_document)
  assert pathlib.Path("moments.png").is_file()
