"""A clip of one second reads at most a tenth of a record of two minutes."""

import pytest

from clap_jax.data import records
from clap_jax.data.clip_source import FrameLoader, FrameOptions
from clap_jax.data.clips import ClipItem
from clap_jax.storage import locations, output
from tests.benchmarks import clip_bytes


@pytest.fixture(scope="module")
def data_dir(shared_data, tmp_path_factory):
  folder = tmp_path_factory.mktemp("two_minutes")
  source = shared_data / "videos" / clip_bytes.VIDEO.name
  clip_bytes.write_dataset(folder, clip_bytes.two_minutes(source))
  return folder


def test_clips_of_a_disk(data_dir):
  found = clip_bytes.measure_clips(data_dir, num_clips=10)
  assert found["most"] <= 0.1
  assert found["requests"] <= 2


def test_clips_of_a_bucket(data_dir, bucket):
  root = locations.at(bucket.url, "data")
  for path in data_dir.rglob("*"):
    if path.is_file():
      output.copy(path, root / path.relative_to(data_dir).as_posix())
  source = records.open_dataset(root, "toy/small").split("train")
  options = FrameOptions(num_frames=clip_bytes.NUM_FRAMES, size=32)
  loader = FrameLoader(source, options)
  for start_sec in (0.0, 60.5, 118.9):
    item = ClipItem(
      record_index=0,
      start_sec=start_sec,
      end_sec=start_sec + clip_bytes.CLIP_SEC,
      is_action=False,
    )
    with bucket.counted() as requests:
      loader.frames(item)
    assert len(requests) <= 2
    transferred = sum(request.num_bytes for request in requests)
    assert transferred <= 0.1 * source.shards[0].num_bytes
