"""One view of time and format in every command that reads videos.

Every file goes through the build, `clap predict`, `index`, `extract`, a support
folder and an upload; all give the same duration and number of clips, or refuse
it for the same reason.
"""

import re
import shutil

import pytest

from clap_jax.commands import searching
from clap_jax.data import features, records
from clap_jax.inference import extract, index, inputs, predict, support
from clap_jax.media import decode, errors, formats, guard, video_reader
from clap_jax.media.limits import DEFAULT_LIMITS
from clap_jax.serving import uploads
from tests.data import built_dataset
from tests.inference import toy_model
from tests.media import odd_videos
from tests.media.odd_videos import CASES
from tfds_builders import build, transcoding

STRIDE_SEC = toy_model.STRIDE_SEC
GOOD = [case for case in CASES if not case.refusal]
BAD = [case for case in CASES if case.refusal]
# A frame of the slowest video, and rounding to the grid of a store.
TOLERANCE_SEC = 0.15
CONTENT_TOLERANCE_SEC = 0.3
STORE = transcoding.StoreLimits(short_side_px=64, min_duration_sec=0.2)


def case_ids(cases):
  return [case.name for case in cases]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
  return toy_model.make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  """One folder per file, so that it can be the class of a support folder."""
  folder = tmp_path_factory.mktemp("videos")
  for case in CASES:
    (folder / case.name).mkdir()
    case.make(folder / case.name / case.name)
    # Left by other systems beside each file.
    (folder / case.name / f"._{case.name}").write_bytes(b"\0\5\x16\7")
  return folder


def _path(videos, case):
  return videos / case.name / case.name


def num_clips(case) -> int:
  return int((case.duration_sec - 2.0) / STRIDE_SEC + 0.01) + 1


@pytest.mark.parametrize("case", GOOD, ids=case_ids(GOOD))
def test_clips_show_what_a_player_shows(videos, case):
  shape = decode.ClipShape(
    clip_sec=2.0, stride_sec=STRIDE_SEC, num_frames=4, size=32
  )
  stream = guard.ClipStream(_path(videos, case), shape)
  clips = list(stream)
  assert stream.duration_sec == pytest.approx(
    case.duration_sec, abs=TOLERANCE_SEC
  )
  assert len(clips) == num_clips(case)
  for time_sec, content_sec in case.shown:
    number = min(int(time_sec / STRIDE_SEC), len(clips) - 1)
    frame = round((time_sec - clips[number].start_sec) / 0.5)
    found = odd_videos.content_sec(clips[number].frames[frame][8:])
    assert found == pytest.approx(content_sec, abs=CONTENT_TOLERANCE_SEC)


@pytest.mark.parametrize("case", CASES, ids=case_ids(CASES))
def test_stores_show_what_a_player_shows(videos, tmp_path, case):
  """What the build stores, and what an upload becomes."""
  path, stored = _path(videos, case), tmp_path / "stored.mp4"
  played = tmp_path / "played.mp4"

  def make_playable():
    searching._make_playable(
      path,
      played,
      upload_limits=uploads.UploadLimits(),
      video_limits=DEFAULT_LIMITS,
    )

  if case.refusal:
    with pytest.raises(errors.VideoError, match=case.refusal):
      transcoding.transcode_apart(path, stored, limits=STORE)
    with pytest.raises(errors.VideoError, match=case.refusal):
      make_playable()
    assert not list(tmp_path.iterdir())
    return
  facts = transcoding.transcode_apart(path, stored, limits=STORE)
  assert facts["duration_sec"] == pytest.approx(
    case.duration_sec, abs=TOLERANCE_SEC
  )
  video = decode.decode_video(stored, size=32)
  for time_sec, content_sec in case.shown:
    frame = video.frames[round(time_sec * facts["fps"])]
    found = odd_videos.content_sec(frame[8:])
    assert found == pytest.approx(content_sec, abs=CONTENT_TOLERANCE_SEC)
  # At the rate of the motion, not at the average of motion and stills.
  assert facts["fps"] == pytest.approx(10, abs=5.5)
  make_playable()
  assert video_reader.probe(played).duration_sec == pytest.approx(
    case.duration_sec, abs=TOLERANCE_SEC
  )


def test_build(videos, tmp_path):
  """Annotations in a player's time are taken, and nothing odd is silent."""
  names = ("late.mp4", "trimmed.mp4", "two_streams.mp4", "joined_later.ts")
  last_sec = {case.name: case.duration_sec for case in GOOD}
  rows = ["video,start,end,label"]
  for name in names:
    shutil.copy(videos / name / name, tmp_path / name)
    (tmp_path / f"._{name}").write_bytes(b"\0\5\x16\7")
    rows.append(f"{name},{last_sec[name] - 0.9},{last_sec[name]},x")
  (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
  started = []
  result = build.build(
    "folder",
    data_dir=tmp_path / "data",
    videos=tmp_path,
    annotations=tmp_path / "a.csv",
    on_start=started.append,
  )
  assert sorted(started) == sorted(str(tmp_path / name) for name in names)
  assert result["unlisted"] == []
  manifest = result["manifests"]["train"]
  assert manifest["segments"] == len(names)
  for key in ("rejected", "repaired", "corrupt", "damaged"):
    assert manifest[key] == [], key
  assert manifest["videos"]["two_streams"]["stream"] == 1
  assert manifest["videos"]["joined_later"]["joined"] == 1


def _check_durations(found: dict[str, float]) -> None:
  for case in GOOD:
    assert found.pop(case.name) == pytest.approx(
      case.duration_sec, abs=TOLERANCE_SEC
    ), case.name
  assert not found


def _check_reasons(found: dict[str, str]) -> None:
  for case in BAD:
    assert re.search(case.refusal, found.pop(case.name)), case.name
  assert not found


def test_predict(encoder, videos):
  document = predict.predict(
    toy_model.make_model(encoder), [_path(videos, case) for case in CASES]
  )
  _check_durations(
    {v["video"].split("/")[-1]: v["duration_sec"] for v in document["videos"]}
  )
  _check_reasons(
    {f["video"].split("/")[-1]: f["reason"] for f in document["failed"]}
  )


def test_index(encoder, videos, tmp_path):
  found = index.build(
    encoder,
    inputs.find_in(videos).files,
    out=tmp_path / "index",
    stride_sec=STRIDE_SEC,
  )
  _check_durations(
    {video.path.split("/")[-1]: video.duration_sec for video in found.videos}
  )
  counts = {video.path.split("/")[-1]: video.count for video in found.videos}
  assert counts == {case.name: num_clips(case) for case in GOOD}
  _check_reasons({f["video"].split("/")[-1]: f["reason"] for f in found.failed})


def test_extract(encoder, videos, tmp_path, monkeypatch):
  """Records that hold the files as they are."""
  make_example = built_dataset.make_example

  def with_file(number):
    content = _path(videos, CASES[number]).read_bytes()
    return make_example(number) | {"video": content}

  monkeypatch.setattr(built_dataset, "make_example", with_file)
  built_dataset.write_dataset(tmp_path, num_videos=len(CASES), num_shards=1)
  done = extract.extract(
    encoder,
    records.open_dataset(tmp_path, "toy/small"),
    out=tmp_path / "features",
    stride_sec=STRIDE_SEC,
  )
  names = {f"video_{k:03d}": case.name for k, case in enumerate(CASES)}
  counts = {
    names[key]: len(features.load_features(tmp_path / "features", key).features)
    for key in done.written
  }
  assert counts == {case.name: num_clips(case) for case in GOOD}
  _check_reasons({names[f["id"]]: f["reason"] for f in done.failed})


def test_support(encoder, videos, tmp_path):
  for case in GOOD:
    shutil.copytree(videos / case.name, tmp_path / "good" / case.name)
  examples = support.SupportSet(
    encoder, tmp_path / "good", stride_sec=STRIDE_SEC, matcher=None
  )
  counts = {
    name: sum(int(shot.mask.sum()) for shot in shots)
    for name, shots in examples.shots.items()
  }
  assert counts == {case.name: num_clips(case) for case in GOOD}
  for case in BAD:
    folder = tmp_path / f"bad_{case.name}"
    shutil.copytree(videos / case.name, folder / case.name)
    with pytest.raises(ValueError, match=case.refusal):
      support.SupportSet(encoder, folder, stride_sec=STRIDE_SEC, matcher=None)


def test_hidden_files_are_not_videos(videos):
  listed = formats.list_videos(videos)
  assert [path.name for path in listed] == sorted(case.name for case in CASES)


@pytest.mark.parametrize(
  ("case", "duration_sec"),
  [
    ("01/unseen_browser.webm", 28.125),
    ("02/real_trim.mp4", 5.0),
    ("02/trimmed.mp4", 10.08),
    ("02/trimmed_tail.mp4", 5.0),
    ("05/long_audio.mkv", 10.02),
    ("05/nasa.mkv", 13.13),
    ("06/late_video.mp4", 15.0),
    ("06/late_unseen.mp4", 25.125),
    ("07/vfr_hold_end.mp4", 12.0),
    ("07/vfr_screen.mp4", 44.0),
    ("08/joined.ts", 12.0),
    ("12/anim.gif", 5.0),
    ("12/camcorder.MTS", 10.0),
    ("12/old.flv", 12.0),
    ("12/old.mpg", 12.0),
    ("12/old.ogv", 12.0),
    ("14/badsector.mp4", 12.0),
    ("14/cut_nomoov.mp4", "cut short.*index"),
    ("14/half.mp4", "cut short"),
    ("16/two_streams.mp4", 12.0),
  ],
)
def test_reported_files(shared_data, tmp_path, case, duration_sec):
  path = shared_data.parent / "cases" / case
  if not path.is_file():
    pytest.skip(f"{path} is missing")
  shape = decode.ClipShape(clip_sec=2.0, stride_sec=1.0, num_frames=2, size=16)
  stream = guard.ClipStream(path, shape)
  if isinstance(duration_sec, str):
    with pytest.raises(errors.VideoError, match=duration_sec):
      list(stream)
    with pytest.raises(errors.VideoError, match=duration_sec):
      transcoding.transcode_apart(path, tmp_path / "b.mp4", limits=STORE)
    return
  list(stream)
  assert stream.duration_sec == pytest.approx(duration_sec, abs=0.01)
  facts = transcoding.transcode_apart(path, tmp_path / "b.mp4", limits=STORE)
  assert facts["duration_sec"] == pytest.approx(duration_sec, abs=0.1)
  assert facts["fps"] >= 8
