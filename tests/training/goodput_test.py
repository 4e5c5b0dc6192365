import orjson
import pytest

from clap_jax.training import goodput
from tests.training import tiny_run


def start(start_step, last_step, steps_sec, wall_sec):
  empty = {f"{kind}_sec": 0.0 for kind in goodput.KINDS}
  return empty | {
    "start_step": start_step,
    "last_step": last_step,
    "steps_sec": steps_sec,
    "wall_sec": wall_sec,
  }


@pytest.mark.parametrize(
  ("starts", "expected"),
  [
    ([], 0.0),
    ([start(0, 10, 5.0, 10.0)], 0.5),
    ([start(0, 0, 0.0, 10.0)], 0.0),
    # Killed at 10, resumed at 5: half of the first start is done twice.
    ([start(0, 10, 8.0, 10.0), start(5, 15, 8.0, 10.0)], 12.0 / 20.0),
    # A later start that resumes earlier takes from all before it.
    (
      [start(0, 10, 10, 10), start(10, 20, 10, 10), start(5, 6, 1, 10)],
      6 / 30,
    ),
  ],
)
def test_work_done_twice_counts_once(starts, expected):
  assert goodput.goodput(starts) == pytest.approx(expected)


def test_a_run_accounts_for_its_time(tmp_path):
  for num_steps in (5, 5):  # the second finds it finished
    tiny_run.run(
      tmp_path,
      num_steps=num_steps,
      evaluate=lambda params, step: {"eval/a": 1.0},
    )
  record = orjson.loads((tmp_path / goodput.GOODPUT_FILE).read_bytes())
  (only,) = record["starts"]
  assert (only["start_step"], only["last_step"]) == (0, 5)
  known = sum(
    only[f"{kind}_sec"] for kind in goodput.KINDS if kind != "input_wait"
  )
  assert 0 < known <= only["wall_sec"]
  assert 0 < record["goodput"] < 1
  assert record["goodput"] == pytest.approx(
    only["steps_sec"] / only["wall_sec"]
  )
