"""`clap data`: damage is found and named; the page shows what is there."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from clap_jax import main
from clap_jax.commands import building
from clap_jax.data import records, statistics, verification
from clap_jax.storage import framing, tfrecord
from tests.tfds_builders import transcoding_test
from tfds_builders import build, finishing

ROWS = (
  "v0.mp4,0.5,1.5,run,somebody runs,train",
  "v0.mp4,1.0,2.5,<b>jump</b>,,train",
  "v1.mp4,0.0,1.0,run,,train",
  "v2.mp4,0.5,1.0,run,the last one,validation",
  "gone.mp4,0.5,1.0,run,,validation",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  for number in range(3):
    transcoding_test.make_video(root / f"v{number}.mp4", seconds=3, fps=10)
  text = "\n".join(["video,start,end,label,caption,subset", *ROWS])
  (root / "a.csv").write_text(text + "\n")
  build.build("folder", data_dir=root, videos=root, annotations=root / "a.csv")
  return root


@pytest.fixture
def copy(data_dir, tmp_path):
  shutil.copytree(data_dir / "folder", tmp_path / "folder")
  return tmp_path


def _folder(root) -> pathlib.Path:
  return root / "folder/default/1.0.0"


def _problems(root):
  dataset = records.open_dataset(root, "folder/default")
  return verification.verify(dataset).problems


def test_a_sound_dataset_passes(data_dir):
  dataset = records.open_dataset(data_dir, "folder/default")
  steps = []
  found = verification.verify(
    dataset, decode=True, on_progress=lambda *step: steps.append(step)
  )
  assert found.problems == () and found.num_records == 3
  assert steps[-1] == (3, 3) and found.num_files > 8
  shards = {path.name for path in _folder(data_dir).glob("*-of-?????")}
  assert shards and dataset.index.keys() == shards


def test_every_flipped_byte_is_found(copy):
  files = sorted(p for p in _folder(copy).rglob("*") if p.is_file())
  rng = np.random.default_rng(0)
  for path in files:
    if path.name in (verification.CHECKSUMS, "dataset_info.json"):
      continue
    original = path.read_bytes()
    damaged = bytearray(original)
    damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
    path.write_bytes(damaged)
    name = path.relative_to(_folder(copy)).as_posix()
    try:
      problems = _problems(copy)
    except (ValueError, KeyError):  # so damaged that it does not open
      problems = [name] if path.name == "features.json" else []
    assert any(name in problem for problem in problems), name
    path.write_bytes(original)
  assert _problems(copy) == ()


def test_missing_extra_and_linked_files_are_found(copy, tmp_path):
  folder = _folder(copy)
  (folder / "extra.bin").write_bytes(b"x")
  assert _problems(copy) == ("extra.bin: a file that the build did not write",)
  (folder / "extra.bin").unlink()
  index = next(folder.glob("*.idx"))
  index.rename(tmp_path / "away")
  assert any(index.name in p and "missing" in p for p in _problems(copy))
  index.symlink_to(tmp_path / "away")
  assert any("symbolic link" in p for p in _problems(copy))


def test_a_consistent_lie_is_found(copy):
  """Right checksums over a manifest and metadata that tell something else."""
  folder = _folder(copy)
  path = folder / "train" / "manifest.json"
  manifest = json.loads(path.read_text())
  manifest["segments"] += 1
  manifest["videos"].pop("v1")
  manifest["shards"][0]["sha256"] = "0" * 64
  path.write_text(json.dumps(manifest))
  light = folder / "train" / "metadata.tfrecord"
  reader = tfrecord.ShardReader(light)
  swapped = [reader.read(number) for number in (1, 0)]
  light.with_name(light.name + ".idx").unlink()
  light.write_bytes(b"".join(map(framing.frame_record, swapped)))
  finishing.write_checksums(folder)
  text = "\n".join(_problems(copy))
  assert "counts 4 segments, the records have 3" in text
  assert "v1 is not in the manifest" in text
  assert f"in the manifest is not that in {verification.CHECKSUMS}" in text
  assert "id differs between the shard and the metadata" in text


def test_metadata_needs_no_video(copy):
  """What the builder wrote beside the shards equals what is in them."""
  source = records.open_dataset(copy, "folder/default").split("train")
  table = source.metadata()
  for info in table.examples:
    example = source[info.index]
    assert info.id == example.id and info.captions == example.captions
    np.testing.assert_array_equal(info.segments, example.segments)
    np.testing.assert_array_equal(info.background, example.background)
  light = _folder(copy) / "train" / "metadata.tfrecord"
  light.with_name(light.name + ".idx").unlink()
  light.write_bytes(b"")
  source = records.open_dataset(copy, "folder/default").split("train")
  with pytest.raises(records.DatasetError, match="has 0 records"):
    source.metadata()


def test_a_subset_says_so(data_dir):
  dataset = records.open_dataset(data_dir, "folder/default")
  assert dataset.subset_note("train") is None
  assert dataset.absent("validation") == ("gone",)
  note = dataset.subset_note("validation")
  assert "1 videos of validation" in note and "1 annotated ones" in note


def test_what_a_build_left_out_is_said(data_dir, tmp_path):
  rows = (*ROWS, "v0.mp4,40,50,run,after the end,train")
  text = "\n".join(["video,start,end,label,caption,subset", *rows])
  (tmp_path / "a.csv").write_text(text + "\n")
  build.build(
    "folder",
    data_dir=tmp_path,
    videos=data_dir,
    annotations=tmp_path / "a.csv",
    subset=1,
  )
  dataset = records.open_dataset(tmp_path, "folder/default")
  note = dataset.subset_note("train")
  assert "1 videos of train are in the dataset and 1 annotated ones" in note
  assert "at most 1 per split" in note
  assert "2 annotations of train could not be used" in note


def test_statistics(data_dir):
  dataset = records.open_dataset(data_dir, "folder/default")
  numbers = statistics.split_statistics(dataset, "train")
  assert (numbers["videos"], numbers["segments"], numbers["classes"]) == (
    2,
    3,
    2,
  )
  assert numbers["segments_per_class"] == {"run": 2, "<b>jump</b>": 1}
  assert numbers["action_share"] == pytest.approx((2.0 + 1.0) / 6.0, abs=0.01)
  assert numbers["segment_sec"][0] == 1.0
  assert numbers["captions"] == 1
  validation = statistics.split_statistics(dataset, "validation")
  assert validation["missing"] == 1
  assert validation["classes_without_segment"] == ["<b>jump</b>"]
  json.dumps([numbers, validation], allow_nan=False)


def test_the_page_escapes_and_repeats(data_dir, tmp_path):
  dataset = records.open_dataset(data_dir, "folder/default")
  pages = []
  for name in ("a.html", "b.html"):
    building.inspect_dataset(dataset, out=tmp_path / name, num_videos=2)
    pages.append((tmp_path / name).read_text())
  assert pages[0] == pages[1]
  assert "<b>jump" not in pages[0] and "&lt;b&gt;jump" in pages[0]
  assert pages[0].count("data:image/jpeg") == 3 * 10
  assert "somebody runs" in pages[0] and "1 of 2 classes" not in pages[0]
  assert "http" not in pages[0].replace('http-equiv="Content', "")


def test_the_command_names_the_damage(copy, tmp_path, capsys):
  arguments = ["data", "verify", "folder/default", f"--data_dir={copy}"]
  assert main.main(arguments) == 0
  shard = next(_folder(copy).glob("*train.tfrecord-00000-of-0000?"))
  data = bytearray(shard.read_bytes())
  data[100] ^= 1
  shard.write_bytes(data)
  out = tmp_path / "out.json"
  assert main.main([*arguments, f"--json={out}"]) == 2
  assert f"{shard} at byte 0" in capsys.readouterr().err
  assert json.loads(out.read_text())["ok"] is False
  page = tmp_path / "page.html"
  arguments[1] = "inspect"
  assert main.main([*arguments, f"--out={page}"]) == 0
  assert page.stat().st_size > 5_000
