"""Clips by the blocks of an index: equal frames, few bytes, damage found."""

import contextlib
import json

import numpy as np
import pytest

from clap_jax import main
from clap_jax.data import records, verification, video_blocks
from clap_jax.data.clip_source import FrameLoader, FrameOptions
from clap_jax.data.clips import ClipItem
from clap_jax.media import blocks, decode
from clap_jax.media.errors import VideoError
from clap_jax.storage import objects, record_index, tfrecord
from tests.data import built_dataset
from tfds_builders import indexing

CLIP = {"clip_sec": 1.0, "num_frames": 8}
STARTS_SEC = (-0.5, 0.0, 0.4, 1.9, 2.0, 2.06, 5.55, 7.9, 10.99, 11.5, 13.0)
FAST = {"movflags": "faststart", "sc_threshold": "0"}
# The forms of the store first; then those that others wrote.
FORMS = {
  "gop 16": FAST,
  "gop 8, at 15 fps": {**FAST, "g": "8", "fps": 15.0},
  "each frame a key frame": {**FAST, "codec": "mjpeg"},
  "header at the end": {},
  "B-frames": {**FAST, "g": "12", "bf": "2"},
  "B-frames, open groups": {
    **FAST,
    "g": "24",
    "bf": "3",
    "x264-params": "open-gop=1:b-pyramid=normal",
  },
  "one group": {**FAST, "g": "1000"},
  "fragmented": {"movflags": "frag_keyframe+empty_moov"},
  "matroska": {"container_format": "matroska"},
}
PLANNED = tuple(FORMS)[:4]
WHOLE = ("one group", "fragmented", "matroska")


def video_of(form):
  return built_dataset.encode_mp4(96, **FORMS[form])


def write_dataset(data_dir, videos, monkeypatch, **options):
  """A dataset in which some videos are others."""
  original = built_dataset.make_example

  def make_example(number):
    example = original(number)
    return example | {"video": videos.get(number, example["video"])}

  with monkeypatch.context() as patch:
    patch.setattr(built_dataset, "make_example", make_example)
    return built_dataset.write_dataset(data_dir, **options)


def upgrade(data_dir):
  arguments = ["data", "upgrade", "toy/small", f"--data_dir={data_dir}"]
  return main.main(arguments)


@pytest.fixture
def folder(tmp_path):
  """A dataset of four videos with an index."""
  directory = built_dataset.write_dataset(tmp_path / "data", num_videos=4)
  assert upgrade(tmp_path / "data") == 0
  return directory


def opened(folder):
  return records.open_dataset(folder.parents[2], "toy/small")


class Counted:
  """Notes the spans that a shard is asked for."""

  def __init__(self, monkeypatch):
    self.calls: list[list[tuple[int, int]]] = []
    original = tfrecord.ShardReader.read_ranges

    def read_ranges(shard, spans):
      self.calls.append(list(spans))
      return original(shard, spans)

    monkeypatch.setattr(tfrecord.ShardReader, "read_ranges", read_ranges)

  @property
  def num_bytes(self):
    return sum(count for call in self.calls for _, count in call)


def read_all_clips(tmp_path, video, monkeypatch):
  """Compares all clips with those of the whole video; the readings."""
  directory = write_dataset(
    tmp_path, {0: video}, monkeypatch, num_videos=1, num_shards=1
  )
  assert upgrade(tmp_path) == 0
  source = opened(directory).split("train")
  counted = Counted(monkeypatch)
  loader = FrameLoader(source, FrameOptions(num_frames=8, size=32))
  for start_sec in STARTS_SEC:
    item = ClipItem(
      record_index=0,
      start_sec=start_sec,
      end_sec=start_sec + CLIP["clip_sec"],
      is_action=False,
    )
    expected = decode.decode_clip(video, start_sec=start_sec, size=32, **CLIP)
    np.testing.assert_array_equal(loader.frames(item), expected)
  return counted


@pytest.mark.parametrize("form", FORMS)
def test_frames_are_those_of_the_whole_record(tmp_path, form, monkeypatch):
  # Otherwise most of these short videos is read at once.
  monkeypatch.setattr(video_blocks, "_READ_THROUGH_BYTES", 0)
  counted = read_all_clips(tmp_path, video_of(form), monkeypatch)
  assert bool(counted.calls) == (form not in WHOLE)


@pytest.mark.parametrize("form", PLANNED)
def test_all_that_a_clip_needs_is_read_at_once(tmp_path, form, monkeypatch):
  video = built_dataset.encode_mp4(96, **FORMS[form], size=256)
  counted = read_all_clips(tmp_path, video, monkeypatch)
  assert len(counted.calls) == len(STARTS_SEC)
  assert counted.num_bytes < 0.4 * len(video) * len(STARTS_SEC)


def test_a_plan_without_a_block_costs_a_reading(folder, monkeypatch):
  source = opened(folder).split("train")
  whole = source[1].video
  known = opened(folder).index["toy-train.tfrecord-00000-of-00002"]
  counted = Counted(monkeypatch)
  shard, number = source.locate(1)
  video = video_blocks.VideoBlocks(shard, known, number)
  frames = decode.decode_clip(video, start_sec=10.5, size=32, **CLIP)
  expected = decode.decode_clip(whole, start_sec=10.5, size=32, **CLIP)
  np.testing.assert_array_equal(frames, expected)
  assert 1 < len(counted.calls) <= len(known.blocks_of(number))
  video.seek(0)
  assert video.read() == whole and video.tell() == len(whole)
  assert video.read(5) == b""


def test_damage_is_found_where_it_is_read(folder):
  source = opened(folder).split("train")
  shard, _ = source.locate(0)
  known = opened(folder).index[shard.path.name]
  place = int(known.records["video"][0]) + int(
    known.blocks_of(0)["num_bytes"][:-2].sum()
  )
  content = bytearray(shard.path.read_bytes())
  content[place] ^= 1  # of the last group
  shard.path.write_bytes(content)
  source = opened(folder).split("train")
  with pytest.raises(tfrecord.CorruptRecordError):
    _ = source[0]
  with source.open_video(0, start_sec=0.0, last_sec=1.0) as video:
    decode.decode_clip(video, start_sec=0.0, size=32, **CLIP)
  # Planned, and where it is not, inside the decoder.
  for last_sec in (12.0, 0.0):
    with (
      pytest.raises(tfrecord.CorruptRecordError, match="block"),
      source.open_video(0, start_sec=0.0, last_sec=last_sec) as video,
    ):
      decode.decode_clip(video, start_sec=11.0, size=32, **CLIP)
  problems = verification.verify(opened(folder)).problems
  assert any("toy-train.tfrecord-00000" in text for text in problems)


def test_metadata_of_other_videos_are_found(folder):
  paths = sorted(folder.glob("*.tfrecord-*-of-00002"))
  readers = [tfrecord.ShardReader(path) for path in paths]
  data = [reader.read(k) for reader in readers for k in range(len(reader))]
  light = folder / "train" / records.METADATA_FILE
  for order, is_right in (([0, 1, 2, 3], True), ([1, 0, 2, 3], False)):
    built_dataset.write_shard(light, [data[number] for number in order])
    source = opened(folder).split("train")
    source.metadata()
    with contextlib.ExitStack() as stack:
      if not is_right:
        stack.enter_context(
          pytest.raises(tfrecord.CorruptRecordError, match="video_001")
        )
      stack.enter_context(source.open_video(0, start_sec=0.0, last_sec=1.0))


def test_a_refused_request_is_no_bad_video(folder, monkeypatch):
  source = opened(folder).split("train")

  def refuse(self, spans):
    raise objects.ObjectStorageError("refused")

  with (
    pytest.raises(objects.ObjectStorageError),
    source.open_video(0, start_sec=0.0, last_sec=0.0) as video,
  ):
    monkeypatch.setattr(tfrecord.ShardReader, "read_ranges", refuse)
    decode.decode_clip(video, start_sec=11.0, size=32, **CLIP)


def test_an_upgrade_is_done_once_and_changes_nothing_else(folder, capsys):
  before = {
    path.name: (path.read_bytes(), path.stat().st_mtime_ns)
    for path in folder.rglob("*")
    if path.is_file()
  }
  assert upgrade(folder.parents[2]) == 0
  assert "nothing to do" in capsys.readouterr().err
  after = {
    path.name: (path.read_bytes(), path.stat().st_mtime_ns)
    for path in folder.rglob("*")
    if path.is_file()
  }
  assert after == before and record_index.FILE in after
  problems = verification.verify(opened(folder)).problems
  assert not any(record_index.FILE in text for text in problems)


def test_an_upgrade_goes_on_after_a_kill(folder, monkeypatch):
  index = folder / record_index.FILE
  whole = index.read_bytes()
  index.unlink()
  original = indexing.index_shard

  def killed(shard):
    if "00001" in shard.path.name:
      raise KeyboardInterrupt
    return original(shard)

  monkeypatch.setattr(indexing, "index_shard", killed)
  dataset = opened(folder)
  with pytest.raises(KeyboardInterrupt):
    indexing.index_dataset(folder, dataset.split("train").shards)
  assert not index.exists() and len(opened(folder).split("train")) == 4
  done = []

  def noted(shard):
    done.append(shard.path.name)
    return original(shard)

  monkeypatch.setattr(indexing, "index_shard", noted)
  assert upgrade(folder.parents[2]) == 0
  assert done == ["toy-train.tfrecord-00001-of-00002"]
  assert index.read_bytes() == whole
  assert not (folder / indexing._PARTS).exists()


def test_an_index_of_another_build_is_refused_and_made_anew(folder):
  index = folder / record_index.FILE
  for name in ("longer", "damaged"):
    content = bytearray(index.read_bytes())
    if name == "longer":
      shards = record_index.parse(bytes(content)).values()
      content = record_index.to_bytes(
        record_index.ShardIndex(s.name, s.num_bytes + 1, s.records, s.blocks)
        for s in shards
      )
    else:
      content[len(content) // 2] ^= 1
    index.write_bytes(content)
    with pytest.raises(records.DatasetError, match=r"clap data upgrade"):
      opened(folder).split("train")
    assert upgrade(folder.parents[2]) == 0
    assert len(opened(folder).split("train")) == 4


def test_damaged_records_and_odd_videos_are_read_whole(
  tmp_path, monkeypatch, capsys
):
  videos = {0: b"no video", 1: video_of("matroska")}
  directory = write_dataset(
    tmp_path, videos, monkeypatch, num_videos=4, num_shards=1
  )
  shard = directory / "toy-train.tfrecord-00000-of-00001"
  content = bytearray(shard.read_bytes())
  content[-9] ^= 1  # of the last record
  shard.write_bytes(content)
  out = tmp_path / "out.json"
  arguments = ["data", "upgrade", "toy/small", f"--data_dir={tmp_path}"]
  assert main.main([*arguments, f"--json={out}"]) == 0
  answer = json.loads(out.read_text())
  assert (answer["records"], answer["divided"]) == (4, 1)
  assert len(answer["damaged"]) == 2
  assert "record 3" in capsys.readouterr().err
  source = opened(directory).split("train")
  with source.open_video(1, start_sec=0.0, last_sec=1.0) as video:
    assert video == videos[1]
  damaged = source.open_video(3, start_sec=0.0, last_sec=1.0)
  with pytest.raises(tfrecord.CorruptRecordError), damaged:
    pass


def test_every_flipped_byte_of_an_index_is_found(folder):
  content = (folder / record_index.FILE).read_bytes()
  for place in range(0, len(content), 7):
    damaged = bytearray(content)
    damaged[place] ^= 1 << place % 8
    with pytest.raises(ValueError):
      record_index.parse(bytes(damaged))
  for length in (0, 3, len(content) - 1):
    with pytest.raises(ValueError):
      record_index.parse(content[:length])


@pytest.mark.parametrize(
  "change",
  [
    lambda t: t[0].__setitem__("offset", [0, 10**12]),
    lambda t: t[0].__setitem__("offset", [5, 700]),
    lambda t: t[0].__setitem__("video", [2**64 - 8, 2**64 - 8]),
    lambda t: t[0].__setitem__("video", [0, 0]),
    lambda t: t[0].__setitem__("num_blocks", [2**32 - 1, 1]),
    lambda t: t[1].__setitem__("num_bytes", 2**32 - 1),
    lambda t: t[1].__setitem__("num_bytes", 0),
  ],
)
def test_tables_that_lead_out_of_their_records_are_refused(change):
  tables = np.zeros(2, record_index.RECORD), np.zeros(2, record_index.BLOCK)
  tables[0]["offset"], tables[0]["video"] = (0, 500), (20, 520)
  tables[0]["num_blocks"], tables[1]["num_bytes"] = 1, 400
  record_index.ShardIndex("a", 1000, *tables)
  change(tables)
  with pytest.raises(ValueError, match=r"offset|record|block"):
    record_index.ShardIndex("a", 1000, *tables)


def test_blocks_are_all_of_a_video():
  video = video_of("gop 16")
  divided = blocks.divide(video)
  assert divided is not None and divided.ends[-1] == len(video)
  assert np.isnan(divided.start_sec[0])
  np.testing.assert_allclose(divided.start_sec[1:], [0, 2, 4, 6, 8, 10])
  assert divided.reach_sec == pytest.approx(1 / 8)
  with pytest.raises(VideoError):
    blocks.divide(b"nothing")
