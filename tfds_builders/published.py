"""Converts published annotations to ActivityNet-style JSON.

For those who have features and no videos: what a builder reads, without it.
"""

import importlib
import os
import pathlib
import types

from clap_jax.annotations import source_files
from tfds_builders import names

# Each video stands in one split there.
NAMES = tuple(
  "/".join(filter(None, (name, config)))
  for name, configs in names.ANNOTATED.items()
  for config in configs
  if (name, config) != ("activitynet", "captions")
)


def builder_module(base: str) -> types.ModuleType:
  """The module of a dataset's builder; `read` in it reads annotations."""
  return importlib.import_module(f"tfds_builders.{base}.{base}_dataset_builder")


def convert(
  path: str | os.PathLike, name: str
) -> tuple[dict, list[dict], list[str]]:
  """(ActivityNet-style JSON, rejected spans, notes) of a file or a folder.

  A captioned span is an annotation with a "caption" in the place of a "label".
  Videos without any span are left out.

  Args:
    path: the annotations as their authors publish them.
    name: one of NAMES.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: an unknown name, files that are not in shape, or no span.
  """
  if name not in NAMES:
    raise ValueError(f"unknown dataset {name!r}; choose {', '.join(NAMES)}")
  base, _, config = name.partition("/")
  files = source_files.SourceFiles(pathlib.Path(path))
  file = builder_module(base).read(files, config)
  database, lengthless = {}, 0
  for entry in file.entries.values():
    spans = [
      {"segment": [span.start_sec, span.end_sec], key: span.text}
      for key, own in (("label", entry.segments), ("caption", entry.captions))
      for span in own
    ]
    if not spans:
      continue
    video: dict = {"subset": entry.subset}
    if entry.expected_duration_sec is not None:
      video["duration"] = entry.expected_duration_sec
    else:
      lengthless += 1
    database[entry.name] = video | {"annotations": spans}
  if not database:
    raise ValueError(
      f"{path}: no usable span of {name}; {len(file.rejected)} rejected"
    )
  rejected = [
    {key: note[key] for key in ("where", "video", "reason")}
    for note in file.rejected
  ]
  notes = []
  if lengthless:
    notes.append(
      f"{lengthless} videos have no duration there; training needs it: name a "
      "CSV with the columns id and length in data.durations"
    )
  return {"source": name, "database": database}, rejected, notes
