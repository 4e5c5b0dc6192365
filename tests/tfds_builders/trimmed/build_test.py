"""`clap build trimmed` on stand-ins of the published sets, and its flags."""

import json
import pathlib

import pytest

from clap_jax import main
from clap_jax.data import clips as clip_plans
from clap_jax.data import records
from tests.tfds_builders.trimmed import stand_ins
from tfds_builders import build, names
from tfds_builders.trimmed.settings import TrimmedSettings


def run(*words):
  return main.main(["build", *map(str, words)])


def examples(data_dir, name, split):
  dataset = records.open_dataset(data_dir, name)
  source = dataset.split(split)
  return dataset, [source[i].info() for i in range(len(source))]


def test_the_name_is_listed():
  assert {"trimmed", "trimmed/<your name for it>"} <= set(names.NAMES)


@pytest.fixture(scope="module")
def ucf101(tmp_path_factory):
  root = tmp_path_factory.mktemp("ucf101")
  stand_ins.ucf101(root, groups=range(7, 10))
  broken = sorted((root / "UCF-101").rglob("*g09*.avi"))[0]
  stand_ins.break_clip(broken)
  code = run(
    *("trimmed/ucf101", "--data_dir", root / "data"),
    *("--videos", root / "UCF-101"),
    *("--annotations", root / "ucfTrainTestlist"),
    "--selection_percent=50",
  )
  assert code == 0
  return root


def test_a_clip_is_one_segment_from_end_to_end(ucf101):
  counts = {}
  for split in ("train", "selection", "test"):
    dataset, infos = examples(ucf101 / "data", "trimmed/ucf101", split)
    counts[split] = len(infos)
    for info in infos:
      assert info.segments.tolist() == [[0.0, info.duration_sec]]
      assert info.duration_sec == pytest.approx(1.2)
      assert not len(info.background)
      assert dataset.label_names[info.labels[0]] == info.id.split("_")[0]
  assert counts["test"] == 2 and counts["train"] + counts["selection"] == 3
  assert dataset.label_names == stand_ins.UCF101_CLASSES


def test_the_broken_clip_is_counted_and_listed(ucf101):
  folder = ucf101 / "data" / "trimmed" / "ucf101" / "1.0.0"
  manifests = [
    json.loads((folder / split / "manifest.json").read_text())
    for split in ("train", "selection")
  ]
  (note,) = [note for manifest in manifests for note in manifest["corrupt"]]
  assert "g09" in note["id"] and note["reason"]


def test_it_is_verified_and_inspected(ucf101, monkeypatch):
  monkeypatch.chdir(ucf101)
  where = ("trimmed/ucf101", "--data_dir", str(ucf101 / "data"))
  assert main.main(["data", "verify", *where, "--decode"]) == 0
  assert main.main(["data", "inspect", *where, "--out", "page.html"]) == 0
  assert "ApplyEyeMakeup" in (ucf101 / "page.html").read_text()


def test_classification_draws_its_clips_from_it(ucf101):
  """What encoder=tac is given: action alone, of both classes."""
  dataset, infos = examples(ucf101 / "data", "trimmed/ucf101", "train")
  sampler = clip_plans.ClipSampler(
    infos,
    clip_plans.Sampling(text_source="labels", action_only=True),
    clip_sec=2.0,
    label_names=dataset.label_names,
  )
  items = [sampler.item(i, seed=0) for i in range(8)]
  assert all(item.is_action and item.start_sec == 0 for item in items)
  assert {item.class_id for item in items} == set(
    map(int, {info.labels[0] for info in infos})
  )


def test_hmdb51(tmp_path):
  stand_ins.hmdb51(tmp_path)
  result = build.build(
    "trimmed/hmdb51",
    data_dir=tmp_path / "data",
    videos=tmp_path / "hmdb51",
    annotations=tmp_path / "testTrainMulti_7030_splits",
  )
  manifests = result["manifests"]
  assert {k: m["present"] for k, m in manifests.items()} == {
    "train": 4,
    "test": 2,
  }
  assert len(manifests["train"]["excluded"]) == 2
  assert not manifests["train"]["corrupt"]  # half a second is no flaw
  assert len(result["unlisted"]) == 2


def test_kinetics(tmp_path):
  stand_ins.kinetics(tmp_path)
  result = build.build(
    "trimmed/kinetics",
    data_dir=tmp_path / "data",
    videos=tmp_path / "videos",
    annotations=tmp_path / "annotations",
  )
  manifests = result["manifests"]
  assert {k: m["present"] for k, m in manifests.items()} == {
    "train": 2,
    "validation": 1,
  }
  assert manifests["validation"]["missing"] == ["gone_gone_1_000000_000010"]
  assert set(manifests["train"]["segments_per_class"]) == {
    "riding a bike",
    "yoga",
  }


def test_class_folders_alone(tmp_path):
  for name in ("run/a.mp4", "run/b.mp4", "jump/c.mp4", "jump/d.mp4", "e.mp4"):
    stand_ins.make_clip(tmp_path / "videos" / name)
  code = run(
    "trimmed",
    *("--data_dir", tmp_path / "data", "--videos", tmp_path / "videos"),
    "--background=jump",
  )
  assert code == 0
  dataset, infos = examples(tmp_path / "data", "trimmed/default", "train")
  assert dataset.label_names == ("run",)
  kinds = {info.id.partition("_")[0]: info for info in infos}
  assert set(kinds) == {"run", "jump"}
  jump = kinds["jump"]
  assert not len(jump.segments)
  assert jump.background.tolist() == [[0.0, jump.duration_sec]]


def test_a_file_under_two_names_has_one_label(tmp_path):
  for name in ("run/a.mp4", "jump/b.mp4"):
    stand_ins.make_clip(tmp_path / "videos" / name)
  path = tmp_path / "clips.csv"
  path.write_text(
    "video,label,subset\nrun/a.mp4,run,train\na,jump,train\nb,jump,train\n"
  )
  result = build.build(
    "trimmed",
    data_dir=tmp_path / "data",
    videos=tmp_path / "videos",
    annotations=path,
  )
  manifest = result["manifests"]["train"]
  assert manifest["segments_per_class"] == {"run": 1, "jump": 1}
  (note,) = manifest["rejected"]
  assert note["where"] == "clips.csv line 3"


@pytest.mark.parametrize(
  "words,reason",
  [
    (("trimmed", "--videos=VIDEOS", "--constant=person"), "--join"),
    (("trimmed", "--videos=VIDEOS", "--join", "--constant=person"), "person"),
    (("trimmed", "--videos=VIDEOS", "--background=swim"), "swim"),
    (("trimmed", "--videos=VIDEOS", "--background=run,jump"), "every class"),
    (("trimmed", "--videos=VIDEOS", "--split_by=person"), "person"),
    (("trimmed", "--videos=VIDEOS", "--captions=none.json"), "none.json"),
    (("trimmed", "--videos=VIDEOS", "--join", "--store=original"), "original"),
    (("trimmed",), "videos"),
    (("trimmed", "--videos=none"), "none"),
    (("folder", "--videos=VIDEOS", "--annotations=a", "--join"), "trimmed"),
    (("motion_sprites/tiny", "--background=a"), "trimmed"),
  ],
)
def test_wrong_flags_end_before_the_work(tmp_path, capsys, words, reason):
  for name in ("run/a.mp4", "run/b.mp4", "jump/c.mp4", "jump/d.mp4"):
    path = tmp_path / "videos" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
  videos = str(tmp_path / "videos")
  words = [word.replace("VIDEOS", videos) for word in words]
  assert run(*words, "--data_dir", tmp_path / "data") == 2
  assert reason in capsys.readouterr().err
  assert not pathlib.Path(tmp_path, "data", "trimmed").exists()


def test_settings_are_for_this_dataset_alone(tmp_path):
  with pytest.raises(ValueError, match="trimmed"):
    build.build(
      "folder",
      data_dir=tmp_path,
      videos=tmp_path,
      annotations=tmp_path,
      trimmed=TrimmedSettings(),
    )
