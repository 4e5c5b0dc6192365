"""Processes of Slurm steps, whose environment is set here by hand."""

import os
import socket
import subprocess
import sys

import pytest

from clap_jax.training import processes, slurm
from tests import conftest

EIGHT = "0,1,2,3,4,5,6,7"


def step(process=0, local=0, *, tasks="1", node=0, gpus=None, visible=None):
  """The variables that srun sets for one process."""
  environment = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": str(process),
    "SLURM_LOCALID": str(local),
    "SLURM_NODEID": str(node),
    "SLURM_STEP_TASKS_PER_NODE": tasks,
  }
  if gpus is not None:
    environment["SLURM_GPUS_ON_NODE"] = str(gpus)
  if visible is not None:
    environment["CUDA_VISIBLE_DEVICES"] = visible
  return environment


@pytest.mark.parametrize(
  ("environment", "expected"),
  [
    ({}, None),
    ({"SLURM_JOB_ID": "1"}, None),  # a job's own script
    # One process for all eight GPUs of a node.
    (step(gpus=8, visible=EIGHT), []),
    (step(3, 0, tasks="1(x4)", node=3, gpus=8, visible=EIGHT), []),
    (step(), []),
    # One for each of eight.
    (step(5, 5, tasks="8", gpus=8, visible=EIGHT), [5]),
    (step(13, 5, tasks="8(x2)", node=1, gpus=8, visible=EIGHT), [5]),
    (step(5, 5, tasks="8", gpus=8), [5]),
    # Each sees its own alone (--gpus-per-task), which is its number 0.
    (step(5, 5, tasks="8", gpus=8, visible="5"), [0]),
    (step(5, 5, tasks="8", visible="5"), [0]),
    (step(1, 1, tasks="2", gpus=8, visible="4,5,6,7"), [0, 1, 2, 3]),
    # Two processes share eight.
    (step(1, 1, tasks="2", gpus=8, visible=EIGHT), [4, 5, 6, 7]),
    (step(2, 0, tasks="2(x1),1", node=1, gpus=8, visible=EIGHT), []),
    # A part of a node, whose GPUs are not numbered from 0.
    (step(1, 1, tasks="2", gpus=2, visible="6,7"), [1]),
    (step(1, 1, tasks="2"), [1]),  # no GPUs
  ],
)
def test_gpus_of_a_process(environment, expected):
  assert slurm.local_device_ids(environment) == expected


def test_gpus_that_cannot_be_shared_are_refused():
  for tasks in ("3", "16"):
    with pytest.raises(ValueError, match=f"{tasks} processes .* 8 GPUs"):
      slurm.local_device_ids(step(tasks=tasks, gpus=8, visible=EIGHT))
  with pytest.raises(ValueError, match="SLURM_STEP_TASKS_PER_NODE"):
    slurm.local_device_ids(step(tasks="two"))


def set_environment(monkeypatch, environment):
  for name in [*os.environ]:
    if name.startswith(("SLURM_", "CUDA_VISIBLE", "JAX_LOCAL")):
      monkeypatch.delenv(name)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)


def connection(*, detect=False, given=(None, None, None)):
  return processes.connection(
    detect=detect,
    coordinator=given[0],
    num_processes=given[1],
    process_id=given[2],
  )


def test_a_job_without_a_step_is_refused(monkeypatch):
  set_environment(monkeypatch, {"SLURM_JOB_ID": "4711"})
  with pytest.raises(ValueError, match="srun"):
    connection(detect=True)
  assert connection() is None  # a run of one process, inside of a job
  set_environment(monkeypatch, step())
  assert connection(detect=True) == processes.Connection()


@pytest.mark.parametrize(
  ("given", "more", "gpus", "method"),
  [
    ((None, None, None), {}, [1], None),
    ((None, None, None), {"JAX_LOCAL_DEVICE_IDS": "0,1"}, None, None),
    (("10.0.0.2:8476", 2, 1), {}, [1], "deactivate"),
    # Started by hand on a node of a job: the step's numbers mean nothing.
    (("10.0.0.2:8476", 2, 0), {}, None, "deactivate"),
  ],
)
def test_what_jax_is_given(monkeypatch, given, more, gpus, method):
  environment = step(1, 1, tasks="2", gpus=2, visible="0,1")
  set_environment(monkeypatch, environment | more)
  calls = []
  monkeypatch.setattr(
    processes.jax.distributed, "initialize", lambda *a, **k: calls.append(a)
  )
  monkeypatch.setattr(processes._Monitor, "start", lambda self: None)
  processes.join(connection(detect=given[0] is None, given=given))
  assert calls == [(*given, gpus, method)]
  monkeypatch.setattr(processes, "_monitor", None)


PROGRAM = """
import jax
from clap_jax.training import processes
how = processes.connection(
  detect=True, coordinator=None, num_processes=None, process_id=None
)
processes.join(how)
print(processes.index(), processes.count(), jax.process_count(),
      jax.config.values["jax_cuda_visible_devices"], flush=True)
processes.barrier("here")
processes.finish()
"""


def test_two_processes_of_two_nodes_meet_and_see_all_their_gpus():
  with socket.create_server(("localhost", 0)) as server:
    port = server.getsockname()[1]
  started = [
    subprocess.Popen(
      [sys.executable, "-c", PROGRAM],
      env=os.environ
      | step(process, tasks="1(x2)", node=process, gpus=4, visible="0,1,2,3")
      | {"JAX_COORDINATOR_PORT": str(port), "JAX_PLATFORMS": "cpu"},
      cwd=conftest.REPOSITORY,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in range(2)
  ]
  for process, run in enumerate(started):
    out, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors
    assert f"{process} 2 2 all" in out
