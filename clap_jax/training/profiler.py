"""Opens a port to capture profiles of a running process."""

import contextlib
import os
import socket

import jax

from clap_jax.training import slurm


def port_of_process(first_port: int) -> int:
  """Returns the port of this process, distinct among those of a node.

  Args:
    first_port: port of the node's first process.

  Raises:
    ValueError: the port is invalid or in use.
  """
  port = first_port + slurm.index_on_node(os.environ)
  if not 1024 <= port < 1 << 16:
    raise ValueError(
      f"--profiler_port: got {port}; expected a port from 1024 to 65535."
    )
  # The profiler itself would only log that a port is taken.
  for family in (socket.AF_INET6, socket.AF_INET):
    with contextlib.suppress(OSError), socket.socket(family) as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      try:
        probe.bind(("", port))
      except OSError as error:
        raise ValueError(
          f"--profiler_port: {port} cannot be opened: {error.strerror}. "
          "Choose another."
        ) from error
  return port


def serve(port: int) -> None:
  """Opens the port until the process ends, on all interfaces.

  Must be called after the processes of a run have joined.
  """
  jax.profiler.start_server(port)
