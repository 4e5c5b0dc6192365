"""CLIP ViT-B/32 on video at one frame per second, against real time.

  python -m tests.benchmarks.image_clip [--quick] --json OUT

Random weights of ViT-B/32's sizes, imported as `clap get` imports them: time
does not depend on their values. A video of 640 x 360 pixels at 30 frames per
second is decoded and encoded twice: one whose every frame differs, and one that
stands still half of the time, where near duplicates are encoded once.

Two figures each: seconds of video per second that passed, and the same from the
processor time of this process and of the one that decodes, as if both cores
were free for it. Beside other work only the second means anything.
"""

import os
import pathlib
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import model_directory, streaming
from clap_jax.interchange import get_public
from clap_jax.public_weights import cache
from tests.benchmarks import running
from tests.public_weights import stand_ins
from tfds_builders import encoding

NAME = "open_clip-vit-b-32"
GOAL = 5.0  # times real time
FPS, SIZE = 30, (360, 640)
DURATION_SEC, QUICK_SEC = 120, 30
CORES = 2


def random_clip(folder: pathlib.Path) -> encoder_lib.Encoder:
  """ViT-B/32 of random weights, by the table's own import."""
  os.environ[cache.VARIABLE] = str(folder / "cache")
  stand_ins.write_open_clip(
    folder / "published", "B", side_px=224, patch_px=32, projection=512
  )
  get_public.get(NAME, place=str(folder / "published"))
  return encoder_lib.load_encoder(NAME)


def write_video(path: pathlib.Path, *, duration_sec: int, still_from_sec: int):
  """A picture that moves until it stands still."""
  rng = np.random.default_rng(0)
  small = rng.integers(0, 255, (SIZE[0] // 8, SIZE[1] // 8, 3), np.uint8)
  picture = np.kron(small, np.ones((8, 8, 1), np.uint8))
  frames = (
    np.roll(picture, (3 * min(i, still_from_sec * FPS)), axis=1)
    for i in range(duration_sec * FPS)
  )
  encoding.write_mp4(frames, path, fps=FPS, preset="ultrafast")


def processor_sec() -> float:
  """Of this process and of its children that have ended."""
  used = os.times()
  return used.user + used.system + used.children_user + used.children_system


def measure(*, quick: bool) -> list[dict]:
  duration_sec = QUICK_SEC if quick else DURATION_SEC
  rows = []
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    encoder = random_clip(folder)
    stride_sec = model_directory.encoder_stride_sec(encoder)
    for what, still_from_sec in (
      ("moving", duration_sec),
      ("still for one half", duration_sec // 2),
    ):
      video = folder / "video.mp4"
      write_video(
        video, duration_sec=duration_sec, still_from_sec=still_from_sec
      )
      if not rows:  # compiles
        streaming.encode_video(encoder, video, stride_sec=duration_sec / 4)
      used_sec, started_sec = processor_sec(), time.perf_counter()
      (features, *_), _ = streaming.encode_video(
        encoder, video, stride_sec=stride_sec
      )
      wall_sec = time.perf_counter() - started_sec
      used_sec = processor_sec() - used_sec
      note = f"{len(features)} frames"
      rows += [
        running.row(
          f"{what}: video per second of {CORES} cores' work",
          duration_sec / (used_sec / CORES),
          "x real time",
          at_least=GOAL,
          note=note,
        ),
        running.row(
          f"{what}: video per second that passed",
          duration_sec / wall_sec,
          "x real time",
        ),
      ]
  return rows


if __name__ == "__main__":
  running.main(measure, __doc__)
