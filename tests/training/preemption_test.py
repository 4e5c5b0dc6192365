"""SIGTERM outside of steps; within them see fit_test and tests/faults."""

import os
import signal

import pytest

from clap_jax.training import preemption


def test_sigterm_outside_of_steps_leaves_with_exit_code_0():
  before = signal.getsignal(signal.SIGTERM)
  with preemption.leave_on_sigterm():
    with preemption.watch_sigterm() as stop:
      os.kill(os.getpid(), signal.SIGTERM)
      assert stop.is_due(1)  # steps end as they like
    with pytest.raises(preemption.Preempted) as raised:
      os.kill(os.getpid(), signal.SIGTERM)
      signal.pause()
  assert raised.value.code == 0
  assert "asked to stop: saved; run again" in str(raised.value)
  assert signal.getsignal(signal.SIGTERM) is before
