"""TFDS builder of THUMOS14, the temporal detection task of 20 classes.

The splits have their official names: systems train on `validation` and test on
`test`.
"""

from clap_jax.annotations import (
  annotation_file,
  own_files,
  source_files,
  thumos,
)
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import video_builder

# The annotations of one belong to another, longer video; the other has none.
EXCLUDED = {
  "video_test_0000270": "its annotations run far beyond its end: wrong labels",
  "video_test_0001292": "no segment of any class, only ambiguous ones",
}
AMBIGUOUS = "Ambiguous"
_SPLITS = {"val": "validation", "test": "test"}

Builder = video_builder.make(
  __name__,
  "Untrimmed sports videos with segments of 20 actions.",
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads the official text files, or else a JSON file of the community.

  Only the text files have the ambiguous spans, which are neither action nor
  background; they are read in addition to a JSON file if found.
  """
  del config
  file = _ThumosFile()
  texts = [
    (path, split)
    for end, split in _SPLITS.items()
    for path in files.find_all(f"[A-Z]*_{end}.txt")
  ]
  classes = [t for t in texts if not t[0].name.startswith(AMBIGUOUS)]
  if classes:
    for path, split in classes:
      thumos.read_class(files.use(path), file, split)
  else:
    own_files.read_json(files.find("thumos14*.json", "thumos_*.json"), file)
  for path, split in texts:
    if path.name.startswith(AMBIGUOUS):
      _read_ambiguous(file, files.use(path), split)
  for pattern in ("thumos14_valid_metadata.csv", "thumos14_test_metadata.csv"):
    _expect_lengths(file, files.find_optional(pattern))
  for name, reason in EXCLUDED.items():
    if name in file.entries:
      file.exclude(name, reason)
  return file


def _read_ambiguous(file, path, split):
  for where, video, start, end in thumos.read_lines(path, file):
    entry = file.entries.get(video)
    if entry is None:
      if not any(note["id"] == video for note in file.excluded):
        reason = EXCLUDED.get(video, "only ambiguous segments")
        file.excluded.append({"id": video, "split": split, "reason": reason})
      file.count(split, "ambiguous")
      continue
    span = (start, end, AMBIGUOUS)
    file.add(entry, "ambiguous", span=span, where=where)


class _ThumosFile(AnnotationFile):
  """Annotations of community JSON files, which name validation "training"."""

  def split_of(self, value: object) -> str:
    split = super().split_of(value)
    return "validation" if split == "train" else split

  def add(self, entry, kind, *, span, where, query="") -> None:
    kind = "ambiguous" if span[2] == AMBIGUOUS else kind
    super().add(entry, kind, span=span, where=where, query=query)


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
