"""Real processes of `clap train` on this machine, on a toy of features."""

import os
import pathlib
import socket
import subprocess
import sys
import time
from typing import NamedTuple

from clap_jax.training import writer
from tests import conftest
from tests.trainers import toy_features

NUM_DEVICES = 4  # over all processes
TIMEOUT_SEC = 1200


class Finished(NamedTuple):
  codes: list[int]
  logs: list[str]
  wall_sec: float

  def check(self) -> "Finished":
    assert not any(self.codes), "\n".join((str(self.codes), *self.logs))
    return self


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def arguments(
  data: pathlib.Path, workdir: pathlib.Path, **changes
) -> list[str]:
  """Of `clap`: the localization trainer on the toy, 8 rows a batch."""
  values = toy_features.overrides(data) | {
    "loop.steps": 6,
    "loop.log_every_steps": 1,
  }
  return [
    "train",
    "--config=configs/localization_sprites.py:tiny",
    f"--workdir={workdir}",
    *(f"--config.{key}={value}" for key, value in (values | changes).items()),
  ]


def start(
  command: list[str],
  *,
  num_processes: int = 1,
  faults: str = "none",
  num_devices: int = NUM_DEVICES,
) -> list[subprocess.Popen]:
  """The processes of one run; `command` is that of `arguments`."""
  flags = [
    f"--xla_force_host_platform_device_count={num_devices // num_processes}",
    "--xla_backend_optimization_level=0",
  ]
  environment = os.environ | {"XLA_FLAGS": " ".join(flags)}
  port = free_port()
  started = []
  for process in range(num_processes):
    several = (
      f"--coordinator=127.0.0.1:{port}",
      f"--num_processes={num_processes}",
      f"--process_id={process}",
    )
    started.append(
      subprocess.Popen(
        [
          sys.executable,
          "-m",
          "tests.faults.faulty_clap",
          faults,
          *command,
          *(several if num_processes > 1 else ()),
        ],
        cwd=conftest.REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )
    )
  return started


def finish(
  started: list[subprocess.Popen], *, timeout_sec: float = TIMEOUT_SEC
) -> Finished:
  """Waits for all; kills what is left of them in any case."""
  began_sec = time.monotonic()
  try:
    logs = [process.communicate(timeout=timeout_sec)[0] for process in started]
  finally:
    for process in started:
      process.kill()
  codes = [process.returncode for process in started]
  return Finished(codes, logs, time.monotonic() - began_sec)


def run(command: list[str], **kwargs) -> Finished:
  return finish(start(command, **kwargs))


def losses(workdir: pathlib.Path) -> dict[int, float]:
  return {
    line["step"]: line["train/loss"]
    for line in writer.read_metrics(workdir)
    if "train/loss" in line
  }


def wait_for_step(workdir: pathlib.Path, step: int, started) -> None:
  """Returns when the record has the step."""
  deadline = time.monotonic() + TIMEOUT_SEC
  while True:
    path = workdir / writer.METRICS_FILE
    whole = path.is_file() and path.read_bytes().endswith(b"\n")
    if whole and max(losses(workdir), default=0) >= step:
      return
    assert time.monotonic() < deadline
    for process in started:
      assert process.poll() is None, process.communicate()[0]
    time.sleep(0.05)
