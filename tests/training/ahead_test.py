"""Items come in order, each with its error, and no more than may wait."""

import threading
import time

import pytest

from clap_jax.media import errors
from clap_jax.training import ahead


def test_the_thread_waits_for_the_listener():
  made = []

  def items():
    for number in range(100):
      made.append(number)
      yield number

  listening = ahead.Ahead(items(), depth=2)
  assert next(listening) == 0
  deadline = time.monotonic() + 60
  while len(made) < 4 and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(0.3)
  assert len(made) == 4  # one taken, two waiting, one in hand
  before = threading.active_count()
  listening.close()
  assert threading.active_count() == before - 1
  assert len(made) <= 5


def test_everything_comes_in_order_and_errors_too():
  assert list(ahead.Ahead(range(50), depth=3)) == list(range(50))

  def broken():
    yield 1
    raise errors.VideoError("half downloaded")

  listening = ahead.Ahead(broken(), depth=2)
  assert next(listening) == 1
  with pytest.raises(errors.VideoError, match="half downloaded"):
    next(listening)
