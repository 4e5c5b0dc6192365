"""Checkpoints under kills, damage, full disks and failing threads."""

import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import signal
import time

import pytest

from clap_jax.training import checkpoint, manifest
from tests.training import checkpoint_test as states

NUM_KILLS = int(os.environ.get("CLAP_JAX_FAULTS_KILLS", "100"))
NUM_DAMAGES = 200
WIDTH = 200_000  # 16 rows: a save takes long enough to be hit

pytestmark = pytest.mark.faults


def _save_on_and_on(directory, pipe):
  """Saves a newer state as soon as the last one is under way."""
  checkpoints = checkpoint.Checkpoints(pathlib.Path(directory), keep=2)
  step = max(checkpoints.steps(), default=0)
  pipe.send(step)
  state = states.make_state(1, width=WIDTH)
  while True:
    step += 1
    checkpoints.save(step, state, metadata={})
    pipe.send(step)
    checkpoints.poll()


def _last_sent(receiver, default):
  """Of a process that is dead by now."""
  try:
    while True:
      default = receiver.recv()
  except EOFError:
    return default


def _forkserver():
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(["clap_jax.training.checkpoint", __name__])
  return context


def test_killed_at_random_while_saving(tmp_path, figure):
  context, generator = _forkserver(), random.Random(0)
  directory, before, unreadable, backwards = tmp_path / "c", 0, 0, 0
  most_lost = 0
  for _ in range(NUM_KILLS):
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
      target=_save_on_and_on, args=(str(directory), sender)
    )
    process.start()
    sender.close()  # the other end is the process's alone
    assert receiver.poll(300)
    found = receiver.recv()
    backwards += found < before
    time.sleep(generator.uniform(0.0, 2.0))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    steps = checkpoint.complete_steps(directory)
    begun = _last_sent(receiver, found)
    most_lost = max(most_lost, begun - max(steps, default=0))
    backwards += max(steps, default=0) < before
    before = max([before, *steps])
    for step in steps:
      try:
        manifest.verify(directory / str(step))
      except manifest.DamagedCheckpointError:
        unreadable += 1
  assert before > 0
  restored = states.restore(
    directory, states.abstract(states.make_state(0, width=WIDTH))
  )
  states.assert_same(restored.state, states.make_state(1, width=WIDTH))
  left = [p.name for p in directory.iterdir() if not p.name.isdigit()]
  figure(
    f"#1 {NUM_KILLS} kills while saving, up to step {before}",
    f"{unreadable} unreadable, {backwards} steps back, at most {most_lost} "
    f"save lost, left over {left}",
    "0, 0, 1, []",
  )
  assert (unreadable, backwards, left) == (0, 0, [])
  assert most_lost <= 1


def test_every_damage_leads_to_the_checkpoint_before(tmp_path, figure):
  states.save(tmp_path / "good", [1, 2])
  generator, detected, fallen_back = random.Random(1), 0, 0
  for _ in range(NUM_DAMAGES):
    shutil.copytree(tmp_path / "good", tmp_path / "c")
    states.damage(tmp_path / "c" / "2", generator)
    try:
      manifest.verify(tmp_path / "c" / "2")
    except (manifest.DamagedCheckpointError, FileNotFoundError):
      detected += 1
    restored = states.restore(
      tmp_path / "c", states.abstract(states.make_state(0))
    )
    fallen_back += restored.step == 1
    shutil.rmtree(tmp_path / "c")
    shutil.rmtree(tmp_path / "c.damaged", ignore_errors=True)
  figure(
    "#3 damaged checkpoints",
    f"{detected} detected, {fallen_back} fallen back of {NUM_DAMAGES}",
    f"{NUM_DAMAGES}, {NUM_DAMAGES}",
  )
  assert detected == fallen_back == NUM_DAMAGES


def _save_on_a_full_disk(directory, pipe):
  checkpoints = checkpoint.Checkpoints(pathlib.Path(directory), keep=2)
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
  try:
    checkpoints.save(2, states.make_state(2, width=WIDTH), metadata={})
    checkpoints.wait()
    pipe.send("saved")
  except Exception as error:
    pipe.send(f"{type(error).__name__}: {error}"[:300])


def test_a_full_disk_is_an_error_and_the_old_checkpoint_stays(tmp_path, figure):
  states.save(tmp_path, [1])
  context = _forkserver()
  receiver, sender = context.Pipe(duplex=False)
  process = context.Process(
    target=_save_on_a_full_disk, args=(str(tmp_path), sender)
  )
  process.start()
  assert receiver.poll(300)
  said = receiver.recv()
  process.kill()
  process.join()
  assert said.startswith("SaveError: The checkpoint of step 2"), said
  restored = states.restore(tmp_path, states.abstract(states.make_state(0)))
  assert restored.step == 1
  states.assert_same(restored.state, states.make_state(1))
  figure("#4 disk full while saving", said, "an error; the old one intact")


def test_an_error_in_the_background_surfaces_at_the_next_step(
  tmp_path, monkeypatch, figure
):
  def fail(*args, **kwargs):
    raise OSError("stale file handle")

  checkpoints = checkpoint.Checkpoints(tmp_path, keep=2)
  monkeypatch.setattr(manifest, "write_manifest", fail)
  checkpoints.save(1, states.make_state(1), metadata={})
  polls = 0
  with pytest.raises(checkpoint.SaveError, match="stale file handle"):
    while True:
      checkpoints.poll()
      polls += 1
      time.sleep(0.01)  # a step
      assert polls < 6000
  monkeypatch.undo()
  checkpoints.close()
  assert checkpoint.complete_steps(tmp_path) == []
  figure("#6 error of a save in the background", "raised by poll", "next step")
