"""TFDS builder of THUMOS14, the temporal detection task of 20 classes.

The splits have their official names: systems train on `validation` and test on
`test`.
"""

import re

from clap_jax.annotations import annotation_file, source_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import video_builder

# Its annotations belong to another, longer video; and one has none at all.
EXCLUDED = {
  "video_test_0000270": "its annotations run far beyond its end: wrong labels",
  "video_test_0001292": "no segment of any class, only ambiguous ones",
}
AMBIGUOUS = "Ambiguous"
_SPLITS = {"val": "validation", "test": "test"}
_JSON_SPLITS = {
  "validation": "validation",
  "train": "validation",
  "training": "validation",
  "test": "test",
  "testing": "test",
}
_LINE = re.compile(r"(\S+)\s+(\S+)\s+(\S+)")


Builder = video_builder.make(
  __name__,
  "Untrimmed sports videos with segments of 20 actions.",
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads the official text files, or else a JSON file of the community.

  Only the text files have the ambiguous spans, which are neither action nor
  background; they are read beside a JSON file too where they are found.
  """
  del config
  file = AnnotationFile()
  texts = [
    (path, split)
    for end, split in _SPLITS.items()
    for path in files.find_all(f"[A-Z]*_{end}.txt")
  ]
  classes = [t for t in texts if not t[0].name.startswith(AMBIGUOUS)]
  if classes:
    for path, split in classes:
      _read_text(file, files.use(path), split)
  else:
    _read_json(file, files.find("thumos14*.json", "thumos_*.json"))
  for path, split in texts:
    if path.name.startswith(AMBIGUOUS):
      _read_ambiguous(file, files.use(path), split)
  for pattern in ("thumos14_valid_metadata.csv", "thumos14_test_metadata.csv"):
    _expect_lengths(file, files.find_optional(pattern))
  for name, reason in EXCLUDED.items():
    if name in file.entries:
      file.exclude(name, reason)
  return file


def _lines(file, path):
  """(place, video, start, end) of the lines of one official file."""
  for where, line in source_files.load_lines(path):
    match = _LINE.fullmatch(line)
    if match:
      yield (where, *match.groups())
    else:
      file.reject(where, line, "not a line of VIDEO START END")


def _read_text(file, path, split):
  label = path.stem.rpartition("_")[0]
  for where, video, start, end in _lines(file, path):
    entry = file.entry(video, split, where)
    span = (start, end, label)
    file.add(entry, "segments", span=span, where=where)


def _read_ambiguous(file, path, split):
  for where, video, start, end in _lines(file, path):
    entry = file.entries.get(video)
    if entry is None:
      if not any(note["id"] == video for note in file.excluded):
        reason = EXCLUDED.get(video, "only ambiguous segments")
        file.excluded.append({"id": video, "split": split, "reason": reason})
      file.count(split, "ambiguous")
      continue
    span = (start, end, AMBIGUOUS)
    file.add(entry, "ambiguous", span=span, where=where)


def _read_json(file, path):
  document = source_files.load_json(path)
  database = document.get("database") if isinstance(document, dict) else None
  if not isinstance(database, dict):
    raise ValueError(f'{path} has no "database" with an object of videos')
  for name, value in database.items():
    where = f"database.{name[:100]}"
    split = _JSON_SPLITS.get(str(value.get("subset")).lower())
    if split is None:
      file.reject(where, name, f"unknown subset {value.get('subset')!r}")
      continue
    entry = file.entry(name, split, where)
    entry.expected_duration_sec = annotation_file.positive(
      value.get("duration")
    )
    for index, note in enumerate(value.get("annotations", [])):
      kind = "ambiguous" if note.get("label") == AMBIGUOUS else "segments"
      file.add(
        entry,
        kind,
        span=(*annotation_file.pair(note.get("segment")), note.get("label")),
        where=f"{where}.annotations[{index}]",
      )


def _expect_lengths(file, path):
  if path is None:
    return
  rows = source_files.load_rows(
    path, columns=("filename", "video-duration", "video-frames")
  )
  for _, row in rows:
    entry = file.entries.get(row["filename"].removesuffix(".mp4"))
    if entry:
      duration_sec = annotation_file.positive(row["video-duration"])
      frames = annotation_file.positive(row["video-frames"])
      entry.expected_duration_sec = duration_sec
      entry.expected_frames = round(frames) if frames else None
