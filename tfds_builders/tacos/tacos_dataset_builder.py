"""TFDS builder of TACoS: long kitchen videos with dense sentences."""

from clap_jax.annotations import activitynet, own_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import video_builder

_FILES = {"train": "train", "validation": "val", "test": "test"}

Builder = video_builder.make(
  __name__,
  "Kitchen videos of minutes with many sentences and their moments.",
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads {train,val,test}.json, whose times are frames of a stated rate."""
  del config
  file = AnnotationFile(class_names=[], name_of=activitynet.query_video)
  for split, stem in _FILES.items():
    path = files.find(
      f"tacos/{stem}.json", f"TACoS/{stem}.json", f"{stem}.json"
    )
    own_files.read_json(path, file, subset=split)
  return file
