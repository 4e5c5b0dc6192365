"""TFDS builder of TACoS: long kitchen videos with dense sentences."""

from clap_jax.annotations import annotation_file, source_files
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
  file = AnnotationFile(class_names=[])
  for split, stem in _FILES.items():
    path = files.find(
      f"tacos/{stem}.json", f"TACoS/{stem}.json", f"{stem}.json"
    )
    document = source_files.load_json(path)
    if not isinstance(document, dict):
      raise ValueError(f"{path} is not an object of videos")
    for key, value in document.items():
      _read_video(file, key, value, split=split)
  return file


def _read_video(file, key, value, *, split):
  where = f"{split}.{key[:100]}"
  value = value if isinstance(value, dict) else {}
  fps = annotation_file.positive(value.get("fps"))
  frames = annotation_file.positive(value.get("num_frames"))
  times, texts = value.get("timestamps"), value.get("sentences")
  is_whole = isinstance(times, list) and isinstance(texts, list) and fps
  if not is_whole or len(times) != len(texts):
    file.reject(
      where, key, "no fps, or not as many timestamps as sentences", split=split
    )
    return
  entry = file.entry(key.removesuffix(".avi"), split, where)
  if frames:
    entry.expected_frames = round(frames)
    entry.expected_duration_sec = frames / fps
  for index, (frame_span, text) in enumerate(zip(times, texts, strict=True)):
    start, end = annotation_file.pair(frame_span)
    is_number = all(isinstance(x, (int, float)) for x in (start, end))
    span = (start / fps, end / fps, text) if is_number else (None, None, None)
    file.add(entry, "captions", span=span, where=f"{where}[{index}]")
