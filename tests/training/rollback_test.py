"""The guard in a whole run: skipped, rolled back, given up."""

import dataclasses
import itertools

import jax
import numpy as np
import orjson
import pytest

from clap_jax import config as config_lib
from clap_jax.training import checkpoint, hooks, rollback, writer
from tests.training import tiny_run, tiny_task


def batches_with(bad_steps, value=np.nan):
  """The task's batches; those of `bad_steps` hold one bad number."""

  def batches_from(start_step):
    batches = tiny_task.batches_from(start_step)
    for step, batch in enumerate(batches, start=start_step + 1):
      if step in bad_steps:
        batch["y"] = batch["y"].copy()
        batch["y"][3, 1] = value
      yield batch

  return batches_from


def run(
  workdir, num_steps, bad_steps, *, value=np.nan, batches_from=None, **loop
):
  options = {"max_skipped_in_a_row": 3} | loop
  # Of one learning rate, whatever the length of the run.
  optimizer = dataclasses.replace(tiny_run.OPTIMIZER, schedule="constant")
  return tiny_run.run(
    workdir,
    num_steps=num_steps,
    optimizer=optimizer,
    task=tiny_task.TinyTask(noise=0.0),
    batches_from=batches_from or batches_with(bad_steps, value),
    loop=config_lib.LoopConfig(
      length=tiny_run.steps(num_steps), log_every=tiny_run.steps(1), **options
    ),
  )


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 1e4])
def test_one_bad_batch_is_skipped_and_the_run_goes_on(tmp_path, value):
  state = run(tmp_path, 44, {40}, value=value)
  assert int(state.num_skipped) == 1
  assert int(state.num_rollbacks) == 0
  lines = {line["step"]: line for line in writer.read_metrics(tmp_path)}
  assert lines[39]["train/guard/skipped"] == 0
  assert lines[40]["train/guard/skipped"] == 1
  assert lines[44]["train/guard/skipped_in_a_row"] == 0
  assert lines[44]["train/loss"] < 2 * lines[39]["train/loss"]
  assert not (tmp_path / rollback.RECORD_FILE).exists()


def test_the_other_steps_are_those_of_a_run_without_the_batch(tmp_path):
  def without_the_fifth(start_step):
    batches = tiny_task.batches_from(0)
    kept = (batch for step, batch in enumerate(batches, 1) if step != 5)
    yield from itertools.islice(kept, start_step, None)

  skipped = run(tmp_path / "a", 9, {5})
  without = run(tmp_path / "b", 8, set(), batches_from=without_the_fifth)
  jax.tree.map(np.testing.assert_array_equal, skipped.params, without.params)
  jax.tree.map(np.testing.assert_array_equal, skipped.ema, without.ema)
  losses = [
    [line["train/loss"] for line in writer.read_metrics(tmp_path / name)]
    for name in ("a", "b")
  ]
  assert losses[0][4] is None
  assert losses[0][:4] + losses[0][5:] == losses[1]


def test_an_outlier_passes_where_the_guard_is_off(tmp_path):
  state = run(tmp_path, 41, {40}, value=1e4, outlier_deviations=None)
  assert int(state.num_skipped) == 0


def test_update_after_update_goes_back_and_leaves_the_batches_out(
  tmp_path, capsys
):
  """Saved at 2, 4, ...; 7, 8, 9 are bad: back to 6 and on with step 10."""
  state = run(tmp_path, 12, {7, 8, 9})
  assert int(state.step) == 12
  assert int(state.num_rollbacks) == 1
  assert int(state.num_skipped) == 3
  record = orjson.loads((tmp_path / rollback.RECORD_FILE).read_bytes())
  assert [entry["bad_batches"] for entry in record] == [[6, 7, 8]]
  assert record[0]["left_out_from_batch"] == 6
  message = capsys.readouterr().err
  assert "back to the parameters of step 6 and on with step 10" in message
  assert checkpoint.complete_steps(tmp_path / "checkpoints") == [10, 12]


def test_good_batches_after_the_checkpoint_are_left_out_as_well(tmp_path):
  """8, 9, 10 are bad, 6 is saved: the update of step 7 is given up too."""
  skipped = run(tmp_path / "a", 10, {8, 9, 10})
  at_six = run(tmp_path / "b", 6, set())
  jax.tree.map(np.testing.assert_array_equal, skipped.params, at_six.params)
  assert int(skipped.step) == 10
  again = run(tmp_path / "a", 10, {8, 9, 10})  # a finished run, rolled back
  jax.tree.map(np.testing.assert_array_equal, again.params, at_six.params)


def test_before_the_first_checkpoint_the_run_starts_afresh(tmp_path):
  state = run(tmp_path, 6, {1, 2, 3})
  assert int(state.num_rollbacks) == 1
  record = orjson.loads((tmp_path / rollback.RECORD_FILE).read_bytes())
  assert record[0]["bad_batches"] == [0, 1, 2]


def test_it_gives_up_after_so_many_times_and_says_which_batches(tmp_path):
  with pytest.raises(hooks.SkipLimitError, match="3 updates in a row up to"):
    run(tmp_path, 50, set(range(5, 50)), max_rollbacks=2)
  record = orjson.loads((tmp_path / rollback.RECORD_FILE).read_bytes())
  bad = [number for entry in record for number in entry["bad_batches"]]
  assert bad == list(range(4, 13))
  assert record[-1]["left_out_from_batch"] is None
  # What is left is the last good checkpoint, and it is whole.
  params, _ = checkpoint.restore_params(tmp_path)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
