"""Batches come to the devices ahead of the step, each with its error."""

import itertools
import threading

import pytest

from clap_jax.training import device_batches


class Counted:
  """Numbers 0, 1, ...; fails in place of one, and records its end."""

  def __init__(self, *, fails_at=None, last=None):
    self.made, self.is_closed = 0, False
    self._fails_at, self._last = fails_at, last
    self.changed = threading.Condition()

  def __iter__(self):
    return self

  def __next__(self):
    with self.changed:
      if self.made == self._fails_at:
        raise PermissionError(13, "Permission denied", "/somewhere")
      if self.made == self._last:
        raise StopIteration
      self.made += 1
      self.changed.notify_all()
      return self.made - 1

  def scalars(self):
    return {"perf/made": float(self.made)}

  def close(self):
    self.is_closed = True


@pytest.mark.parametrize("ahead", [0, 1, 2, 3])
def test_order_and_number_ahead(ahead):
  host, threads = Counted(), set()

  def put(number):
    threads.add(threading.current_thread().name)
    return 10 * number

  batches = device_batches.DeviceBatches(host, put, ahead=ahead)
  for number in range(5):
    with host.changed:
      assert host.changed.wait_for(lambda n=number: host.made == n + ahead, 30)
    assert next(batches) == 10 * number
  assert batches.scalars()["perf/made"] >= 5
  batches.close()
  assert host.made <= 5 + ahead and host.is_closed
  assert threads == {"device-batches" if ahead else "MainThread"}
  assert "device-batches" not in {t.name for t in threading.enumerate()}


@pytest.mark.parametrize("ahead", [0, 2])
def test_an_error_comes_in_the_place_of_its_batch(ahead):
  host = Counted(fails_at=2)
  batches = device_batches.DeviceBatches(host, str, ahead=ahead)
  assert [next(batches), next(batches)] == ["0", "1"]
  for _ in range(2):
    with pytest.raises(PermissionError, match="/somewhere"):
      next(batches)
  batches.close()


def test_batches_that_end():
  batches = device_batches.DeviceBatches(Counted(last=3), str)
  assert list(batches) == ["0", "1", "2"]
  assert next(batches, None) is None
  batches.close()


def test_plain_iterators_have_no_scalars_and_need_no_close():
  batches = device_batches.DeviceBatches(itertools.count(), str)
  assert next(batches) == "0" and batches.scalars() == {}
  batches.close()
