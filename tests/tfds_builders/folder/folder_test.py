"""Folders of videos: what is packed, what is skipped, and why."""

import json
import os
import pathlib

import pytest
import tensorflow_datasets as tfds

from clap_jax.annotations import annotation_file
from clap_jax.storage import tfrecord
from tests.tfds_builders import transcoding_test
from tfds_builders import (
  build,
  collection,
  packing,
  transcoding,
)


def _examples(result, split):
  directory = pathlib.Path(result["directory"])
  features = tfds.builder_from_directory(str(directory)).info.features
  found = {}
  for shard in directory.glob(f"*-{split}.tfrecord-*"):
    if shard.suffix == ".idx":
      continue
    reader = tfrecord.ShardReader(shard)
    for number in range(len(reader)):
      example = features.deserialize_example_np(reader.read(number))
      found[example["id"].decode()] = example
  return features, found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Good, short, broken and linked videos with annotations of all kinds."""
  root = tmp_path_factory.mktemp("folder")
  videos = root / "videos"
  (videos / "sub").mkdir(parents=True)
  for name in ("good.mp4", "sub/other.mp4", "v_abc.mp4", "extra.mp4"):
    transcoding_test.make_video(videos / name, seconds=3, fps=10)
  transcoding_test.make_video(videos / "short.mp4", seconds=0.4, fps=10)
  (videos / "broken.mp4").write_bytes(b"\0\0\0\x20ftypisom" + b"\7" * 999)
  transcoding_test.make_video(root / "outside.mp4", seconds=2, fps=10)
  os.symlink(root / "outside.mp4", videos / "link.mp4")
  (root / "a.csv").write_text(
    "video,start,end,label,caption,subset\n"
    "good.mp4,0.5,1.5,run,somebody runs,train\n"
    "good.mp4,2.0,9.0,jump,,train\n"
    "good.mp4,5.0,9.0,jump,,train\n"
    "good.mp4,2,1,jump,,train\n"
    "sub/other.mp4,0,1,run,,train\n"
    "abc,0,1,run,,validation\n"
    "short.mp4,0,0.3,run,,train\n"
    "broken.mp4,0,1,run,,train\n"
    "gone.mp4,0,1,run,,train\n"
    "link.mp4,0,1,run,,train\n"
    "../outside.mp4,0,1,run,,train\n"
    "/etc/passwd,0,1,run,,test\n"
  )
  return root


@pytest.fixture(scope="module")
def built(folder):
  return build.build(
    "folder",
    data_dir=folder / "data",
    videos=folder / "videos",
    annotations=folder / "a.csv",
  )


def test_good_videos_are_packed(built):
  features, train = _examples(built, "train")
  assert set(train) == {"good", "sub_other"}
  assert features["segments"]["label"].names == ["jump", "run"]
  good = train["good"]
  assert good["fps"] == 10 and good["num_frames"] == 30
  assert list(good["segments"]["label"]) == [1, 0]
  assert list(good["segments"]["end_sec"]) == [1.5, 3.0]  # clipped
  assert list(good["captions"]["text"]) == [b"somebody runs"]
  assert list(good["background"]["start_sec"]) == []  # gaps of half a second
  assert (good["height"], good["width"]) == (64, 96)
  _, validation = _examples(built, "validation")
  assert set(validation) == {"abc"}  # the file is v_abc.mp4
  whole = validation["abc"]["background"]
  assert (whole["start_sec"], whole["end_sec"]) == ([1.0], [3.0])


def test_everything_else_is_in_the_manifest_with_a_reason(built):
  manifests = built["manifests"]
  train = manifests["train"]
  assert train["present"] == 2 and train["missing"] == ["gone"]
  reasons = {c["id"]: c["reason"] for c in train["corrupt"]}
  assert set(reasons) == {"short", "broken", "link", "../outside.mp4"}
  assert "too short" in reasons["short"]
  assert "cut short" in reasons["broken"]
  assert "link" in reasons["link"]
  assert "unsafe" in reasons["../outside.mp4"]
  assert [n["where"] for n in train["repaired"]] == ["line 3"]
  assert [n["where"] for n in train["rejected"]] == ["line 5", "line 4"]
  assert manifests["test"]["present"] == 0
  assert manifests["test"]["corrupt"][0]["id"] == "/etc/passwd"
  assert set(built["unlisted"]) >= {"extra.mp4"}
  for split, manifest in manifests.items():
    path = pathlib.Path(built["directory"], split, "manifest.json")
    assert json.loads(path.read_text()) == manifest


def test_an_interrupted_build_keeps_its_finished_shards(
  folder, tmp_path, monkeypatch
):
  request = {
    "data_dir": tmp_path,
    "videos": folder / "videos",
    "annotations": folder / "a.csv",
    "workers": 1,
  }
  tried = []
  original = transcoding.transcode_apart

  def stop_at_the_third(source, *args, **kwargs):
    tried.append(source.name)
    if len(tried) == 3:
      raise KeyboardInterrupt
    return original(source, *args, **kwargs)

  monkeypatch.setattr(transcoding, "transcode_apart", stop_at_the_third)
  with pytest.raises(KeyboardInterrupt):
    build.build("folder/mine", **request)
  assert not (tmp_path / "folder").exists()
  result = build.build("folder/mine", **request)
  again = [name for name in set(tried) if tried.count(name) > 1]
  assert again == [tried[2]], "only the shard in flight is done again"
  assert result["directory"].endswith("folder/mine/1.0.0")
  assert not list(tmp_path.glob(".building-*/*"))


def test_spans_are_clipped_or_rejected():
  notes = packing.new_manifest("train")
  spans = [
    annotation_file.Span(-1.0, 2.0, "a", "line 2"),
    annotation_file.Span(9.95, 12.0, "b", "line 3"),
    annotation_file.Span(1.0, 10.05, "c", "line 4"),
    annotation_file.Span(0.0, 1e9, "d", "line 5"),
    annotation_file.Span(-3.0, 0.0, "e", "line 6"),
  ]
  kept = collection.fit_spans(spans, 10.0, video_id="v", notes=notes)
  assert kept == [(0.0, 2.0, "a"), (1.0, 10.0, "c"), (0.0, 10.0, "d")]
  assert [n["where"] for n in notes["repaired"]] == ["line 2"]
  assert [n["where"] for n in notes["rejected"]] == ["line 3", "line 6"]


def test_no_usable_video_is_an_error(folder, tmp_path):
  path = tmp_path / "a.csv"
  path.write_text("video,start,end,label,caption\nnone.mp4,0,1,x,\n")
  with pytest.raises(ValueError, match="no usable video"):
    build.build(
      "folder",
      data_dir=tmp_path / "d",
      videos=folder / "videos",
      annotations=path,
    )
  with pytest.raises(FileNotFoundError, match="no folder of videos"):
    build.build(
      "folder",
      data_dir=tmp_path / "d",
      videos=tmp_path / "none",
      annotations=path,
    )


def test_real_footage(shared_data, tmp_path):
  """Three of the real videos, named by their ids and by file names."""
  videos = shared_data / "videos"
  document = json.loads((videos / "annotations.json").read_text())["videos"]
  names = ("v_GGSY1Qvo990.mp4", "v_ZNVhz7ctTq0.mp4", "asl_gestures/yes.mkv")
  path = tmp_path / "a.json"
  path.write_text(json.dumps({"videos": {n: document[n] for n in names}}))
  result = build.build(
    "folder", data_dir=tmp_path, videos=videos, annotations=path
  )
  manifests = result["manifests"]
  assert manifests["train"]["present"] == 2
  assert manifests["validation"]["present"] == 1
  assert manifests["validation"]["captions"] == 6
  assert not any(m["corrupt"] or m["missing"] for m in manifests.values())
  _, train = _examples(result, "train")
  dog = train["v_ZNVhz7ctTq0"]
  assert abs(float(dog["duration_sec"]) - 14.05) < 0.1
