"""The port that profiles are captured from."""

import contextlib
import socket

import jax
import pytest

from clap_jax.training import profiler


def free_port():
  with socket.create_server(("", 0)) as server:
    return server.getsockname()[1]


def test_the_port_is_open():
  port = profiler.port_of_process(free_port())
  profiler.serve(port)
  try:
    with socket.create_connection(("localhost", port), timeout=60):
      pass
  finally:
    jax.profiler.stop_server()


def test_processes_of_a_node_have_ports_of_their_own(monkeypatch):
  for name in ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID"):
    monkeypatch.setenv(name, "1")
  monkeypatch.setenv("SLURM_LOCALID", "3")
  port = free_port()
  assert profiler.port_of_process(port - 3) == port


@pytest.mark.parametrize("port", [0, 80, 65536, -1])
def test_no_such_port(port):
  with pytest.raises(ValueError, match="--profiler_port"):
    profiler.port_of_process(port)


def test_a_port_that_is_taken_is_refused():
  with contextlib.closing(socket.create_server(("", 0))) as server:
    port = server.getsockname()[1]
    with pytest.raises(ValueError, match=f"--profiler_port: {port}"):
      profiler.port_of_process(port)
