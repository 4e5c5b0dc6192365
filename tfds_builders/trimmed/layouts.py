"""Reads trimmed datasets in their published layouts.

These are class folders, the split lists of UCF101 and HMDB51, and the CSV files
of Kinetics; `clip_tables` reads custom tables.
"""

import pathlib
import re
from collections.abc import Iterable

from clap_jax.annotations import annotation_file, source_files
from clap_jax.storage import text_tables
from tfds_builders.trimmed import clip_tables
from tfds_builders.trimmed.clips import Clip, ClipList

_UCF101 = re.compile(r"v_(?P<label>[A-Za-z]+)_(?P<group>g\d+)_c\d+")
# Name of the source, class, and visible body part.
_HMDB51_TAGS = r"_[a-z]_(?:nm|cm)_np\w_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+"
_UCF101_LINE = re.compile(r"(\S+)(?:\s+\d+)?")
_UCF101_CLASS = re.compile(r"(\d+)\s+(\S+)")
_HMDB51_LINE = re.compile(r"(\S.*?)\s+([012])")
_HMDB51_SPLITS = {"1": "train", "2": "test"}
_KINETICS = ("youtube_id", "time_start", "time_end")
_SPLIT_FOLDERS = {*annotation_file.SPLITS, "selection"} - {""}


def read(
  files: source_files.SourceFiles | None, names: Iterable[str], *, fold: int
) -> ClipList:
  """Reads the annotations or, without any, the names of the videos.

  Args:
    files: an annotation file or a folder of them, None for class folders.
    names: names of the video files below the folder of videos.
    fold: number of the split lists of UCF101 and HMDB51.

  Raises:
    ValueError: the files are malformed or in no known layout.
    FileNotFoundError: the lists of that fold are missing.
  """
  if files is None:
    return read_folders(names)
  if files.find_all("trainlist*.txt"):
    return read_ucf101(files, fold)
  if files.find_all("*_test_split*.txt"):
    return read_hmdb51(files, fold)
  tables = [
    path for path in files.find_all("*.csv") if _is_kinetics(files, path)
  ]
  if tables:
    return read_kinetics(files, tables)
  if files.root.is_file():
    return clip_tables.read(files)
  raise ValueError(
    f"{files.root} holds none of UCF101's trainlist01.txt, HMDB51's "
    "CLASS_test_split1.txt and Kinetics' CSV files with the columns "
    f"{', '.join(_KINETICS)}; for a table of your own give the file itself"
  )


def is_youtube(files: source_files.SourceFiles | None) -> bool:
  """Returns True if clips have YouTube ids, which may differ only in case."""
  return files is not None and any(
    _is_kinetics(files, path) for path in files.find_all("*.csv")
  )


def _group(stem: str, label: str) -> str:
  """Returns the source of a clip of UCF101 or HMDB51, "" for others."""
  ucf101 = _UCF101.fullmatch(stem)
  if ucf101:
    return f"{ucf101['label']}_{ucf101['group']}"
  hmdb51 = re.fullmatch(rf"(.+)_{re.escape(label)}{_HMDB51_TAGS}", stem)
  return hmdb51[1] if hmdb51 else ""


def read_folders(names: Iterable[str]) -> ClipList:
  """Reads CLASS/FILE, or SPLIT/CLASS/FILE if all outer folders are splits."""
  found = ClipList()
  parts = {name: pathlib.PurePosixPath(name).parts for name in names}
  deep = [own for own in parts.values() if len(own) > 1]
  has_splits = bool(deep) and all(
    own[0].lower() in _SPLIT_FOLDERS and len(own) > 2 for own in deep
  )
  for name, own in parts.items():
    subset = annotation_file.split_of(own[0]) if has_splits else None
    folders = own[1:-1] if has_splits else own[:-1]
    stem = pathlib.PurePosixPath(name).stem
    flat = _UCF101.fullmatch(stem)
    if len(folders) == 1:
      label = folders[0]
    elif not folders and flat:
      label = flat["label"]
    else:
      found.file.reject(
        name,
        name,
        "not in a folder of its class: expected CLASS/FILE or "
        "train/CLASS/FILE below the folder of videos",
      )
      continue
    group = _group(stem, label) or name
    found.add(Clip(name, label, name, subset=subset, group=group))
  found.check_groups()
  return found


def read_ucf101(files: source_files.SourceFiles, fold: int) -> ClipList:
  """Reads trainlistNN.txt, testlistNN.txt and the class order of classInd.txt.

  Raises:
    ValueError: a group is in both lists.
    FileNotFoundError: the lists are missing.
  """
  found = ClipList()
  for subset in ("train", "test"):
    path = files.find(f"{subset}list{fold:02d}.txt")
    for where, line in source_files.load_lines(path):
      match = _UCF101_LINE.fullmatch(line)
      name = match[1] if match else ""
      label, _, file_name = name.rpartition("/")
      if not label:
        found.file.reject(where, line, "not CLASS/FILE.avi", split=subset)
        continue
      stem = pathlib.PurePosixPath(file_name).stem
      group = _group(stem, label) or name
      found.add(Clip(name, label, where, subset=subset, group=group))
  found.check_groups()
  classes = files.find_optional("classInd.txt")
  if classes is not None:
    found.file.class_names = _class_order(classes, found)
  return found


def _class_order(path, found) -> list[str]:
  numbers = {}
  for where, line in source_files.load_lines(path):
    match = _UCF101_CLASS.fullmatch(line)
    if match is None:
      raise ValueError(f"{where}: got {line[:80]!r}, expected NUMBER CLASS")
    numbers[match[2]] = int(match[1])
  missing = sorted({c.label for c in found.clips.values()} - set(numbers))
  if missing:
    raise ValueError(f"{path.name} lacks the class {missing[0]!r} of the lists")
  return sorted(numbers, key=numbers.get)


def read_hmdb51(files: source_files.SourceFiles, fold: int) -> ClipList:
  """Reads CLASS_test_splitN.txt: 1 is train, 2 is test, 0 is left out.

  Raises:
    FileNotFoundError: the lists of that fold are missing.
  """
  found, suffix = ClipList(), f"_test_split{fold}.txt"
  paths = files.find_all(f"*{suffix}")
  if not paths:
    raise FileNotFoundError(f"no list CLASS{suffix} under {files.root}")
  for path in paths:
    label = files.use(path).name.removesuffix(suffix)
    for where, line in source_files.load_lines(path):
      match = _HMDB51_LINE.fullmatch(line)
      if match is None:
        found.file.reject(where, line, "not FILE.avi and 0, 1 or 2")
        continue
      name, kind = f"{label}/{match[1]}", match[2]
      if kind not in _HMDB51_SPLITS:
        found.file.excluded.append(
          {"id": name, "split": "train", "reason": f"{where}: in no split"}
        )
        continue
      stem = pathlib.PurePosixPath(match[1]).stem
      found.add(
        Clip(
          name,
          label,
          where,
          subset=_HMDB51_SPLITS[kind],
          group=_group(stem, label) or name,
        )
      )
  return found


def _kinetics_table(files, path):
  return text_tables.read_table(
    path,
    columns=(*_KINETICS, "label", "split"),
    encoding=files.encoding,
  )


def _is_kinetics(files, path) -> bool:
  return set(_KINETICS) <= _kinetics_table(files, path).columns


def read_kinetics(
  files: source_files.SourceFiles, paths: Iterable[pathlib.Path]
) -> ClipList:
  """Reads rows of label, youtube_id, time_start, time_end, split.

  The times are those of the source: the trimmed file is
  <youtube_id>_<start>_<end> with six digits each, in any folder.
  """
  found = ClipList()
  for path in paths:
    stem = path.stem.lower()
    of_file = stem if stem in _SPLIT_FOLDERS else None
    for row in _kinetics_table(files, files.use(path)):
      where = f"{path.name} line {row.line}"
      cells = row.cells
      video = cells["youtube_id"]
      try:
        subset = cells.get("split") or of_file
        subset = subset and annotation_file.split_of(subset)
        times = [text_tables.seconds(cells[key]) for key in _KINETICS[1:]]
        if not video or row.surplus:
          raise ValueError("no youtube_id, or more cells than columns")
        if not cells.get("label"):
          raise ValueError("no label")
      except ValueError as error:
        found.file.reject(where, video, str(error))
        continue
      name = "_".join([video, *(f"{int(time):06d}" for time in times)])
      found.add(Clip(name, cells["label"], where, subset=subset, group=video))
  return found
