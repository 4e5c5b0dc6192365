"""Ids, spans, and the index of damaged shards."""

import numpy as np
import pytest

from clap_jax.storage import framing, tfrecord
from tfds_builders import packing

HOSTILE = [
  "",
  "../x.mp4",
  "a/../../x.mp4",
  "/etc/passwd",
  "a\0b.mp4",
  "a\nb.mp4",
  "~root/x.mp4",
  "a\\b.mp4",
  "a//b.mp4",
  "./a.mp4",
  "x" * 4096,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name):
  with pytest.raises(ValueError, match=r"unsafe video (name|id)"):
    packing.id_from_name(name)


@pytest.mark.parametrize(
  "name,expected",
  [
    ("asl_gestures/again.mkv", "asl_gestures_again"),
    ("v_ZNVhz7ctTq0.mp4", "v_ZNVhz7ctTq0"),
    ("--6bJUbfpnQ", "--6bJUbfpnQ"),
    ("my film (1).v2.mp4", "my_film_1_v2"),
    ("žába.mp4", "ba_e08a5a41"),
    ("z\u030ca\u0301ba.mp4", "ba_e08a5a41"),
    ("ジャンプ.mp4", "8b5251ac"),
    ("走る.mp4", "d3e9afc7"),
    ("http://host/x.mp4", None),
    ("concat:a|b", "concat_a_b"),
  ],
)
def test_names_become_safe_ids(name, expected):
  if expected is None:
    with pytest.raises(ValueError, match="unsafe"):
      packing.id_from_name(name)
  else:
    assert packing.id_from_name(name) == expected


@pytest.mark.parametrize("video_id", ["a.b", "a b", "a\n", None, "ä", ""])
def test_unsafe_ids_are_refused(video_id):
  with pytest.raises(ValueError, match="unsafe video id"):
    packing.check_id(video_id)


def test_background_is_the_complement():
  spans = packing.background_spans(
    [(4.0, 6.0), (1.0, 2.0), (5.0, 7.0), (7.4, 8.0)], 10.0, longer_than=0.5
  )
  assert spans == [(0, 1.0), (2.0, 4.0), (8.0, 10.0)]
  assert packing.background_spans([], 3.0, longer_than=0.5) == [(0, 3.0)]
  assert packing.background_spans([(0, 3.0)], 3.0, longer_than=0.5) == []


@pytest.mark.parametrize(
  "damage", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b"\xff" * 20]
)
def test_a_damaged_shard_gets_no_index(tmp_path, damage):
  record = framing.frame_record(b"12345")
  shard = tmp_path / "x.tfrecord-00000-of-00001"
  shard.write_bytes(record * 3)
  packing.write_index(shard, tfrecord.ShardReader(shard).offsets)
  index = shard.with_name(f"{shard.name}.idx")
  assert np.fromfile(index, "<u8").tolist() == [0, 21, 42]
  index.unlink()
  shard.write_bytes(damage(record * 3))
  with pytest.raises(tfrecord.CorruptRecordError, match=shard.name):
    tfrecord.ShardReader(shard)
