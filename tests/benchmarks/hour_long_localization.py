"""What localizing an hour of video costs: seconds and peak memory.

    python -m tests.benchmarks.hour_long_localization --json OUT [--quick]
      [--model DIR] [--video FILE]

`clap predict` runs as a user would run it, in a process of its own, on a file
of ten minutes and on one of an hour (one and six with --quick), which repeat
the packets of --video; DIR is a model of `clap predict`. Without them a small
untrained model and a rendered clip take their place. Then the anchor-free head
of configs/localization_thumos.py, untrained at full size, finds segments in an
hour of features of two-stream I3D, 16 frames every 4 frames at 30 fps. Memory
is the most that the process has held.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import av
import jax
import numpy as np

from clap_jax.data import records
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import extract, model_directory
from clap_jax.trainers import localizers, registry
from configs import localization_sprites, localization_thumos
from tests.benchmarks import running
from tests.configs import keys
from tests.data import built_dataset
from tests.trainers import toy_runs

_STRIDE_SEC = 0.5
_THUMOS_STEPS_PER_SEC = 30.0 / 4.0
_THUMOS_WIDTH = 2048
_THUMOS_CLASSES = 20


def repeated(source: pathlib.Path, path: pathlib.Path, *, duration_sec: float):
  """Writes the video of `source` over and over, nothing encoded again."""
  with av.open(path, "w", format="mp4") as container:
    copy, offset, written_sec = None, 0, 0.0
    while written_sec < duration_sec:
      with av.open(source) as opened:
        stream = opened.streams.video[0]
        copy = copy or container.add_stream_from_template(stream)
        end = offset
        for packet in opened.demux(stream):
          if packet.dts is None:
            continue
          packet.pts += offset
          packet.dts += offset
          end = max(end, packet.pts + (packet.duration or 1))
          packet.stream = copy
          container.mux(packet)
        offset, written_sec = end, float(end * stream.time_base)


def untrained_model(directory: pathlib.Path) -> pathlib.Path:
  """A model of `clap predict` whose head has seen a single step."""
  pretrained = toy_runs.pretrain(directory)
  dataset = records.open_dataset(directory, "toy/small")
  extract.extract(
    encoder_lib.load_encoder(pretrained),
    dataset,
    out=directory / "features",
    stride_sec=_STRIDE_SEC,
  )
  config = localization_sprites.get_config("tiny")
  keys.change(
    config,
    toy_runs.dataset_overrides(directory)
    | {"data.features_dir": str(directory / "features"), "loop.steps": 1},
  )
  registry.train(config, directory / "localization")
  model_directory.write_model(
    directory,
    encoder="pretrain",
    stride_sec=_STRIDE_SEC,
    localization_dir="localization",
    grounding_dir=None,
  )
  return directory


def run(command: list[str]) -> tuple[float, float]:
  """Seconds and the most MiB of a command.

  Raises:
    RuntimeError: it failed.
  """
  started_sec = time.perf_counter()
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
  _, status, usage = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  if process.returncode:
    raise RuntimeError(f"{command} ended with {process.returncode}")
  return time.perf_counter() - started_sec, usage.ru_maxrss / 1024


def predicted(model: pathlib.Path, video: pathlib.Path) -> tuple[float, float]:
  """Seconds and the most MiB of `clap predict` on one file."""
  out = video.with_suffix(".json")
  spent_sec, peak_mib = run(
    [
      *(sys.executable, "-m", "clap_jax.main", "predict", str(video)),
      *("--model", str(model), "--json", str(out)),
    ]
  )
  document = json.loads(out.read_text())
  if document["failed"] or not document["videos"][0]["predictions"]:
    raise RuntimeError(f"nothing was found: {document}")
  return spent_sec, peak_mib


def head_alone(duration_sec: float) -> dict[str, float]:
  """Seconds of the full-size head on features, and this process's peak."""
  config = registry.resolve(localization_thumos.get_config())
  task = localizers.make_task(
    localizers.model_metadata(
      config, [str(i) for i in range(_THUMOS_CLASSES)], _THUMOS_WIDTH
    )
  )
  params = jax.jit(task.init)(jax.random.key(0))
  steps = int(duration_sec * _THUMOS_STEPS_PER_SEC)
  rng = np.random.default_rng(0)
  length = config.data.max_length
  while length < steps:  # as `clap predict` pads
    length *= 2
  padded = np.zeros((1, length, _THUMOS_WIDTH), np.float32)
  padded[0, :steps] = rng.standard_normal((steps, _THUMOS_WIDTH), np.float32)
  mask = (np.arange(length) < steps)[None]
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  detect = jax.jit(task.detect)
  seconds = []
  for _ in range(2):
    started_sec = time.perf_counter()
    found = jax.device_get(detect(params, padded, mask))
    seconds.append(time.perf_counter() - started_sec)
  if not found.mask.any() or found.segments[found.mask].max() < 0.8 * steps:
    raise RuntimeError("the segments do not reach over the whole video")
  return {
    "parameters": float(sum(x.size for x in jax.tree.leaves(params))),
    "first_sec": seconds[0],
    "again_sec": seconds[1],
    "before_mib": before,
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
  }


def measure(*, quick: bool, model, video) -> list[dict]:
  lengths_sec = (60.0, 360.0) if quick else (600.0, 3600.0)
  rows, peaks = [], []
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    model = model or untrained_model(folder / "model")
    if video is None:
      video = folder / "source.mp4"
      video.write_bytes(built_dataset.encode_mp4(480))
    for length_sec in lengths_sec:
      long_video = folder / "long.mp4"
      repeated(video, long_video, duration_sec=length_sec)
      spent_sec, peak_mib = predicted(model, long_video)
      peaks.append(peak_mib)
      rows += [
        running.row(f"clap predict, {length_sec:g} s of video", spent_sec, "s"),
        running.row(
          f"clap predict, {length_sec:g} s, peak memory", peak_mib, "MiB"
        ),
      ]
    rows.append(
      running.row(
        "peak memory, long over short",
        peaks[1] / peaks[0],
        "x",
        at_most=1.5,
      )
    )
    out = folder / "head.json"
    run(
      [
        *(sys.executable, "-m", "tests.benchmarks.hour_long_localization"),
        *("--head_sec", str(lengths_sec[1]), str(out)),
      ]
    )
    head = json.loads(out.read_text())
  what = f"head of {head['parameters']:,.0f} parameters, {lengths_sec[1]:g} s"
  return [
    *rows,
    running.row(f"{what}, compiling", head["first_sec"], "s"),
    running.row(f"{what}, compiled", head["again_sec"], "s"),
    running.row(f"{what}, memory before", head["before_mib"], "MiB"),
    running.row(f"{what}, peak memory", head["peak_mib"], "MiB"),
  ]


if __name__ == "__main__":
  if sys.argv[1:2] == ["--head_sec"]:  # the process that `measure` starts
    facts = head_alone(float(sys.argv[2]))
    pathlib.Path(sys.argv[3]).write_text(json.dumps(facts))
  else:
    running.main(
      measure,
      __doc__,
      options={
        "model": {"type": pathlib.Path, "help": "of `clap predict`"},
        "video": {"type": pathlib.Path, "help": "repeated to an hour"},
      },
    )
