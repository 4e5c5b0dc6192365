"""Saves and restores checkpoints through Orbax, with verified manifests.

Layout: `<directory>/<step>/{params,rest}/` by Orbax and `manifest.json` written
last. A damaged step is moved to `<directory>.damaged/`. The directory may be in
a bucket: a move is then a copy within it and a deletion.
"""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from clap_jax.storage import locations, objects, output
from clap_jax.training import manifest, paths, processes, step_folders

# Orbax warns at every part of a step that is read alone: the metadata lie
# beside the parts, in the folder of the step.
logging.getLogger("absl").addFilter(
  lambda record: "_CHECKPOINT_METADATA" not in record.getMessage()
)

CHECKPOINT_DIRECTORY = "checkpoints"
_PARAMS, _REST = "params", "rest"
_PARAMS_PREFIX, _EMA_PREFIX = "params/", "ema/"


class CheckpointError(RuntimeError):
  """Raised if there are checkpoints, but none can be restored."""


class SaveError(RuntimeError):
  """Raised if a checkpoint cannot be written; earlier ones are intact."""


class TreeMismatchError(ValueError):
  """Raised for a checkpoint of another model, optimizer or precision."""


class Restored(NamedTuple):
  state: Any
  step: int
  metadata: dict[str, Any]


class Checkpoints:
  """Saves in the background, keeps the newest, restores verified ones.

  At most one save is in progress. Call `poll` every step: it finalizes a
  completed save and raises background errors. An older checkpoint is deleted
  only after a newer one has its manifest. A full disk, lost permissions and
  similar errors raise a SaveError in `save`, `poll`, `wait` or `close`.
  """

  def __init__(
    self,
    directory: locations.Location,
    *,
    keep: int,
    check: Callable[[], None] | None = None,
  ):
    """Opens the directory and removes interrupted saves.

    Args:
      directory: directory of the checkpoints, created if missing.
      keep: number of newest checkpoints to keep.
      check: raises an OSError if writing is no longer allowed.
    """
    self._check = check
    # Cleaning up through a link would remove other folders of the user.
    self._directory = output.make_folder(locations.at(directory).absolute())
    self._keep = keep
    self._pending: tuple[int, dict, dict] | None = None
    self._sealing: threading.Thread | None = None
    self._sealing_error: BaseException | None = None
    self._latest: int | None = None  # step whose save was begun last
    # Steps not to be saved again. Process 0 lists them for all.
    self._saved = set(
      processes.broadcast_from_first("clean up the checkpoints", self._clean_up)
    )
    self._manager = ocp.CheckpointManager(
      step_folders.for_orbax(self._directory),
      options=ocp.CheckpointManagerOptions(
        # This class decides what to keep, by the manifests.
        max_to_keep=None,
        should_save_fn=lambda *_: True,
        cleanup_tmp_directories=True,
      ),
    )

  def steps(self) -> list[int]:
    """Returns the steps of complete checkpoints, oldest first."""
    return complete_steps(self._directory)

  def save(self, step: int, state: Any, *, metadata: Mapping) -> None:
    """Starts to save `state`, unless its checkpoint is complete."""
    self.wait()
    if step in self._saved:
      return
    self._saved.add(step)
    self._latest = step
    flat = paths.flatten(state)
    items = {
      name: ocp.args.StandardSave(paths.nest(arrays))
      for name, arrays in _split(flat).items()
    }
    with self._explained():
      if self._check is not None:
        self._check()
      saved = self._manager.save(
        step, args=ocp.args.Composite(**items), force=True
      )
    if not saved:
      raise CheckpointError(f"Orbax did not save step {step}.")
    tree = {name: _spec_of(leaf) for name, leaf in flat.items()}
    # Batch n is consumed by step n + 1, so the step is the data's position.
    record = {"step": step, "data_position": step, **metadata}
    self._pending = (step, tree, record)

  def poll(self) -> None:
    """Finalizes a completed save, without blocking."""
    with self._explained():
      self._raise_sealing_error()
      self._manager.check_for_errors()
    if self._pending and not self._manager.is_saving_in_progress():
      self._start_sealing()

  def wait(self) -> None:
    """Waits until no save is in progress."""
    with self._explained():
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
      if self._pending:
        self._start_sealing()
      if self._sealing is not None:
        self._sealing.join()
        self._sealing = None
      self._raise_sealing_error()

  def close(self) -> None:
    try:
      self.wait()
    finally:
      self._manager.close()

  def restore(self, abstract_state: Any) -> Restored | None:
    """Restores the newest intact state; None if there is no checkpoint.

    A damaged checkpoint is moved away, with a message on standard error, and
    the previous one is used.

    Args:
      abstract_state: a pytree of jax.ShapeDtypeStruct with the shardings of the
        restored arrays, whatever they were when saved.

    Raises:
      CheckpointError: all checkpoints are damaged.
      TreeMismatchError: the newest intact one has another tree.
    """
    self.wait()
    step = processes.broadcast_from_first(
      "find a checkpoint", self._newest_good
    )
    self._manager.reload()
    if step is None:
      return None
    self._saved = {saved for saved in self._saved if saved <= step}
    directory = self._directory / str(step)
    body = manifest.read_manifest(directory)
    state = _read_state(directory, abstract_state, body["tree"])
    return Restored(state, step, body["metadata"])

  def discard_from(self, step: int) -> int | None:
    """Deletes the checkpoints from `step` on; returns the newest remaining."""
    self.wait()

    def discard():
      for later in self.steps():
        if later >= step:
          step_folders.remove(self._directory / str(later))
      return max(self.steps(), default=None)

    newest = processes.broadcast_from_first("delete checkpoints", discard)
    self._manager.reload()
    self._saved = {saved for saved in self._saved if saved < step}
    return newest

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Explains errors of saving: Orbax raises a ValueError for a full disk."""
    try:
      yield
    except Exception as error:
      is_refusal = isinstance(error, OSError | ValueError)
      if not is_refusal and not objects.is_refusal(error):
        raise
      raise SaveError(
        f"The checkpoint of step {self._latest} in {self._directory} could not "
        f"be written: {error}\nEarlier checkpoints are intact: run the same "
        "command again once the cause is gone."
      ) from error

  def _clean_up(self) -> list[int]:
    step_folders.remove_interrupted(self._directory)
    return self.steps()

  def _newest_good(self) -> int | None:
    """Returns the newest intact step; moves damaged ones away."""
    reasons = []
    for step in reversed(self.steps()):
      directory = self._directory / str(step)
      try:
        manifest.verify(directory)
      except manifest.DamagedCheckpointError as error:
        reasons.append(f"step {step}: {error}")
        moved = step_folders.move_away(directory)
        print(
          f"checkpoint of step {step} is damaged ({error}); moved to {moved}, "
          "falling back to the previous one",
          file=sys.stderr,
        )
        continue
      return step
    if reasons:
      raise CheckpointError(_none_good(self._directory, reasons))
    return None

  def _start_sealing(self) -> None:
    """Writes the manifest in a thread, since it reads the whole save."""
    assert self._pending is not None  # as the callers check
    step, tree, metadata = self._pending
    self._pending = None
    self._sealing = threading.Thread(
      target=self._seal, args=(step, tree, metadata), name="checkpoint-seal"
    )
    self._sealing.start()

  def _seal(self, step, tree, metadata) -> None:
    try:
      directory = self._directory / str(step)
      if processes.is_first():
        if self._check is not None:
          self._check()
        manifest.write_manifest(directory, tree=tree, metadata=metadata)
        for old in self.steps()[: -self._keep]:
          step_folders.remove(self._directory / str(old))
    except BaseException as error:  # surfaces in the caller's thread
      self._sealing_error = error

  def _raise_sealing_error(self) -> None:
    if self._sealing_error is not None:
      error, self._sealing_error = self._sealing_error, None
      raise error


def write_params(directory: locations.Location, params: Any) -> None:
  """Writes parameters only, for `restore_params`; replaces existing ones.

  Args:
    directory: directory of a run, which gets the checkpoint.
    params: nested dict of arrays.
  """
  target = locations.at(directory) / CHECKPOINT_DIRECTORY
  if target.is_dir():
    output.remove_tree(target)
  checkpoints = Checkpoints(target, keep=1)
  try:
    checkpoints.save(0, {_PARAMS: params}, metadata={})
  finally:
    checkpoints.close()


def complete_steps(directory: locations.Location) -> list[int]:
  """Returns the steps with a manifest, oldest first."""
  return sorted(
    int(path.name)
    for path in step_folders.step_directories(directory)
    if manifest.has_manifest(path)
  )


def restore_params(
  directory: locations.Location, *, use_ema: bool | None = False
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Restores parameters of the newest intact checkpoint, for inference.

  Nothing is moved or changed; a damaged checkpoint is skipped with a message on
  standard error.

  Args:
    directory: directory of the checkpoints or of the run.
    use_ema: whether to restore the moving average; None restores it if the
      checkpoint has one.

  Returns:
    (nested dict of NumPy arrays, metadata of the checkpoint).

  Raises:
    FileNotFoundError: there is no complete checkpoint.
    CheckpointError: all are damaged.
    ValueError: the checkpoint has no moving average.
  """
  directory = locations.at(directory).absolute()
  if (directory / CHECKPOINT_DIRECTORY).is_dir():
    directory = directory / CHECKPOINT_DIRECTORY
  if not complete_steps(directory):
    raise FileNotFoundError(
      f"No complete checkpoint in {directory}: train first, or give the "
      "directory of a run."
    )
  reasons = []
  for step in reversed(complete_steps(directory)):
    try:
      body = manifest.verify(directory / str(step))
    except manifest.DamagedCheckpointError as error:
      reasons.append(f"step {step}: {error}")
      print(f"checkpoint of step {step} is damaged: {error}", file=sys.stderr)
      continue
    if use_ema is None:
      use_ema = any(name.startswith(_EMA_PREFIX) for name in body["tree"])
    prefix = _EMA_PREFIX if use_ema else _PARAMS_PREFIX
    tree = {n: s for n, s in body["tree"].items() if n.startswith(prefix)}
    if not tree:
      raise ValueError(
        f"The checkpoint {directory / str(step)} has no "
        f"{prefix.rstrip('/')}: it was trained without."
      )
    item = _REST if use_ema else _PARAMS
    abstract = {n: _as_numpy_target(s) for n, s in tree.items()}
    flat = _read_item(directory / str(step) / item, abstract, body["tree"])
    nested = paths.nest({n: flat[n] for n in tree})
    return nested[prefix.rstrip("/")], body["metadata"]
  raise CheckpointError(_none_good(directory, reasons))


def tree_differences(
  saved: Mapping[str, Any], expected: Mapping[str, Any]
) -> list[str]:
  """Lists arrays that are missing, unexpected, or of another shape."""
  lines = []
  for name in sorted(saved.keys() | expected.keys()):
    before, now = saved.get(name), expected.get(name)
    if before is None:
      lines.append(f"{name}: not in the checkpoint, expected {_show(now)}")
    elif now is None:
      lines.append(f"{name}: in the checkpoint {_show(before)}, not expected")
    elif list(before) != list(now):
      lines.append(f"{name}: {_show(before)} saved, {_show(now)} expected")
  return lines


def _read_state(directory, abstract_state, tree) -> Any:
  abstract = paths.flatten(abstract_state)
  expected = {name: _spec_of(leaf) for name, leaf in abstract.items()}
  differences = tree_differences(tree, expected)
  if differences:
    lines = "".join(f"\n  {line}" for line in differences)
    raise TreeMismatchError(
      f"The checkpoint {directory} is of another tree:{lines}\nUse the config "
      "it was made with, or another directory."
    )
  flat = {}
  for item, targets in _split(abstract).items():
    flat |= _read_item(directory / item, targets, tree)
  leaves = [flat[name] for name in abstract]
  return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)


def _read_item(directory, targets, tree) -> dict[str, Any]:
  """Reads the arrays of an item by name; as NumPy without a target."""
  item = directory.name
  members = {
    n: _as_numpy_target(s) for n, s in tree.items() if _item(n) == item
  }
  nested = paths.nest({**members, **targets})
  arguments = jax.tree.map(_restore_args, nested)
  handler = ocp.PyTreeCheckpointHandler()
  with ocp.Checkpointer(handler) as checkpointer:
    _check_stored(checkpointer, directory, tree)
    restored = checkpointer.restore(
      step_folders.for_orbax(directory),
      args=ocp.args.PyTreeRestore(item=nested, restore_args=arguments),
    )
  return paths.flatten(restored)


def _check_stored(checkpointer, directory, tree) -> None:
  """Compares the headers of arrays with the manifest, before reading.

  Raises:
    CheckpointError: the shape of an array differs from the manifest.
  """
  stored = checkpointer.metadata(
    step_folders.for_orbax(directory)
  ).item_metadata.tree
  for name, leaf in paths.flatten(stored).items():
    if name in tree and list(leaf.shape) != list(tree[name][0]):
      raise CheckpointError(
        f"{directory}: {name} is stored with shape {list(leaf.shape)}, its "
        f"manifest says {tree[name][0]}"
      )


def _restore_args(target) -> ocp.RestoreArgs:
  if isinstance(target, np.ndarray):
    return ocp.RestoreArgs(restore_type=np.ndarray)
  return ocp.ArrayRestoreArgs(
    sharding=target.sharding, global_shape=target.shape, dtype=target.dtype
  )


def _as_numpy_target(spec) -> np.ndarray:
  """Returns a placeholder, without memory, of an array to read as NumPy."""
  shape, dtype = spec
  return np.broadcast_to(np.zeros((), np.dtype(dtype)), shape)


def _split(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  items: dict[str, dict[str, Any]] = {_PARAMS: {}, _REST: {}}
  for name, leaf in flat.items():
    items[_item(name)][name] = leaf
  return {item: leaves for item, leaves in items.items() if leaves}


def _item(name: str) -> str:
  return _PARAMS if name.startswith(_PARAMS_PREFIX) else _REST


def _spec_of(leaf) -> list:
  return [list(leaf.shape), str(leaf.dtype)]


def _show(spec) -> str:
  return f"{spec[1]}{list(spec[0])}"


def _none_good(directory: locations.Location, reasons: list[str]) -> str:
  lines = "".join(f"\n  {reason}" for reason in reasons)
  return (
    f"No checkpoint in {directory} can be restored:{lines}\nDelete the run's "
    "directory to start over."
  )
