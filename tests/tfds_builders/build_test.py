"""The finished dataset: shards, index, manifests, refusals."""

import hashlib
import json
import pathlib
import shutil
import struct
import subprocess
import sys

import crc32c
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tfds_builders import build, encoding
from tfds_builders.motion_sprites import sizes, verbs


def _records(shard: pathlib.Path):
  """Payloads by the sidecar's offsets, CRC checked."""
  offsets = np.fromfile(shard.with_name(shard.name + ".idx"), "<u8")
  content = shard.read_bytes()
  ends = [*offsets[1:], len(content)]
  for start, end in zip(offsets.tolist(), ends, strict=True):
    (length,) = struct.unpack_from("<Q", content, start)
    assert start + 12 + length + 4 == end
    payload = content[start + 12 : start + 12 + length]
    crc = crc32c.crc32c(payload)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert struct.unpack_from("<I", content, start + 12 + length)[0] == masked
    yield payload


@pytest.fixture(scope="module")
def examples(tiny):
  """Decoded examples per split, read without TensorFlow."""
  directory = pathlib.Path(tiny["directory"])
  features = tfds.builder_from_directory(str(directory)).info.features
  return {
    split: [
      features.deserialize_example_np(payload)
      for shard in sorted(directory.glob(f"*-{split}.tfrecord-*"))
      if shard.suffix != ".idx"
      for payload in _records(shard)
    ]
    for split in sizes.SPLITS
  }


def test_directory_and_progress(tiny):
  path = pathlib.Path(tiny["directory"])
  assert path == tiny["data_dir"] / "motion_sprites" / "tiny" / "1.0.0"
  assert (path / "dataset_info.json").exists()
  stages = [tuple(s) for s in tiny["stages"]]
  assert stages[14] == ("render", 15, 15) and stages[-1] == ("pack", 15, 15)
  assert not (tiny["data_dir"] / ".building-motion_sprites-tiny").exists()


def test_a_dataset_is_read_without_tensorflow(tiny):
  program = """
import sys
import tensorflow_datasets as tfds
from clap_jax import main
assert tfds.builder_from_directory(sys.argv[2]).info.splits["train"]
code = main.main([
  "data", "verify", "motion_sprites/tiny", "--data_dir", sys.argv[1], "--decode"
])
assert "tensorflow" not in sys.modules
sys.exit(code)
"""
  done = subprocess.run(
    [sys.executable, "-c", program, tiny["data_dir"], tiny["directory"]],
    check=False,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-2000:]


def test_records_hold_the_rendered_files_and_their_annotations(tiny, examples):
  rendered = tiny["data_dir"] / "rendered" / "motion_sprites" / "tiny"
  document = json.loads((rendered / "annotations.json").read_text())
  seen = set()
  for split, group in examples.items():
    assert len(group) == sizes.get_config("tiny").num_videos[split]
    for example in group:
      video_id = example["id"].decode()
      entry = document["database"][video_id]
      path = rendered / split / f"{video_id}.mp4"
      assert example["video"] == path.read_bytes()
      assert example["num_frames"] == encoding.count_frames(path)
      assert example["fps"] == entry["fps"]
      labels = [verbs.CLASS_NAMES[i] for i in example["segments"]["label"]]
      assert sorted(labels) == sorted(a["label"] for a in entry["annotations"])
      np.testing.assert_allclose(
        example["background"]["start_sec"],
        [s for s, _ in entry["background"]],
      )
      texts = [t.decode() for t in example["captions"]["text"]]
      assert sorted(texts) == sorted(c["text"] for c in entry["captions"])
      seen.add(video_id)
  assert seen == set(document["database"])


def test_manifests_count_what_is_there(tiny, examples):
  for split, group in examples.items():
    path = pathlib.Path(tiny["directory"], split, "manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest == tiny["manifests"][split]
    assert manifest["present"] == len(group)
    assert manifest["missing"] == manifest["corrupt"] == []
    assert manifest["segments"] == sum(
      len(e["segments"]["label"]) for e in group
    )
    assert manifest["captions"] == sum(
      len(e["captions"]["text"]) for e in group
    )
    assert manifest["classes"] == len(manifest["segments_per_class"])
    assert manifest["duration_sec"] == pytest.approx(
      sum(float(e["duration_sec"]) for e in group)
    )


def test_a_finished_dataset_is_not_overwritten(tiny):
  before = pathlib.Path(tiny["directory"], "dataset_info.json").stat()
  with pytest.raises(FileExistsError, match="overwrite"):
    build.build("motion_sprites/tiny", data_dir=tiny["data_dir"])
  after = pathlib.Path(tiny["directory"], "dataset_info.json").stat()
  assert after.st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize(
  "name",
  [
    "motion_sprites",
    "motion_sprites/tiny",
    "motion_sprites/tiny/1.0.0",
    ".building-motion_sprites-tiny",
    ".building-motion_sprites-tiny/shards",
    ".building-motion_sprites-tiny/tfds",
  ],
)
def test_nothing_is_written_through_a_link(tmp_path, name):
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  link = tmp_path / "data" / name
  link.parent.mkdir(parents=True)
  link.symlink_to(elsewhere)
  with pytest.raises(ValueError, match="symbolic link"):
    build.build("motion_sprites/tiny", data_dir=tmp_path / "data", subset=1)
  assert list(elsewhere.iterdir()) == []


def test_subset_and_overwrite(tmp_path, tiny):
  """One video per split, then all of them: the bytes of another process."""
  rendered = tmp_path / "by_hand"
  for subset, counts in ((1, [1, 1, 1]), (None, [8, 3, 4])):
    result = build.build(
      "motion_sprites/tiny",
      data_dir=tmp_path,
      manual_dir=rendered,
      subset=subset,
      overwrite=True,
    )
    assert [m["present"] for m in result["manifests"].values()] == counts
  assert len(list(rendered.rglob("*.mp4"))) == 15
  first, again = pathlib.Path(tiny["directory"]), result["directory"]
  for path in first.glob("*.tfrecord-*"):
    assert path.read_bytes() == pathlib.Path(again, path.name).read_bytes()


def test_a_file_that_differs_from_the_published_one_is_named(
  tmp_path, tiny, monkeypatch
):
  video = sorted(pathlib.Path(tiny["data_dir"]).rglob("*.mp4"))[0]
  shutil.copy(video, tmp_path / "s1.mp4")
  entry = {
    "timestamps": [[0, 20]],
    "sentences": ["she cuts"],
    "fps": 10.0,
    "num_frames": 80,
  }
  for name, key in (("train", "s1"), ("val", "s2"), ("test", "s3")):
    (tmp_path / f"{name}.json").write_text(json.dumps({f"{key}.avi": entry}))
  train, val = (
    hashlib.sha256((tmp_path / f"{name}.json").read_bytes()).hexdigest()
    for name in ("train", "val")
  )
  # val.json is another published file under a wrong name, test.json is none.
  published = {train: "train.json", val: "test.json", "0" * 64: "val.json"}
  monkeypatch.setattr(build, "published_files", lambda base: published)
  result = build.build("tacos", data_dir=tmp_path / "data", manual_dir=tmp_path)
  assert result["altered"] == ["test.json", "val.json"]
  assert result["manifests"]["train"]["captions"] == 1


@pytest.mark.parametrize(
  "name,options,message",
  [
    ("motion_sprites/huge", {}, "motion_sprites/demo"),
    ("kinetics", {}, "choose one of"),
    ("folder/../x", {"videos": "a", "annotations": "b"}, "unknown dataset"),
    ("folder", {"videos": "a"}, "needs both"),
    ("motion_sprites/tiny", {"videos": "a"}, "makes its own"),
    ("motion_sprites/tiny", {"subset": 0}, "at least 1"),
  ],
)
def test_bad_requests_say_what_to_do(tmp_path, name, options, message):
  with pytest.raises(ValueError, match=message):
    build.build(name, data_dir=tmp_path, **options)
  assert not list(tmp_path.iterdir())
