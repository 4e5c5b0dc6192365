"""Power cuts while checkpoints are written: what was not synced may be gone.

The model is POSIX at its strictest. Bytes of a file last from the fsync of the
file on, names from the fsync of their folder on; anything else is kept, lost,
cut short or zeroed, file by file at random. After every fsync that a save makes
the power is cut, on a copy. Deletions are taken to last at once.
"""

import os
import pathlib
import random

import pytest

from clap_jax.training import checkpoint, manifest
from tests.training import checkpoint_test as states

NUM_SAVES = 5
CUTS_PER_SYNC = 3


class Disk:
  """Knows what has been brought to the disk; cuts the power on copies."""

  def __init__(self, root, copies):
    self._root, self._copies = root, copies
    self._sizes = {}  # inode -> (size, time of change) at its last fsync
    self._names = {}  # inode of a folder -> its names at its last fsync
    self._generator = random.Random(0)
    self.cuts = []  # (copy, step whose save had ended)
    self.acknowledged = None
    self._fsync = os.fsync

  def fsync(self, descriptor):
    self._fsync(descriptor)
    path = pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    if not path.is_relative_to(self._root):
      return
    status = os.fstat(descriptor)
    if path.is_dir():
      self._names[status.st_ino] = {
        entry.name: entry.inode() for entry in os.scandir(path)
      }
    else:
      self._sizes[status.st_ino] = (status.st_size, status.st_mtime_ns)
    for _ in range(CUTS_PER_SYNC):
      self.cut()

  def cut(self):
    copy = self._copies / str(len(self.cuts))
    self._copy(self._root, copy)
    self.cuts.append((copy, self.acknowledged))

  def _copy(self, folder, target):
    target.mkdir()
    lasting = self._names.get(folder.stat().st_ino, {})
    for entry in os.scandir(folder):
      named = lasting.get(entry.name) == entry.inode()
      # The root is there before any save.
      if not named and self._generator.random() < 0.5:
        continue
      if entry.is_dir():
        self._copy(pathlib.Path(entry.path), target / entry.name)
      else:
        content = self._left_of(entry)
        (target / entry.name).write_bytes(content)

  def _left_of(self, entry):
    status = entry.stat()
    content = pathlib.Path(entry.path).read_bytes()
    now = (status.st_size, status.st_mtime_ns)
    if self._sizes.get(entry.inode()) == now:
      return content
    kept = self._generator.randrange(len(content) + 1)
    zeros = self._generator.choice((0, len(content) - kept))
    return self._generator.choice((content, content[:kept] + bytes(zeros)))


@pytest.mark.faults
def test_power_cuts_at_every_sync_of_a_save(tmp_path, monkeypatch, figure):
  root, copies = tmp_path / "disk" / "checkpoints", tmp_path / "copies"
  copies.mkdir()
  root.mkdir(parents=True)
  disk = Disk(root, copies)
  monkeypatch.setattr(os, "fsync", disk.fsync)
  checkpoints = checkpoint.Checkpoints(root, keep=1)
  for step in range(1, NUM_SAVES + 1):
    checkpoints.save(step, states.make_state(step), metadata={})
    checkpoints.wait()
    disk.acknowledged = step
    disk.cut()
  checkpoints.close()
  monkeypatch.undo()
  damaged, lost, wrong = 0, 0, 0
  for copy, acknowledged in disk.cuts:
    for step in checkpoint.complete_steps(copy):
      try:
        manifest.verify(copy / str(step))
      except manifest.DamagedCheckpointError:
        damaged += 1
    try:
      restored = states.restore(copy, states.abstract(states.make_state(0)))
    except checkpoint.CheckpointError:
      restored = None
    step = restored.step if restored else 0
    lost += step < (acknowledged or 0)
    if restored:
      try:
        states.assert_same(restored.state, states.make_state(step))
      except AssertionError:
        wrong += 1
  figure(
    f"#2 {len(disk.cuts)} power cuts over {NUM_SAVES} saves",
    f"{lost} saved steps lost, {wrong} wrong restores, {damaged} damaged "
    "checkpoints found out",
    "0, 0",
  )
  assert len(disk.cuts) > 10 * NUM_SAVES
  assert (lost, wrong) == (0, 0)
