"""Reads THUMOS14's text: a file <class>_<val or test>.txt per class."""

from collections.abc import Iterator

from clap_jax.annotations import source_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.storage import locations


def read_lines(
  path: locations.Location, file: AnnotationFile
) -> Iterator[tuple[str, str, str, str]]:
  """Yields (location, video, start, end) of the lines; rejects others."""
  for where, line in source_files.load_lines(path):
    fields = line.split()
    if len(fields) == 3:
      yield where, fields[0], fields[1], fields[2]
    else:
      got = f"got {line[:60]!r}; expected a line of VIDEO START END"
      file.reject(where, "", got)


def read_class(
  path: locations.Location, file: AnnotationFile, subset: str
) -> None:
  """Adds the segments of a file named by its class."""
  label = path.stem.rpartition("_")[0]
  for where, video, start, end in read_lines(path, file):
    entry = file.entry(video, subset, where)
    file.add(entry, "segments", span=(start, end, label), where=where)


def read_folder(folder: locations.Location, file: AnnotationFile) -> None:
  """Adds the segments of all files."""
  for path in sorted(folder.glob("*_*.txt")):
    read_class(path, file, path.stem.rpartition("_")[2])
