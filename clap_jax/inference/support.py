"""Reads a folder of few-shot support examples and matches videos with them.

The folder has one of two layouts: DIR/CLASS/*.mp4, trimmed clips that show the
action throughout; or untrimmed videos and DIR/segments.csv with the columns
video, start, end, label (seconds), where the rest of a video is background.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping

import jax
import numpy as np

from clap_jax.annotations import annotation_tables
from clap_jax.data import episode_batches, features
from clap_jax.data.class_texts import ClassTexts
from clap_jax.evaluation import fewshot_methods
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import extract, sequences
from clap_jax.media import errors, formats
from clap_jax.media.limits import DEFAULT_LIMITS, VideoLimits
from clap_jax.models import episode_baselines, localizer
from clap_jax.trainers import fewshot
from clap_jax.types import Detections, EpisodeBatch

SEGMENTS_FILE = "segments.csv"
_COLUMNS = ("video", "start", "end", "label")
# Settings of nearest prototype, for a model without a few-shot head.
_TEMPERATURE = 0.1
_DECODE = localizer.DecodeConfig(num_kept=50, num_candidates=400)
_MAX_LENGTH = 64  # features per support video


@dataclasses.dataclass(frozen=True)
class SupportVideo:
  """One example of one class."""

  path: pathlib.Path
  label: str
  # Seconds; None for a trimmed clip.
  segments: tuple[tuple[float, float], ...] | None


@dataclasses.dataclass(frozen=True)
class Shot:
  """The features of an example, padded to `max_length`."""

  features: np.ndarray  # float32 (t, d)
  mask: np.ndarray  # bool (t,)
  action: np.ndarray  # bool (t,)


def read_folder(directory: str | os.PathLike) -> list[SupportVideo]:
  """Lists the examples of a support folder; see the module for its layouts.

  Raises:
    FileNotFoundError: if the folder or a listed video does not exist.
    ValueError: if the folder has another layout or segments.csv is invalid.
  """
  directory = pathlib.Path(directory)
  if not directory.is_dir():
    raise FileNotFoundError(f"--support: {directory} is not a folder.")
  table = directory / SEGMENTS_FILE
  found = _read_table(table) if table.is_file() else _read_clips(directory)
  if not found:
    raise ValueError(
      f"--support: {directory} contains no example. Expected CLASS/*.mp4, one "
      f"folder of trimmed clips per class, or {SEGMENTS_FILE} with the columns "
      f"{', '.join(_COLUMNS)} and its videos."
    )
  return found


def _read_clips(directory: pathlib.Path) -> list[SupportVideo]:
  found = []
  for folder in sorted(
    p for p in directory.iterdir() if p.is_dir() and not p.name.startswith(".")
  ):
    clips = sorted(
      path
      for path in folder.iterdir()
      if formats.has_video_name(path) and path.is_file()
    )
    if not clips:
      raise ValueError(
        f"--support: {folder} contains no video "
        f"({', '.join(formats.SUFFIXES)}); add clips of the class or remove "
        "the folder."
      )
    found += [SupportVideo(path, folder.name, None) for path in clips]
  return found


def _read_table(table: pathlib.Path) -> list[SupportVideo]:
  segments: dict[tuple[str, str], list] = {}
  found = annotation_tables.read(table, needs=("label",))
  for row in found.table:
    where = f"{table}, line {row.line}"
    label, video = row.cells["label"], row.cells["video"]
    try:
      span = found.times(row)
    except ValueError as error:
      raise ValueError(f"{where}: {error}") from None
    if not (label and video and 0 <= span[0] < span[1]):
      raise ValueError(
        f"{where}: expected a video, a label and 0 <= start < end, got "
        f"{row.cells}."
      )
    segments.setdefault((video, label), []).append(span)
  return [
    SupportVideo(_inside(table.parent, video), label, tuple(spans))
    for (video, label), spans in sorted(segments.items())
  ]


def _inside(directory: pathlib.Path, video: str) -> pathlib.Path:
  path = directory / video
  if not path.resolve().is_relative_to(directory.resolve()):
    raise ValueError(
      f"{directory / SEGMENTS_FILE}: {video!r} is outside the folder."
    )
  if not path.is_file():
    raise FileNotFoundError(f"{path}, listed in {SEGMENTS_FILE}, is missing.")
  return path


class SupportSet:
  """An encoded support folder and the method that matches videos with it."""

  def __init__(
    self,
    encoder: encoder_lib.Encoder,
    directory: str | os.PathLike,
    *,
    stride_sec: float,
    matcher: tuple[fewshot.FewshotTask, dict, dict] | None,
    limits: VideoLimits = DEFAULT_LIMITS,
  ):
    """Encodes the examples; `skipped` lists those that cannot be decoded.

    Args:
      encoder: encoder of the features that `matcher` was trained on.
      directory: support folder, see the module.
      stride_sec: seconds between features.
      matcher: trained few-shot head; None matches with nearest prototypes.
      limits: decoding limits.

    Raises:
      ValueError: if the folder is malformed, or a class has no decodable
        example.
    """
    self._matcher = matcher
    # Length mode and length of a sequence, see sequences.py.
    self.lengths = {"length": "pad", "max_length": _MAX_LENGTH}
    if matcher is not None:
      self.lengths = {key: matcher[1][key] for key in self.lengths}
    encoded: dict[pathlib.Path, features.VideoFeatures] = {}
    self.shots: dict[str, list[Shot]] = {}
    reasons: dict[pathlib.Path, str] = {}
    videos = read_folder(directory)
    for video in videos:
      if video.path in reasons:
        continue
      if video.path not in encoded:
        try:
          found = _encode(encoder, video.path, stride_sec, limits)
        except errors.VideoError as error:
          reasons[video.path] = str(error)
          continue
        encoded[video.path] = sequences.with_trained_length(found, self.lengths)
      self.shots.setdefault(video.label, []).extend(
        make_shots(
          encoded[video.path],
          video.segments,
          max_length=self.lengths["max_length"],
        )
      )
    self.skipped = [
      {"video": str(path), "reason": reason} for path, reason in reasons.items()
    ]
    empty = sorted({video.label for video in videos} - set(self.shots))
    if empty:
      broken = "; ".join(f"{path}: {why}" for path, why in reasons.items())
      raise ValueError(
        f"--support: no example of {', '.join(empty)} can be decoded; replace "
        f"{broken}."
      )
    self.classes = tuple(sorted(self.shots))
    self._texts = encoder.class_texts(self.classes)
    self._predict = self._compiled()

  @property
  def method(self) -> str:
    if self._matcher is None:
      return "nearest_prototype"
    return fewshot_methods.method_name(self._matcher[0])

  @property
  def summary(self) -> dict:
    """Returns the "support" entry of the output document."""
    return {
      "method": self.method,
      "shots": {name: len(self.shots[name]) for name in self.classes},
      "skipped": self.skipped,
    }

  def _compiled(self) -> Callable:
    if self._matcher is not None:
      task, _, params = self._matcher
      return functools.partial(jax.jit(task.predict), params)

    def nearest(batch):
      points = episode_baselines.nearest_prototype(
        batch, temperature=_TEMPERATURE
      )
      return localizer.decode(points, config=_DECODE)

    return jax.jit(nearest)

  def find(self, padded: np.ndarray, mask: np.ndarray) -> Detections:
    """Finds the classes in a video.

    Args:
      padded: float32 (1, t, d), features of the video.
      mask: bool (1, t), True for valid features.

    Returns:
      Detections in grid units; labels index `classes`.
    """
    batch = query_batch(
      padded, mask, self.shots, classes=self.classes, texts=self._texts
    )
    output = jax.device_get(self._predict(batch))
    return Detections(*(field[0] for field in output))


def _encode(
  encoder, path: pathlib.Path, stride_sec: float, limits: VideoLimits
) -> features.VideoFeatures:
  clips = extract.stream_clips(
    encoder, path, stride_sec=stride_sec, limits=limits
  )
  grid = features.FeatureGrid(
    start_sec=0.0, stride_sec=stride_sec, clip_sec=encoder.clip.clip_sec
  )
  return features.VideoFeatures(extract.video_features(encoder, clips), grid)


def make_shots(
  video: features.VideoFeatures,
  segments: tuple[tuple[float, float], ...] | None,
  *,
  max_length: int,
) -> list[Shot]:
  """Makes one shot of a short video, else one around each of its segments."""
  sequence, grid = video.features, video.grid
  length = len(sequence)
  whole = np.ones(length, np.bool_)
  action, starts = whole, list(range(0, length, max_length))
  if segments is not None:
    spans = grid.to_grid(np.asarray(segments, np.float64))
    action = episode_batches.action_mask(spans, whole)
    latest = max(0, length - max_length)
    middles = [round(float(span.mean())) for span in spans]
    starts = sorted({min(max(0, m - max_length // 2), latest) for m in middles})
  shots = []
  for start in starts:
    part = slice(start, start + max_length)
    padded = np.zeros((max_length, sequence.shape[1]), np.float32)
    found = sequence[part]
    padded[: len(found)] = found
    mask = np.arange(max_length) < len(found)
    marked = np.zeros(max_length, np.bool_)
    marked[: len(found)] = action[part]
    shots.append(Shot(padded, mask, marked))
  return shots


def query_batch(
  padded: np.ndarray,
  mask: np.ndarray,
  shots: Mapping[str, list[Shot]],
  *,
  classes: tuple[str, ...],
  texts: ClassTexts,
) -> EpisodeBatch:
  """Makes one episode; classes with fewer shots get masked ones."""
  n, k = len(classes), max(map(len, shots.values()))
  max_length, width = shots[classes[0]][0].features.shape
  support = np.zeros((1, n, k, max_length, width), np.float32)
  support_mask = np.zeros((1, n, k, max_length), np.bool_)
  action = np.zeros_like(support_mask)
  for way, name in enumerate(classes):
    for number, shot in enumerate(shots[name]):
      support[0, way, number] = shot.features
      support_mask[0, way, number] = shot.mask
      action[0, way, number] = shot.action
  return EpisodeBatch(
    query=padded,
    query_mask=mask,
    query_text=texts.similarities(padded).astype(np.float32),
    support=support,
    support_mask=support_mask,
    support_action=action,
    support_text=texts.similarities(support).astype(np.float32),
    segments=np.zeros((1, 0, 2), np.float32),
    labels=np.zeros((1, 0), np.int32),
    segment_mask=np.zeros((1, 0), np.bool_),
    episode_index=np.zeros((1,), np.int32),
  )
