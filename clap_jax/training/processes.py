"""Connects the processes of one run and stops them together.

Every process runs the same program on its own rows of each batch. Only process
0 writes files other than checkpoints. A failure of one must end all: a
collective waits forever for a process that left, and the heartbeats of the
coordinator do not detect one that is alive but stuck.
"""

import contextlib
import dataclasses
import faulthandler
import ipaddress
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

# The coordinator's key-value store and the process's number before a device is
# touched have no public name.
from jax._src import distributed

from clap_jax.training import slurm

FAILED_CODE = 3
# Not sys.stderr: threads are dumped even if that is replaced.
STDERR = sys.__stderr__ or sys.stderr
_FAILURE_KEY = "clap/failure"
_LEFT_KEY = "clap/left"
_PROGRESS_KEY = "clap/progress"
_POLL_SEC = 0.5
_HEARTBEAT_SEC = 60  # a killed process ends the others after this at the latest
_START_SEC = 300
_DECISION_SEC = 1800  # to verify and to copy large checkpoints
_END_SEC = 1800  # until the last process is done
_SHUTDOWN_SEC = 20
_LEAVE_SEC = 8  # process 0 waits for the others to read the reason
_CHOSEN_GPUS = "JAX_LOCAL_DEVICE_IDS"
_TPU_HOSTS = "TPU_WORKER_HOSTNAMES"

_decisions = itertools.count()
_monitor: "_Monitor | None" = None


class PeerError(RuntimeError):
  """Raised if another process of the run failed, with its reason."""


@dataclasses.dataclass(frozen=True)
class Connection:
  """Addresses of a run's processes; if all are None, JAX detects them."""

  coordinator: str | None = None  # HOST:PORT of process 0
  num_processes: int | None = None
  process_id: int | None = None


def connection(
  *,
  detect: bool,
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
) -> Connection | None:
  """Parses the flags of several processes; None for a run of one.

  A multi-host TPU slice that lists its hosts in the environment is joined
  automatically.

  Raises:
    ValueError: the flags are inconsistent, a Slurm job has no step, or the
      coordinator would listen on a public address: its port is unauthenticated.
  """
  given = (coordinator, num_processes, process_id)
  if given == (None, None, None):
    if detect:
      slurm.check_step(os.environ)
    several = "," in os.environ.get(_TPU_HOSTS, "")
    return Connection() if detect or several else None
  if (
    detect or coordinator is None or num_processes is None or process_id is None
  ):
    raise ValueError(
      "--coordinator, --num_processes and --process_id must be given "
      "together, and --distributed alone (it detects all three on TPU slices, "
      "Slurm and Open MPI)."
    )
  if num_processes < 1 or not 0 <= process_id < num_processes:
    raise ValueError(
      f"--process_id is {process_id} of --num_processes {num_processes}; "
      "expected 0 to one less than their number."
    )
  host, colon, port = coordinator.rpartition(":")
  if not (host and colon and port.isdigit() and 0 < int(port) < 1 << 16):
    raise ValueError(
      f"--coordinator: expected HOST:PORT of process 0, got {coordinator!r}."
    )
  _check_private(host.strip("[]"))
  return Connection(coordinator, num_processes, process_id)


def _check_private(host: str) -> None:
  try:
    address = ipaddress.ip_address(host)
  except ValueError:
    return  # a name
  if address.is_global or address.is_unspecified:
    raise ValueError(
      f"--coordinator: {host} is reachable from anywhere, and the port is "
      "unauthenticated. Give an address of a private network."
    )


def join(how: Connection | None) -> None:
  """Connects to the other processes of the run, if any.

  Must be called before the first use of a device.

  Raises:
    ValueError: processes of one node cannot share its GPUs evenly.
  """
  global _monitor  # noqa: PLW0603  (one per process, as is the connection)
  if how is None:
    return
  jax.distributed.initialize(
    how.coordinator,
    how.num_processes,
    how.process_id,
    _own_gpus(how),
    # With all three given, the environment must not change them.
    "deactivate" if how.coordinator else None,
    initialization_timeout=_START_SEC,
    heartbeat_timeout_seconds=_HEARTBEAT_SEC,
    shutdown_timeout_seconds=_SHUTDOWN_SEC,
    # By default it would listen on every network of the host.
    coordinator_bind_address=how.coordinator,
  )
  _monitor = _Monitor()
  _monitor.start()


def _own_gpus(how: Connection) -> list[int] | None:
  """Returns the GPUs of this process; None leaves the choice to JAX."""
  if os.environ.get(_CHOSEN_GPUS):
    return None
  index_in_step = slurm.process_index(os.environ)
  if how.process_id not in (None, index_in_step):
    return None  # not started by srun
  return slurm.local_device_ids(os.environ)


def index() -> int:
  """Returns this process's index, without initializing devices."""
  return distributed.global_state.process_id or 0


def count() -> int:
  return distributed.global_state.num_processes or 1


def is_first() -> bool:
  """Returns True on the process that writes the files of the run."""
  return index() == 0


def print_on_first(text: str) -> None:
  """Prints a message on the first process only."""
  if is_first():
    print(text, file=sys.stderr, flush=True)


def broadcast_from_first(what: str, function: Callable[[], Any]) -> Any:
  """Returns process 0's JSON result of `function` on all processes.

  All processes must call it in the same order; only process 0 runs the
  function, so that all agree on one view of the files.

  Raises:
    PeerError: on the other processes, if the function raises; process 0 raises
      the exception itself.
  """
  client = distributed.global_state.client
  if client is None or count() == 1:
    return function()
  key = f"clap/decision/{next(_decisions)}"
  if is_first():
    try:
      value = function()
    except BaseException as error:
      _set(client, key, {"error": f"{type(error).__name__}: {error}"})
      raise
    _set(client, key, {"value": value})
    return value
  answer = json.loads(client.blocking_key_value_get(key, _DECISION_SEC * 1000))
  if "error" in answer:
    raise PeerError(f"process 0 could not {what}: {answer['error']}")
  return answer["value"]


def compiled_by_all(function: Any, *arguments: Any) -> Callable:
  """Compiles `function` and waits until all processes have compiled it.

  On CPUs the first collective of a program waits only half a minute for its
  peers, and compile times may differ much between processes.

  Args:
    function: jitted function, to be called with arguments of the same shapes.
    *arguments: its arguments, which are not modified.
  """
  if count() == 1:
    return function
  if hasattr(function, "prepare"):  # a step of several programs
    function.prepare(*arguments)
    barrier("compiled")
    return function
  compiled = function.lower(*arguments).compile()
  barrier("compiled")
  return compiled


def barrier(where: str) -> None:
  """Waits for all processes; returns at once in a run of one."""
  client = distributed.global_state.client
  if client is not None:
    number = next(_decisions)
    client.wait_at_barrier(f"clap/{where}/{number}", _DECISION_SEC * 1000)


def publish(progress: Mapping[str, Any]) -> None:
  """Publishes the progress of this process to the others."""
  client = distributed.global_state.client
  if client is not None:
    _set(client, f"{_PROGRESS_KEY}/{index()}", dict(progress))


def published() -> dict[int, dict]:
  """Returns the latest progress of every process that published any."""
  client = distributed.global_state.client
  if client is None:
    return {}
  entries = client.key_value_dir_get(f"{_PROGRESS_KEY}/")
  return {
    int(key.rpartition("/")[2]): json.loads(text) for key, text in entries
  }


def finish() -> None:
  """Leaves a successful run once all its processes have finished."""
  client = distributed.global_state.client
  if client is None:
    return
  client.wait_at_barrier("clap/end", _END_SEC * 1000)
  if _monitor is not None:
    _monitor.stop()
  jax.distributed.shutdown()


def fail(code: int, reason: str) -> int:
  """Exits a failed process of several with `code`, the others with 3.

  In a run of one process it returns the code.
  """
  client = distributed.global_state.client
  if client is None:
    return code
  if code == FAILED_CODE:
    # A peer that left may have failed this one's collective before it published
    # the cause: then this error is all that is known.
    faulthandler.dump_traceback(file=STDERR, all_threads=True)
  end_all(code, reason)
  return code


def end_all(code: int, reason: str) -> None:
  """Publishes the failure to the other processes and exits at once.

  Python's normal exit would wait for the others first.
  """
  client = distributed.global_state.client
  if client is not None:
    try:
      _set(client, _FAILURE_KEY, {"process": index(), "reason": reason})
      _leave(client)
    except RuntimeError:  # the coordinator is gone; they notice by themselves
      pass
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _leave(client) -> None:
  """Announces the exit; process 0, which serves the keys, leaves last."""
  _set(client, f"{_LEFT_KEY}/{index()}", True)
  deadline_sec = time.monotonic() + _LEAVE_SEC
  while is_first() and time.monotonic() < deadline_sec:
    if len(client.key_value_dir_get(f"{_LEFT_KEY}/")) == count():
      break
    time.sleep(_POLL_SEC / 5)


class _Monitor:
  """Ends this process when another one reports a failure."""

  def __init__(self):
    self._stopped = threading.Event()
    self._thread = threading.Thread(
      target=self._run, name="peer-monitor", daemon=True
    )

  def start(self) -> None:
    self._thread.start()

  def stop(self) -> None:
    self._stopped.set()
    self._thread.join()

  def _run(self) -> None:
    client: Any = distributed.global_state.client
    while not self._stopped.wait(_POLL_SEC):
      try:
        text = client.key_value_try_get(_FAILURE_KEY)
      except jax.errors.JaxRuntimeError:  # nobody has failed
        continue
      failure = json.loads(text)
      if failure["process"] == index():
        return  # this process is already exiting
      print(
        f"process {index()}: exiting, because process {failure['process']} "
        f"failed: {failure['reason']}\nwhere it was:",
        file=sys.stderr,
        flush=True,
      )
      faulthandler.dump_traceback(file=STDERR, all_threads=True)
      with contextlib.suppress(RuntimeError):  # the coordinator is gone
        _leave(client)
      os._exit(FAILED_CODE)


def _set(client, key: str, value: Any) -> None:
  client.key_value_set(key, json.dumps(value), allow_overwrite=True)
