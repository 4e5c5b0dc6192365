"""Price of decoding in a guarded process, of all that `clap predict` does.

  python -m tests.benchmarks.guarded_decoding [--quick] --json OUT

`predict` finds moments in the real videos beside the repository with a small
untrained model, in turns with its decoder in a guarded process, started anew
each time, and in this process. Both give equal answers. The ratio of the
processor time of all processes has a goal: unlike the time on the clock, it
does not depend on what else the machine does.
"""

import contextlib
import os
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from clap_jax.inference import predict
from clap_jax.media import decode, guard, video_reader
from tests.benchmarks import running
from tests.inference import toy_model

VIDEOS = pathlib.Path(__file__).parents[3] / "shared" / "data" / "videos"
PRICE_GOAL = 1.05
REPETITIONS, REPETITIONS_QUICK = 7, 2


class _ClipsHere:
  """What `guard.ClipStream` does, in this process."""

  def __init__(self, video, shape: decode.ClipShape, *, limits):
    self._video, self._shape, self._limits = video, shape, limits
    self.duration_sec: float | None = None
    self._clips = self._decoded()

  def _decoded(self) -> Iterator[decode.DecodedClip]:
    with video_reader.open_video(self._video, limits=self._limits) as opened:
      self.duration_sec = yield from decode.stream_clips(opened, self._shape)

  def __iter__(self) -> Iterator[decode.DecodedClip]:
    return self._clips

  def close(self) -> None:
    self._clips.close()


@contextlib.contextmanager
def _decoded_here() -> Iterator[None]:
  with (
    mock.patch.object(guard, "ClipStream", _ClipsHere),
    mock.patch.object(guard, "probe", video_reader.probe),
  ):
    yield


def _cpu_sec() -> float:
  """Processor time of this process and of its children that have ended."""
  usages = map(
    resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  )
  return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _timed(model, videos) -> tuple[float, float, dict]:
  start = _cpu_sec(), time.perf_counter()
  document = predict.predict(model, videos)
  wall_sec = time.perf_counter() - start[1]
  guard.close()  # its processor time counts once it has ended
  return _cpu_sec() - start[0], wall_sec, document


def measure(*, quick: bool) -> list[dict[str, Any]]:
  """Returns the rows; needs the real videos."""
  videos = sorted(VIDEOS.glob("*.mp4"))
  if not videos:
    raise FileNotFoundError(f"no videos in {VIDEOS}")
  with tempfile.TemporaryDirectory() as folder:
    encoder = toy_model.make_encoder(
      pathlib.Path(folder), num_frames=16, image_size=112, video_size="tiny"
    )
  model = toy_model.make_model(encoder)
  ways = {"guarded": contextlib.nullcontext, "here": _decoded_here}
  cpu: dict[str, list[float]] = {name: [] for name in ways}
  wall: dict[str, list[float]] = {name: [] for name in ways}
  documents = []
  # The first turn compiles.
  for turn in range(1 + (REPETITIONS_QUICK if quick else REPETITIONS)):
    for name, way in ways.items():
      with way():
        cpu_sec, wall_sec, document = _timed(model, videos)
      documents.append(document)
      if turn:
        cpu[name].append(cpu_sec)
        wall[name].append(wall_sec)
  assert all(document == documents[0] for document in documents)

  def ratio(seconds):
    pairs = zip(seconds["guarded"], seconds["here"], strict=True)
    return statistics.median(guarded / here for guarded, here in pairs)

  note = f"median of {len(cpu['here'])} turns, {len(videos)} videos"
  return [
    running.row("predict, guarded", statistics.median(cpu["guarded"]), "CPU s"),
    running.row(
      "predict, decoded here", statistics.median(cpu["here"]), "CPU s"
    ),
    running.row(
      "processor time",
      ratio(cpu),
      "guarded/here",
      at_most=PRICE_GOAL,
      note=note,
    ),
    running.row("time on the clock", ratio(wall), "guarded/here", note=note),
  ]


if __name__ == "__main__":
  running.main(measure, __doc__)
