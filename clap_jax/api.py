"""The Python interface: loads a model and predicts segments of a video.

`Model.predict`, `Model.index` and `VideoIndex.search` do what the commands
`clap predict`, `clap index` and `clap search` do. The package `clap_jax`
exports these names and loads this module at their first use.
"""

import colorsys
import copy
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import index as index_lib
from clap_jax.inference import (
  inputs,
  model_directory,
  predict,
  streaming,
  zero_shot,
)
from clap_jax.report import player
from clap_jax.storage import locations

if TYPE_CHECKING:
  import matplotlib.axes
  import pandas  # pyright: ignore[reportMissingImports]  (an extra)

Path = str | os.PathLike
SHARED, TOWER = "shared", "tower"
_COLUMNS = ("video", "start_sec", "end_sec", "score", "label", "query")


@dataclasses.dataclass(frozen=True)
class Prediction:
  """One predicted moment of a video.

  Attributes:
    start_sec: start in seconds.
    end_sec: end in seconds.
    score: confidence, higher for a better moment.
    label: class of the moment; None for a moment of a query.
    query: query that the moment answers; None for a moment of a class.
  """

  start_sec: float
  end_sec: float
  score: float
  label: str | None = None
  query: str | None = None


@dataclasses.dataclass(frozen=True)
class VideoPredictions:
  """The predictions of one video, as in the output of `clap predict`.

  Attributes:
    video: path of the video, as given.
    duration_sec: duration of the video in seconds.
    predictions: moments, best first within labels, examples, and each query.
    absent: True if no query occurs in the video; None without queries or if
      the model cannot predict absence.
    absence: maps each query to {"probability", "absent"}; None if `absent` is.
    method: name of the zero-shot method if the model is an encoder alone.
    support: {"method", "shots", "skipped"} of the support examples, if given.
    entry: the video's entry in the JSON output.
  """

  video: str
  duration_sec: float
  predictions: tuple[Prediction, ...]
  absent: bool | None
  absence: Mapping[str, Mapping[str, Any]] | None
  method: str | None
  support: Mapping[str, Any] | None
  entry: Mapping[str, Any] = dataclasses.field(repr=False, compare=False)

  def to_dict(self) -> dict[str, Any]:
    """Returns a copy of the video's entry in the output of `clap predict`."""
    return copy.deepcopy(dict(self.entry))

  def to_json(self, *, indent: int | None = None) -> str:
    """Returns `to_dict` as JSON text.

    Args:
      indent: spaces per level of nesting; None writes a single line.
    """
    return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

  def to_dataframe(self) -> "pandas.DataFrame":
    """Returns a table with one row per prediction.

    Raises:
      ImportError: if pandas is not installed.
    """
    try:
      import pandas  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    except ImportError as error:
      raise ImportError(_missing("pandas", "dataframe")) from error
    rows = [
      {"video": self.video, **dataclasses.asdict(found)}
      for found in self.predictions
    ]
    return pandas.DataFrame(rows, columns=list(_COLUMNS))

  def plot(
    self, axes: "matplotlib.axes.Axes | None" = None
  ) -> "matplotlib.axes.Axes":
    """Draws a timeline with one line per label and query.

    Args:
      axes: axes to draw on; None creates a figure.

    Returns:
      The axes. Moments of higher score are darker; the name of a query that is
      predicted absent ends in "(absent)".

    Raises:
      ImportError: if matplotlib is not installed.
    """
    try:
      from matplotlib import pyplot  # noqa: PLC0415
    except ImportError as error:
      raise ImportError(_missing("matplotlib", "plot")) from error
    lines = player.groups(self.entry)
    if axes is None:
      height = 1.0 + 0.4 * max(len(lines), 1)
      _, axes = pyplot.subplots(figsize=(9.0, height), layout="constrained")
    for place, line in enumerate(lines):
      colour = colorsys.hls_to_rgb(line["hue"] / 360.0, 0.4, 0.7)
      for moment in reversed(line["moments"]):  # draws the best on top
        length_sec = moment["end_sec"] - moment["start_sec"]
        axes.broken_barh(
          [(moment["start_sec"], length_sec)],
          (place - 0.4, 0.8),
          color=(*colour, moment["alpha"]),
        )
    axes.set_yticks(
      range(len(lines)),
      [f"{g['name']} (absent)" if g["absent"] else g["name"] for g in lines],
    )
    axes.set_xlim(0.0, self.duration_sec)
    axes.set_ylim(max(len(lines), 1) - 0.5, -0.5)
    axes.set_xlabel("seconds")
    axes.set_title(pathlib.PurePath(self.video).name)
    return axes


class EncodedVideo(NamedTuple):
  """The encoded snippets of a video.

  Attributes:
    features: float32 (t, d), one vector per snippet.
    times_sec: float64 (t,), middle of each snippet in seconds.
  """

  features: np.ndarray
  times_sec: np.ndarray


class VideoIndex:
  """Encoded videos that can be searched by text; see `Model.index`."""

  def __init__(self, index: index_lib.Index, encoder: encoder_lib.Encoder):
    self._index = index
    self._encoder = encoder

  @property
  def directory(self) -> locations.Location:
    """Returns the folder of the index."""
    return self._index.directory

  @property
  def videos(self) -> tuple[str, ...]:
    """Returns the paths of the videos in the index."""
    return tuple(video.path for video in self._index.videos)

  @property
  def failed(self) -> tuple[dict[str, str], ...]:
    """Returns {"video", "reason"} of each file that could not be encoded."""
    return self._index.failed

  def search(self, text: str, *, top: int = 10) -> list[dict[str, Any]]:
    """Finds the best moments of all videos, as `clap search` does.

    Args:
      text: description of the moment.
      top: maximum number of moments over all videos.

    Returns:
      {"video", "start_sec", "end_sec", "score"} of each moment, best first.

    Raises:
      ValueError: if the text is empty or `top` is below 1.
    """
    if not text.strip():
      raise ValueError("text is empty; describe the moment in words.")
    vector = zero_shot.query_texts(self._encoder, [text]).vectors[0]
    return index_lib.search(self._index, vector, top=top)


class Model:
  """An encoder and the heads that were trained on its features, if any.

  Without heads, moments are found by the similarity of snippets and texts
  (zero-shot). `load_model` returns a model.
  """

  def __init__(self, parts: model_directory.Model):
    self._parts = parts

  @property
  def label_names(self) -> tuple[str, ...]:
    """Returns the classes that `predict` reports by default."""
    return self._parts.label_names

  @property
  def stride_sec(self) -> float | None:
    """Returns the seconds between snippets; None if unknown."""
    return self._parts.stride_sec

  def predict(
    self,
    video: Path,
    queries: str | Sequence[str] = (),
    labels: Sequence[str] | None = None,
    support: Path | None = None,
    *,
    max_predictions: int = 20,
    feature_timing: Mapping[str, float] | None = None,
    texts: Path | None = None,
  ) -> VideoPredictions:
    """Finds moments in a video, as `clap predict` does.

    Args:
      video: local video of any length, or a feature file.
      queries: texts; moments are found for each of them.
      labels: classes to report. By default all classes of the model, or none
        if queries or support examples are given.
      support: folder of support examples: one folder of clips per class, or
        untrimmed videos with a segments.csv.
      max_predictions: maximum number of moments for the classes, for the
        support examples, and for each query.
      feature_timing: timing of a feature file in frames: fps, stride_frames,
        window_frames, offset_frames. By default, the head's metadata.
      texts: .npz with the token vectors of the queries, written by
        `clap texts`. By default the model's encoder encodes the queries.

    Returns:
      The predictions of the video.

    Raises:
      ValueError: if the model lacks the head for the request, an argument is
        invalid, or the video cannot be decoded.
      FileNotFoundError: if the video or the support folder does not exist.
    """
    if not pathlib.Path(video).is_file():
      raise FileNotFoundError(f"{video} is not a file; pass one video file.")
    document = predict.predict(
      self._parts,
      [video],
      queries=[queries] if isinstance(queries, str) else list(queries),
      labels=labels,
      support_dir=support,
      max_predictions=max_predictions,
      feature_timing=feature_timing,
      texts=texts,
    )
    for entry in document["failed"]:
      raise ValueError(f"{entry['video']}: {entry['reason']}")
    (entry,) = document["videos"]
    return VideoPredictions(
      video=entry["video"],
      duration_sec=entry["duration_sec"],
      predictions=tuple(Prediction(**found) for found in entry["predictions"]),
      absent=entry["absent"],
      absence=entry.get("absence"),
      method=entry.get("method"),
      support=document.get("support"),
      entry=entry,
    )

  def encode_video(
    self,
    video: Path,
    *,
    space: str = SHARED,
    stride_sec: float | None = None,
  ) -> EncodedVideo:
    """Encodes the snippets of a video of any length.

    Args:
      video: local video file.
      space: "shared" returns unit vectors of the space of `encode_text`, so
        that inner products are cosines; "tower" returns the features that
        `clap extract` writes and heads are trained on.
      stride_sec: seconds between snippets. By default, the model's stride.

    Returns:
      The vectors of all snippets and their times.

    Raises:
      ValueError: if the video cannot be decoded, `space` is unknown, or the
        model has no encoder.
    """
    if space not in (SHARED, TOWER):
      raise ValueError(f"space is {space!r}; choose {SHARED!r} or {TOWER!r}.")
    encoder, own_stride_sec = self._parts.encoder_and_stride()
    encoded, _ = streaming.encode_video(
      encoder, pathlib.Path(video), stride_sec=stride_sec or own_stride_sec
    )
    vectors = encoded.features
    if space == SHARED:
      vectors = encoder.project(vectors)
    times_sec = encoded.grid.to_seconds(
      np.arange(len(vectors), dtype=np.float64)
    )
    return EncodedVideo(np.asarray(vectors, np.float32), times_sec)

  def encode_text(self, texts: str | Sequence[str]) -> np.ndarray:
    """Encodes texts to unit vectors of the space shared with videos.

    Args:
      texts: one text or several.

    Returns:
      float32 (n, d), one row per text.

    Raises:
      ValueError: if there are no texts or the model has no encoder.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
      raise ValueError("texts is empty; pass at least one text.")
    return np.asarray(self._encoder.embed_texts(texts), np.float32)

  def index(
    self,
    videos: Path | Sequence[Path],
    out: Path,
    *,
    stride_sec: float | None = None,
  ) -> VideoIndex:
    """Encodes videos into an index for search, as `clap index` does.

    Videos that an earlier call encoded into `out` are not encoded again.

    Args:
      videos: a folder, or files and folders. A video that cannot be decoded is
        listed in `VideoIndex.failed`.
      out: folder of the index.
      stride_sec: seconds between snippets. By default, the encoder's stride.

    Returns:
      An index of exactly these videos.

    Raises:
      FileNotFoundError: if a folder does not exist or contains no video.
      FileExistsError: if `out` is an index of another encoder or stride, or a
        folder with other files.
    """
    given = [videos] if isinstance(videos, str | os.PathLike) else videos
    if stride_sec is None:
      stride_sec = model_directory.encoder_stride_sec(self._encoder)
    found = inputs.find(given)
    made = index_lib.build(
      self._encoder,
      found.files,
      failed=found.failed,
      out=out,
      stride_sec=stride_sec,
    )
    return VideoIndex(made, self._encoder)

  def open_index(self, directory: Path) -> VideoIndex:
    """Opens an index that `index` or `clap index` wrote.

    Args:
      directory: folder of the index.

    Returns:
      The index.

    Raises:
      FileNotFoundError: if the folder contains no complete index.
      ValueError: if another encoder made the index, or a file is damaged.
    """
    index = index_lib.open_index(directory)
    if index.parameters != self._encoder.fingerprint:
      raise ValueError(
        f"{directory} was made by an encoder with the parameters "
        f"{index.parameters}, but the model's are {self._encoder.fingerprint}; "
        "build an index with this model."
      )
    return VideoIndex(index, self._encoder)

  @property
  def _encoder(self) -> encoder_lib.Encoder:
    return self._parts.encoder_and_stride()[0]


def load_model(directory: Path) -> Model:
  """Loads a model, as the commands do for --model.

  Args:
    directory: a model directory, for example that of a demo; the workdir of a
      head; or an encoder alone, which is the workdir of a pre-training run,
      imported weights of both towers, or the name of public weights fetched by
      `clap get`, for example clip-vit-b-32.

  Returns:
    The model. Its encoder is missing if the head's features were imported.

  Raises:
    FileNotFoundError: if the directory contains no model, or the public
      weights have not been fetched.
    ValueError: if a file is damaged, or encoder and heads do not match.
  """
  return Model(model_directory.load_model(directory, needs_encoder=False))


def _missing(package: str, extra: str) -> str:
  return (
    f"{package} is not installed; run `pip install {package}`, or install "
    f"clap_jax[{extra}]."
  )
