"""Defines the examples of a dataset: one record per video."""

import dataclasses

import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

_ALWAYS_PRESENT = frozenset(
  ("id", "video", "fps", "duration_sec", "num_frames", "height", "width")
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleInfo:
  """Metadata of an untrimmed video; times are seconds from its start."""

  index: int  # position in the split
  id: str
  fps: float
  duration_sec: float
  num_frames: int
  height: int
  width: int
  segments: np.ndarray  # float32 (n, 2)
  labels: np.ndarray  # int32 (n,)
  captions: tuple[tuple[float, float, str], ...]  # (start, end, text)
  background: np.ndarray  # float32 (m, 2): spans that no action covers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(ExampleInfo):
  """`ExampleInfo` with the encoded video, one complete file as bytes."""

  video: bytes

  def info(self) -> ExampleInfo:
    """Returns the metadata without the video."""
    names = [field.name for field in dataclasses.fields(ExampleInfo)]
    return ExampleInfo(**{name: getattr(self, name) for name in names})


def parse(data: bytes, index: int) -> Example:
  """Parses a serialized tf.train.Example with TFDS's field names.

  TFDS's own reader interprets its feature spec and takes five times as long,
  which matters when a run starts with a million examples.
  """
  # The class is made on import, where the checker does not see it.
  kind = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
  fields = kind.FromString(data).features.feature
  if absent := _ALWAYS_PRESENT - fields.keys():
    raise ValueError(f"no {', '.join(sorted(absent))}")

  def integer(name: str) -> int:
    return int(fields[name].int64_list.value[0])

  def real(name: str) -> float:
    return float(fields[name].float_list.value[0])

  def spans(name: str) -> np.ndarray:
    starts = fields[f"{name}/start_sec"].float_list.value
    ends = fields[f"{name}/end_sec"].float_list.value
    return np.array([starts, ends], np.float32).T.copy()

  segments, captions = spans("segments"), spans("captions")
  labels = np.array(fields["segments/label"].int64_list.value, np.int32)
  texts = fields["captions/text"].bytes_list.value
  if len(labels) != len(segments):
    raise ValueError(f"{len(labels)} labels of {len(segments)} segments")
  return Example(
    index=index,
    id=fields["id"].bytes_list.value[0].decode("utf-8"),
    video=fields["video"].bytes_list.value[0],
    fps=real("fps"),
    duration_sec=real("duration_sec"),
    num_frames=integer("num_frames"),
    height=integer("height"),
    width=integer("width"),
    segments=segments,
    labels=labels,
    captions=tuple(
      (start, end, text.decode("utf-8"))
      for (start, end), text in zip(captions.tolist(), texts, strict=True)
    ),
    background=spans("background"),
  )
