"""Memory of an image encoder on a long video against a short one."""

import gc
import pathlib
import tracemalloc

import numpy as np
import pytest

from clap_jax import api
from clap_jax.media import guard
from tfds_builders import encoding

FPS, SIDE_PX = 5, 64
SHORT_SEC, LONG_SEC = 30, 300
# Its frame has 3,072 bytes, its feature 64. Kept frames would be seen.
MAX_BYTES_PER_SNIPPET = 900
MAX_DECODER_GROWTH_KIB = 3_000  # its 1,350 more frames have 6 KiB each


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  """A short and a long video of a picture that moves."""
  folder = tmp_path_factory.mktemp("videos")
  small = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  picture = np.kron(small, np.ones((4, 4, 1), np.uint8))
  for length_sec in (SHORT_SEC, LONG_SEC):
    encoding.write_mp4(
      (np.roll(picture, 3 * i, axis=1) for i in range(length_sec * FPS)),
      folder / f"{length_sec}.mp4",
      fps=FPS,
      preset="ultrafast",
    )
  return folder


def peak_bytes(work, length_sec: int) -> int:
  gc.collect()
  tracemalloc.start()
  try:
    work(length_sec)
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()


def decoder_peak_kib() -> int:
  """Of the one decoder that waits for another video."""
  (child,) = guard._POOL._idle
  status = pathlib.Path(f"/proc/{child.pid}/status").read_text()
  (line,) = [row for row in status.splitlines() if row.startswith("VmHWM")]
  return int(line.split()[1])


def test_memory_does_not_grow_with_the_video(videos, image_encoder):
  """`clap index` encodes by the same function as this."""
  model = api.load_model(image_encoder.directory)

  def work(length_sec: int) -> None:
    guard.close()
    video = videos / f"{length_sec}.mp4"
    model.predict(video, queries="someone jumps", labels=["jump", "walk"])

  work(SHORT_SEC)  # compiles
  short = peak_bytes(work, SHORT_SEC), decoder_peak_kib()
  long = peak_bytes(work, LONG_SEC), decoder_peak_kib()
  growth = (long[0] - short[0]) / (LONG_SEC - SHORT_SEC)
  assert growth < MAX_BYTES_PER_SNIPPET
  assert long[1] - short[1] < MAX_DECODER_GROWTH_KIB
