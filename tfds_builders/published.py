"""Converts published annotations to ActivityNet-style JSON.

It serves users who have features but no videos to build.
"""

import os
import pathlib

from clap_jax.annotations import source_files
from tfds_builders import names
from tfds_builders.tool_exports import converting

# In these datasets each video is in one split.
NAMES = tuple(
  "/".join(filter(None, (name, config)))
  for name, configs in names.ANNOTATED.items()
  for config in configs
  if (name, config) != ("activitynet", "captions")
)


def convert(path: str | os.PathLike, name: str) -> converting.Converted:
  """Reads a file or a folder of annotations.

  Args:
    path: the annotations as published by their authors.
    name: one of NAMES.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: the name is unknown, a file is malformed, or no span is usable.
  """
  if name not in NAMES:
    raise ValueError(f"unknown dataset {name!r}; choose {', '.join(NAMES)}")
  base, _, config = name.partition("/")
  files = source_files.SourceFiles(pathlib.Path(path))
  file = names.builder_module(base).read(files, config)
  found = converting.converted(file, name, [])
  database = found.document["database"]
  if not database:
    raise ValueError(
      f"{path}: no usable span of {name}; {len(file.rejected)} rejected"
    )
  lengthless = sum("duration" not in video for video in database.values())
  if lengthless:
    found.notes.append(
      f"{lengthless} videos have no duration, which training needs: name a "
      "CSV with the columns id and length in data.durations"
    )
  return found
