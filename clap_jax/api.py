"""The Python interface: loads a model and predicts segments of a video.

Everything here is what the commands do: `Model.predict` answers as `clap
predict`, `Model.index` as `clap index` and `VideoIndex.search` as `clap
search`. `import clap_jax` gives these names without loading this module.
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

from clap_jax.data import features as features_lib
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

if TYPE_CHECKING:
  import matplotlib.axes
  import pandas

Path = str | os.PathLike
SHARED, TOWER = "shared", "tower"
_COLUMNS = ("video", "start_sec", "end_sec", "score", "label", "query")


@dataclasses.dataclass(frozen=True)
class Prediction:
  """One moment; it has a label or a query."""

  start_sec: float
  end_sec: float
  score: float
  label: str | None = None
  query: str | None = None


@dataclasses.dataclass(frozen=True)
class VideoPredictions:
  """The predictions of one video: its entry in the document of `clap predict`.

  Attributes:
    video: as it was given.
    duration_sec: of the video.
    predictions: best first within labels, examples, and each query.
    absent: whether the video lacks all queries; None without queries, or for
      a model that cannot judge it.
    absence: query -> {"probability", "absent"}; None as `absent`.
    method: how it was found, where an encoder alone answered.
    support: {"method", "shots", "skipped"} of the examples, if some were given.
    entry: the JSON document itself.
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
    """The video's entry in the document of `clap predict`, a copy."""
    return copy.deepcopy(dict(self.entry))

  def to_json(self, *, indent: int | None = None) -> str:
    """`to_dict` as text."""
    return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

  def to_dataframe(self) -> "pandas.DataFrame":
    """One row per prediction.

    Raises:
      ImportError: pandas is not installed.
    """
    try:
      import pandas  # noqa: PLC0415
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
      axes: to draw on; None makes a figure of its own.

    Returns:
      The axes. Better moments are darker; the title of a query that is judged
      absent states so.

    Raises:
      ImportError: matplotlib is not installed.
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
      for moment in reversed(line["moments"]):  # the best on top
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
  """Vectors of the snippets of a video, and the middle of each in seconds."""

  features: np.ndarray  # float32 (t, d)
  times_sec: np.ndarray  # float64 (t,)


class VideoIndex:
  """Videos that are encoded, to be searched by text; see `Model.index`."""

  def __init__(self, index: index_lib.Index, encoder: encoder_lib.Encoder):
    self._index = index
    self._encoder = encoder

  @property
  def directory(self) -> pathlib.Path:
    return self._index.directory

  @property
  def videos(self) -> tuple[str, ...]:
    """The files that can be searched."""
    return tuple(video.path for video in self._index.videos)

  @property
  def failed(self) -> tuple[dict[str, str], ...]:
    """{"video", "reason"} of files that could not be encoded."""
    return self._index.failed

  def search(self, text: str, *, top: int = 10) -> list[dict[str, Any]]:
    """The best moments of all videos, as `clap search` lists them.

    Args:
      text: describes the moment.
      top: how many moments, of all videos together.

    Returns:
      {"video", "start_sec", "end_sec", "score"} each, best first.
    """
    if not text.strip():
      raise ValueError("the text is empty; describe the moment in words.")
    vector = zero_shot.query_texts(self._encoder, [text]).vectors[0]
    return index_lib.search(self._index, vector, top=top)


class Model:
  """An encoder with the heads that were trained on its features, if any.

  Without heads it answers texts by their similarity with the video, which the
  answer states as its method.
  """

  def __init__(self, parts: model_directory.Model):
    self._parts = parts

  @property
  def label_names(self) -> tuple[str, ...]:
    """The classes that are reported when nothing else is asked for."""
    return self._parts.label_names

  @property
  def stride_sec(self) -> float | None:
    """Between the snippets of a video."""
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
      video: a local file of any length, or a file of features.
      queries: texts, each answered with its own moments.
      labels: classes to report. None for all of the model, where neither
        queries nor a support are given.
      support: folder of examples, one folder of clips per class or untrimmed
        videos with a segments.csv.
      max_predictions: best moments kept, per query too.
      feature_timing: of a file of features: fps, stride_frames, window_frames,
        offset_frames; None for what the head's metadata states.
      texts: .npz of the token vectors of the queries, as `clap texts` writes
        them, for a head on other features; None for those of the encoder.

    Raises:
      ValueError: the model cannot answer this, or the video is unusable.
      FileNotFoundError: there is no such video or support.
    """
    if not pathlib.Path(video).is_file():
      raise FileNotFoundError(f"{video} is not a file; give one video.")
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
      video: a local file.
      space: "shared" gives unit vectors whose products with those of
        `encode_text` are cosines; "tower" what `clap extract` writes, which
        heads are trained on.
      stride_sec: between snippets; None for the model's.

    Raises:
      ValueError: the video cannot be decoded, or an argument is wrong.
    """
    if space not in (SHARED, TOWER):
      raise ValueError(f"space is {space!r}; choose {SHARED!r} or {TOWER!r}.")
    encoder = self._encoder
    stride_sec = stride_sec or self._stride_sec
    encoded, *_ = streaming.encode_video(
      encoder, pathlib.Path(video), stride_sec=stride_sec
    )
    grid = features_lib.FeatureGrid(
      start_sec=0.0, stride_sec=stride_sec, clip_sec=encoder.clip.clip_sec
    )
    vectors = encoder.project(encoded) if space == SHARED else encoded
    times_sec = grid.to_seconds(np.arange(len(vectors), dtype=np.float64))
    return EncodedVideo(np.asarray(vectors, np.float32), times_sec)

  def encode_text(self, texts: str | Sequence[str]) -> np.ndarray:
    """Texts to unit vectors (n, d) float32 of the shared space."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
      raise ValueError("texts is empty; give at least one.")
    return np.asarray(self._encoder.embed_texts(texts), np.float32)

  def index(
    self,
    videos: Path | Sequence[Path],
    out: Path,
    *,
    stride_sec: float | None = None,
  ) -> VideoIndex:
    """Encodes videos once, as `clap index` does; a second call adds new ones.

    Args:
      videos: a folder, or files and folders; a broken one is listed in
        `failed` of the result.
      out: folder of the index.
      stride_sec: between snippets; None for what the encoder is made for.

    Raises:
      FileNotFoundError: there is no such folder, or no video in it.
      FileExistsError: `out` is an index of another encoder or stride, or no
        index at all.
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
    """Opens what `index` or `clap index` wrote.

    Raises:
      FileNotFoundError: it is not an index.
      ValueError: the index is of another encoder.
    """
    index = index_lib.open_index(directory)
    if index.parameters != self._encoder.fingerprint:
      raise ValueError(
        f"{directory} was made by an encoder with the parameters "
        f"{index.parameters}, the model's are {self._encoder.fingerprint}; "
        "make it again with this model."
      )
    return VideoIndex(index, self._encoder)

  @property
  def _encoder(self) -> encoder_lib.Encoder:
    if self._parts.encoder is None:
      raise ValueError(
        "This model is a head without the encoder of its features: it takes "
        "files of features only."
      )
    return self._parts.encoder

  @property
  def _stride_sec(self) -> float:
    return self._parts.stride_sec or model_directory.DEFAULT_STRIDE_SEC


def load_model(directory: Path) -> Model:
  """Loads what the commands take as --model.

  Args:
    directory: a model directory, such as a demo's; the workdir of a head's
      run; or an encoder alone: the workdir of a pre-training, imported weights
      of both towers, or a name that `clap get` fetched, such as clip-vit-b-32.

  Raises:
    FileNotFoundError: it is none of these, or the name was not fetched.
    ValueError: a file in it is damaged, or parts do not belong together.
  """
  return Model(model_directory.load_model(directory, needs_encoder=False))


def _missing(package: str, extra: str) -> str:
  return (
    f"{package} is not installed, which this needs: pip install {package}, or "
    f"install clap_jax[{extra}]."
  )
