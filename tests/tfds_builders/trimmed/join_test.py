"""Recordings joined of clips: what is where, to the frame."""

import collections
import dataclasses
import json
import os
import re
import sys

import numpy as np
import pytest

from clap_jax import main
from clap_jax.data import records
from clap_jax.media import confinement, decode
from clap_jax.media.limits import VideoLimits
from tests.tfds_builders.trimmed import stand_ins
from tfds_builders import build, packing, transcoding
from tfds_builders.trimmed import joining
from tfds_builders.trimmed.settings import TrimmedSettings

LIMITS = transcoding.StoreLimits(source=VideoLimits(max_decode_sec=60.0))
LABELS = ("run", "jump", "wave", "rest")
JOIN = TrimmedSettings(
  join=True,
  constant=("person", "view"),
  background=("rest",),
  split_by="person",
  splits="train=P1;validation=P2",
)


def level(person, view, label):
  """A grey level of its own for each clip."""
  place = 8 * (person == "P2") + 4 * (view == "right") + LABELS.index(label)
  return 15 + 14 * place


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  """Two people, two views, four actions; one clip is broken."""
  root = tmp_path_factory.mktemp("clips")
  rows = []
  for person in ("P1", "P2"):
    for view in ("left", "right"):
      for number, label in enumerate(LABELS):
        name = f"{label}/{person}_{view}.avi"
        frames = 7 + number + 4 * (view == "left")
        path = stand_ins.make_clip(
          root / "videos" / name,
          level=level(person, view, label),
          frames=frames,
        )
        row = {"video": name, "label": label, "person": person, "view": view}
        row["captions"] = [f"{person} does {label}", f"{label}, {view}"]
        rows.append(row | {"frames": frames})
        if (person, view, label) == ("P2", "left", "jump"):
          stand_ins.break_clip(path)
  (root / "clips.json").write_text(json.dumps(rows))
  return root


def make(clips, data_dir, **changes):
  return build.build(
    "trimmed/set",
    data_dir=data_dir,
    videos=clips / "videos",
    annotations=clips / "clips.json",
    trimmed=dataclasses.replace(JOIN, **changes),
  )


@pytest.fixture(scope="module")
def joined(clips, tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("joined")
  return data_dir, make(clips, data_dir)


def examples(data_dir, split):
  dataset = records.open_dataset(data_dir, "trimmed/set")
  source = dataset.split(split)
  return dataset, [source[i] for i in range(len(source))]


def rows_of(clips, video_id):
  """Label -> row of the clips that a recording is made of."""
  _, person, view, _ = video_id.split("_")
  return {
    row["label"]: row
    for row in json.loads((clips / "clips.json").read_text())
    if (row["person"], row["view"]) == (person, view)
  }


def test_segments_are_the_frames_of_their_clips(clips, joined):
  data_dir, _ = joined
  for split in ("train", "validation"):
    dataset, found = examples(data_dir, split)
    assert len(found) == 2
    for example in found:
      rows = rows_of(clips, example.id)
      video = decode.decode_video(example.video, size=16)
      shown = video.frames.mean((1, 2, 3))
      labels = [dataset.label_names[i] for i in example.labels]
      for (start, end), label in zip(example.segments, labels, strict=True):
        frames = rows[label]["frames"]
        assert (end - start) * example.fps == pytest.approx(frames, abs=1e-3)
        first, last = round(start * example.fps), round(end * example.fps)
        assert first == pytest.approx(start * example.fps, abs=1e-3)
        own = level(rows[label]["person"], rows[label]["view"], label)
        np.testing.assert_allclose(shown[first:last], own, atol=4)
        for outside in (first - 1, last):  # the very next frame is another
          if 0 <= outside < len(shown):
            assert abs(shown[outside] - own) > 8
      kept = set(labels) | {"rest"}
      total = sum(rows[label]["frames"] for label in kept)
      assert len(shown) == example.num_frames == total
      assert example.duration_sec == pytest.approx(total / 10)


def test_unlabelled_clips_are_background_with_captions(clips, joined):
  data_dir, _ = joined
  dataset, found = examples(data_dir, "train")
  assert dataset.label_names == ("jump", "run", "wave")
  for example in found:
    rows = rows_of(clips, example.id)
    (span,) = example.background.tolist()
    assert span[1] - span[0] == pytest.approx(rows["rest"]["frames"] / 10)
    of_rest = [c for c in example.captions if "rest" in c[2]]
    assert sorted(c[2] for c in of_rest) == sorted(rows["rest"]["captions"])
    assert all(c[:2] == pytest.approx(tuple(span)) for c in of_rest)
    assert len(example.captions) == 8


def test_a_recording_stays_without_its_broken_clip(joined):
  _, result = joined
  manifest = result["manifests"]["validation"]
  (note,) = manifest["corrupt"]
  assert note["id"] == "jump_P2_left"
  assert "validation_P2_left_000" in note["reason"]
  assert manifest["present"] == 2 and manifest["segments"] == 5
  assert manifest["annotated"]["segments"] == 6
  assert any("jump_P2_left" in loss for loss in result["losses"])


def test_it_is_a_dataset_like_others(clips, joined, tmp_path):
  data_dir, _ = joined
  where = ["trimmed/set", "--data_dir", str(data_dir)]
  assert main.main(["data", "verify", *where, "--decode"]) == 0
  folder = data_dir / "joined" / "trimmed" / "set"
  words = ["--videos", str(folder), "--data_dir", str(tmp_path)]
  words += ["--annotations", str(folder / "annotations.json")]
  assert main.main(["build", "folder/again", *words]) == 0
  again = records.open_dataset(tmp_path, "folder/again")
  _, found = examples(data_dir, "train")
  source = again.split("train")
  spans = {e.id: e.segments.tolist() for e in found}
  for i in range(len(source)):
    info = source[i].info()
    (name,) = [name for name in spans if info.id.endswith(name)]
    np.testing.assert_allclose(info.segments, spans[name], atol=1e-5)


def _bytes(data_dir):
  folder = data_dir / "joined" / "trimmed" / "set"
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob("*")
    if path.suffix == ".mp4" or path.name == "annotations.json"
  }


def test_the_seed_decides_on_the_order_and_nothing_else_does(
  clips, joined, tmp_path
):
  data_dir, _ = joined
  make(clips, tmp_path / "same")
  first = _bytes(data_dir)
  assert first == _bytes(tmp_path / "same")
  make(clips, tmp_path / "other", seed=1)
  other = _bytes(tmp_path / "other")
  assert set(other) == set(first) and other != first


def test_a_second_run_keeps_what_is_complete(clips, tmp_path, monkeypatch):
  make(clips, tmp_path)
  folder = tmp_path / "joined" / "trimmed" / "set"
  paths = sorted(folder.rglob("*.mp4"))
  paths[0].write_bytes(b"half")
  times = {path: path.stat().st_mtime_ns for path in paths}
  tried, original = [], joining.join_apart

  def count(paths, target, **options):
    tried.append(target)
    return original(paths, target, **options)

  monkeypatch.setattr(joining, "join_apart", count)
  request = {
    "data_dir": tmp_path,
    "videos": clips / "videos",
    "annotations": clips / "clips.json",
    "overwrite": True,
  }
  build.build("trimmed/set", trimmed=JOIN, **request)
  assert tried == paths[:1]
  assert paths[1].stat().st_mtime_ns == times[paths[1]]
  less = dataclasses.replace(JOIN, constant=("person",))
  build.build("trimmed/set", trimmed=less, **request)
  assert len(list(folder.rglob("*.mp4"))) == 2, "others are removed"


def test_a_folder_of_somebody_else_is_left_alone(clips, tmp_path):
  mine = tmp_path / "joined" / "trimmed" / "set" / "train" / "mine.json"
  mine.parent.mkdir(parents=True)
  mine.write_text("{}")
  with pytest.raises(ValueError, match="not empty"):
    make(clips, tmp_path)
  assert mine.read_text() == "{}"


def test_links_in_the_folder_are_not_followed(clips, tmp_path):
  folder = tmp_path / "data" / "joined" / "trimmed" / "set"
  mine = tmp_path / "mine" / "mine.json"
  mine.parent.mkdir()
  mine.write_text("{}")
  folder.mkdir(parents=True)
  (folder / "joined_with.json").write_text('{"dataset": "trimmed"}')
  for name in ("train", "another"):
    link = folder / name
    link.symlink_to(mine.parent)
    with pytest.raises(ValueError, match="link"):
      make(clips, tmp_path / "data")
    assert mine.read_text() == "{}"
    link.unlink()


def test_recordings_have_about_equal_numbers_of_clips(clips, tmp_path):
  result = make(
    clips, tmp_path, constant=("person",), clips_per_recording=3, background=()
  )
  assert result["manifests"]["train"]["present"] == 3
  folder = tmp_path / "joined" / "trimmed" / "set"
  database = json.loads((folder / "annotations.json").read_text())["database"]
  counts = collections.Counter(
    len(entry["clips"]) for entry in database.values()
  )
  assert counts == {3: 3, 2: 3}  # one of P2's is broken


def test_clips_of_other_rates_and_shapes(tmp_path):
  """The highest rate within the cap; the shape of most; bars around others."""
  paths = [
    stand_ins.make_clip(tmp_path / "a.mp4", level=60, frames=10, fps=10),
    stand_ins.make_clip(tmp_path / "b.mp4", level=200, frames=25, fps=25),
    stand_ins.make_clip(tmp_path / "c.mp4", level=120, size=(48, 96)),
  ]
  target = tmp_path / "joined.mp4"
  done = joining.join_apart(paths, target, limits=LIMITS)
  assert done.facts["fps"] == 15.0
  assert (done.facts["height"], done.facts["width"]) == (48, 64)
  assert done.frames == {0: 15, 1: 15, 2: 18} and not done.broken
  video = decode.decode_video(target.read_bytes(), size=64)
  assert len(video.frames) == 48
  middle = video.frames[:, 32, 32].mean(-1)
  for first, last, own in ((0, 15, 60), (15, 30, 200), (30, 48, 120)):
    np.testing.assert_allclose(middle[first:last], own, atol=5)
  assert video.frames[40][:, 2].mean() < 20  # a bar
  times = np.diff(video.timestamps)
  np.testing.assert_allclose(times, 1 / 15, atol=1e-3)


@pytest.mark.parametrize(
  "damage,reason",
  [
    (stand_ins.break_clip, "no video stream"),
    (lambda path: path.write_bytes(b"<html>404</html>" * 99), "container"),
    (os.unlink, "cannot open"),
    (lambda path: stand_ins.make_clip(path, frames=1, fps=15), "too short"),
    (lambda path: stand_ins.make_clip(path, size=(8, 8)), "pixels"),
  ],
)
def test_what_is_wrong_with_one_clip(tmp_path, damage, reason):
  paths = [stand_ins.make_clip(tmp_path / f"{i}.mp4") for i in range(2)]
  damage(paths[0])
  done = joining.join_apart(paths, tmp_path / "out.mp4", limits=LIMITS)
  assert list(done.broken) == [0] and done.frames == {1: 12}
  assert re.search(reason, done.broken[0])


def test_nothing_is_written_of_broken_clips(tmp_path):
  paths = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
  for path in paths:
    path.write_bytes(b"no video at all")
  done = joining.join_apart(paths, tmp_path / "out.mp4", limits=LIMITS)
  assert done.facts is None and set(done.broken) == {0, 1}
  assert not (tmp_path / "out.mp4").exists()


_KILLED = """
import os, signal, sys
from tfds_builders.trimmed import joining
measure = joining._measure

def killed(file, limits):
  if os.fstat(file.fileno()).st_size == int(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
  return measure(file, limits)

joining._measure = killed
sys.exit(joining.main(sys.argv[2:]))
"""


def test_a_clip_that_takes_the_process_down_is_left_out(tmp_path, monkeypatch):
  paths = [stand_ins.make_clip(tmp_path / f"{i}.mp4") for i in range(2)]
  paths.insert(1, stand_ins.make_clip(tmp_path / "killer.mp4", frames=40))
  size = str(paths[1].stat().st_size)
  monkeypatch.setattr(
    confinement,
    "command",
    lambda module, *words: [sys.executable, "-c", _KILLED, size, *words],
  )
  done = joining.join_apart(paths, tmp_path / "out.mp4", limits=LIMITS)
  assert list(done.broken) == [1] and done.frames == {0: 12, 2: 12}
  assert "died" in done.broken[1]


def test_sneeze_cough(shared_data, tmp_path):
  """Real clips: segments are the sums of the clips' lengths, to the frame."""
  source = shared_data / "sneeze_cough"
  if not (source / "clips.json").is_file():
    pytest.skip(f"{source} is missing")
  rows = [
    row
    for row in json.loads((source / "clips.json").read_text())
    if row["person"] in ("S001", "S019")
    and (row["view"], row["locomotion"]) == ("facing left", "standing")
  ]
  (tmp_path / "clips.json").write_text(json.dumps(rows))
  result = build.build(
    "trimmed/set",
    data_dir=tmp_path,
    videos=source,
    annotations=tmp_path / "clips.json",
    trimmed=TrimmedSettings(
      join=True,
      constant=("person", "view", "locomotion"),
      background=("scratch head", "answer phone call"),
      split_by="person",
      splits="train=S001;validation=S019",
    ),
  )
  assert not result["losses"]
  folder = tmp_path / "joined" / "trimmed" / "set"
  database = json.loads((folder / "annotations.json").read_text())["database"]
  frames = {packing.id_from_name(r["video"]): r["frames"] for r in rows}
  for split, person in (("train", "S001"), ("validation", "S019")):
    dataset, (example,) = examples(tmp_path, split)
    clips = database[example.id]["clips"]
    assert len(clips) == 8 and all(person in clip["id"] for clip in clips)
    ends = np.cumsum([frames[clip["id"]] for clip in clips]) / 10
    np.testing.assert_allclose([c["segment"][1] for c in clips], ends)
    assert example.duration_sec == pytest.approx(ends[-1])
    assert len(example.labels) == 6 and len(example.captions) == 8
    assert set(dataset.label_names).isdisjoint({"scratch head"})
    # Each clip's first frame is that of its file: the cut is at this frame.
    video = decode.decode_video(example.video, size=64)
    for clip in clips[:4]:
      (row,) = [
        r for r in rows if packing.id_from_name(r["video"]) == clip["id"]
      ]
      own = decode.decode_video(source / row["video"], size=64)
      first, last = (round(t * 10) for t in clip["segment"])
      shown = video.frames[first:last].astype(int)
      errors = np.abs(shown - own.frames).mean((1, 2, 3))
      assert errors.max() < 6
