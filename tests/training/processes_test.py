import pytest

from clap_jax.training import processes


def connection(coordinator=None, num=None, process=None, *, detect=False):
  return processes.connection(
    detect=detect,
    coordinator=coordinator,
    num_processes=num,
    process_id=process,
  )


def test_one_process_several_and_detection(monkeypatch):
  monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
  assert connection() is None
  assert connection(detect=True) == processes.Connection()
  given = connection("10.0.0.2:8476", 4, 3)
  assert given == processes.Connection("10.0.0.2:8476", 4, 3)
  monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
  assert connection() is None
  monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "10.0.0.2,10.0.0.3")
  assert connection() == processes.Connection()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("h:1", 2, None), "must be given together"),
    ((None, 2, 0), "must be given together"),
    (("h:1", 2, 2), "0 to one less"),
    (("h:1", 0, 0), "0 to one less"),
    (("h:1", 2, -1), "0 to one less"),
    (("h", 2, 0), "expected HOST:PORT"),
    ((":80", 2, 0), "expected HOST:PORT"),
    (("h:x", 2, 0), "expected HOST:PORT"),
    (("h:70000", 2, 0), "expected HOST:PORT"),
    (("0.0.0.0:80", 2, 0), "from anywhere"),
    (("[::]:80", 2, 0), "from anywhere"),
    (("8.8.8.8:80", 2, 0), "from anywhere"),
  ],
)
def test_wrong_flags(arguments, message):
  with pytest.raises(ValueError, match=message):
    connection(*arguments)


def test_detection_goes_alone():
  with pytest.raises(ValueError, match="--distributed alone"):
    connection("h:1", 2, 0, detect=True)


def test_a_run_of_one_process_decides_by_itself():
  assert processes.broadcast_from_first("count", lambda: 3) == 3
  assert processes.is_first()
  assert processes.fail(2, "why") == 2
  assert processes.published() == {}
  processes.publish({"step": 1})
  processes.finish()
