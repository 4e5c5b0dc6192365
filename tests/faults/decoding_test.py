"""`clap train` with decoding processes: stopped, killed in part, resumed."""

import os
import pathlib
import signal

import pytest

from tests.data import decoding_test
from tests.faults import cluster
from tests.faults.training_test import assert_same_bits
from tests.trainers import toy_runs

pytestmark = pytest.mark.faults
NUM_STEPS = 8


def children_of(pid: int) -> list[int]:
  listed = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
  return [int(child) for path in listed for child in path.read_text().split()]


def test_a_worker_killed_a_run_stopped_then_the_bits_of_threads(
  tmp_path, figure
):
  toy_runs.build(tmp_path)
  values = toy_runs.dataset_overrides(tmp_path) | toy_runs.SMALL_TOWERS
  values |= {
    "data.tokenizer": str(tmp_path / "tokenizer.model"),
    "data.cache_mib": 0.0,
    "optimizer.ema_decay": 0.9,  # both are compared
    "loop.steps": NUM_STEPS,
    "loop.log_every_steps": 1,
  }

  def command(workdir, **changes):
    config = "configs/pretrain_sprites.py:tiny,encoder=clap"
    flags = (f"--config.{k}={v}" for k, v in (values | changes).items())
    return ["train", f"--config={config}", f"--workdir={workdir}", *flags]

  threads, processes = tmp_path / "threads", tmp_path / "processes"
  cluster.run(command(threads), num_devices=1).check()
  arguments = command(processes, **{"data.num_processes": 2})
  memory = sorted(os.listdir("/dev/shm"))
  started = cluster.start(arguments, num_devices=1, faults="every@2=1")
  cluster.wait_for_step(processes, 1, started)
  workers = children_of(started[0].pid)
  assert len(workers) == 2
  os.kill(workers[0], signal.SIGKILL)
  cluster.wait_for_step(processes, 2, started)
  started[0].send_signal(signal.SIGTERM)
  stopped = cluster.finish(started).check()
  assert "asked to stop" in stopped.logs[0]
  assert "died (SIGKILL) and is replaced" in stopped.logs[0]
  decoding_test.wait_for_the_end_of(workers)
  assert sorted(os.listdir("/dev/shm")) == memory
  assert max(cluster.losses(processes)) < NUM_STEPS
  cluster.run(arguments, num_devices=1).check()
  assert_same_bits(threads, processes)
  figure(
    "a decoding process killed, then the run stopped",
    "nothing left, resumed to the bits of threads",
    "bitwise",
  )
