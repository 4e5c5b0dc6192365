"""Lists a run's checkpoint folders on disk or in a bucket."""

import pathlib
import re

from clap_jax.storage import locations, objects, output
from clap_jax.storage.locations import ObjectPath
from clap_jax.training import manifest


def step_directories(
  directory: locations.Location,
) -> list[locations.Location]:
  if isinstance(directory, ObjectPath):
    return [
      path
      for path in directory.folders()
      if re.fullmatch(r"[0-9]{1,12}", path.name)
    ]
  if not directory.is_dir():
    return []
  return [
    path
    for path in directory.iterdir()
    if re.fullmatch(r"[0-9]{1,12}", path.name)
    and path.is_dir()
    and not path.is_symlink()
  ]


def remove_interrupted(directory: locations.Location) -> None:
  """Removes the steps without a manifest."""
  for path in step_directories(directory):
    if not manifest.has_manifest(path):
      output.remove_tree(path)


def remove(directory: locations.Location) -> None:
  """Removes the folder of one step."""
  # Without its manifest first, a half removed checkpoint counts as none.
  (directory / manifest.MANIFEST_FILE).unlink()
  output.remove_tree(directory)


def move_away(directory: locations.Location) -> locations.Location:
  """Moves the folder of a damaged step next to the checkpoints."""
  root = directory.parent.with_name(f"{directory.parent.name}.damaged")
  output.make_folder(root)
  target = root / f"{directory.name}-{len(list(root.iterdir()))}"
  if isinstance(directory, ObjectPath) and isinstance(target, ObjectPath):
    objects.copy_all(directory.scheme, directory.key, target.key)
    remove(directory)
    return target
  return pathlib.Path(str(directory)).rename(str(target))


def for_orbax(directory: locations.Location) -> pathlib.Path | str:
  """Returns the path for Orbax, which takes buckets as addresses."""
  return str(directory) if isinstance(directory, ObjectPath) else directory
