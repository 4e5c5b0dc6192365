"""TFDS builder of Ego4D's moments (MQ) and natural-language queries (NLQ).

A video is a clip of the benchmark, named by its clip_uid.
"""

from clap_jax.annotations import ego4d, source_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.annotations.source_files import SourceFiles
from tfds_builders import names, video_builder

_STEMS = {"mq": "moments", "nlq": "nlq"}

Builder = video_builder.make(
  __name__,
  "Egocentric clips of minutes with segments of activities or with questions.",
  configs=names.ANNOTATED["ego4d"],
)


def read(files: SourceFiles, config: str) -> AnnotationFile:
  """Reads {moments,nlq}_{train,val}.json and, if found, the test file.

  The test files, *_test_unannotated.json, hold no answers.
  """
  file = AnnotationFile(class_names=[] if config == "nlq" else None)
  stem = _STEMS[config]
  for split, (find, end) in {
    "train": (files.find, "train"),
    "validation": (files.find, "val"),
    "test": (files.find_optional, "test_unannotated"),
  }.items():
    path = find(f"{stem}_{end}.json")
    if path is None:
      continue
    document = source_files.load_json(path)
    if config == "mq":
      ego4d.read_moments(document, file, path=path, subset=split)
    else:
      ego4d.read_queries(
        document, file, path=path, subset=split, are_answered=split != "test"
      )
  return file
