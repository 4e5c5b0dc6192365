"""TFDS builder of Charades-STA: sentences with their moments in Charades.

There is no validation split: build with `selection_percent`, so that no
checkpoint is selected on `test`.
"""

from clap_jax.annotations import annotation_file, own_files, source_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import video_builder

_SPLITS = ("train", "test")

Builder = video_builder.make(
  __name__,
  "Videos of everyday activities at home with sentences and their moments.",
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads charades_sta_{train,test}.txt; lengths from Charades_v1_*.csv."""
  del config
  file = AnnotationFile(class_names=[])
  for split in _SPLITS:
    path = files.find(f"charades_sta_{split}.txt")
    own_files.read_sentences(path, file, subset=split)
    lengths = files.find_optional(f"Charades_v1_{split}.csv")
    if lengths is not None:
      for _, row in source_files.load_rows(lengths, columns=("id", "length")):
        entry = file.entries.get(row["id"])
        if entry:
          duration_sec = annotation_file.positive(row["length"])
          entry.expected_duration_sec = duration_sec
  return file
