"""Loads a model directory: an encoder and heads trained on its features."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax

from clap_jax.data import feature_files
from clap_jax.evaluation import (
  moment_retrieval,
  text_models,
  zero_shot_classifier,
)
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import sequences
from clap_jax.public_weights import cache
from clap_jax.storage import locations
from clap_jax.storage import metadata as metadata_lib
from clap_jax.trainers import (
  encoders,
  fewshot,
  fit,
  grounding,
  localization,
  localizers,
  open_vocabulary,
)

MODEL_FILE = "model.json"
# Seconds between the snippets of an encoder alone, as in `clap extract`.
DEFAULT_STRIDE_SEC = 0.5
# A stride near 0 would give a video an unbounded number of features.
_MIN_STRIDE_SEC, _MAX_STRIDE_SEC = 1e-3, 86400.0
_STRIDE_TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Model:
  """An encoder and the heads that were trained on its features.

  Without heads, moments are found by the similarity of snippets and texts; see
  zero_shot.py.
  """

  encoder: encoder_lib.Encoder | None  # None for a head on imported features
  stride_sec: float | None
  localizer: tuple[localizers.FeatureTask, dict, dict] | None
  grounder: tuple[grounding.GroundingTask, dict, dict] | None
  matcher: tuple[fewshot.FewshotTask, dict, dict] | None = None

  def encoder_and_stride(self) -> tuple[encoder_lib.Encoder, float]:
    """Returns the encoder and the seconds between its snippets.

    Raises:
      ValueError: the model is a head on features of others.
    """
    if self.encoder is None or self.stride_sec is None:
      raise ValueError(
        "The model is a head without the encoder of its features; load a model "
        "with an encoder, or predict on feature files."
      )
    return self.encoder, self.stride_sec

  @property
  def is_encoder_alone(self) -> bool:
    """Returns True if the model has no head."""
    return all(getattr(self, name) is None for name in _HEADS)

  @property
  def takes_queries(self) -> bool:
    """Returns True if the model accepts free texts."""
    return self.grounder is not None or self.is_encoder_alone

  @property
  def label_names(self) -> tuple[str, ...]:
    """Returns the classes that are reported by default."""
    if self.localizer is None:
      return ()
    metadata = self.localizer[1]
    return tuple(metadata.get("class_names") or metadata["label_names"])

  @property
  def takes_any_label(self) -> bool:
    """Returns True if the model accepts any class name, trained or not."""
    if self.localizer is None:
      return self.is_encoder_alone
    return "text_classes" in self.localizer[1]

  @functools.cached_property
  def naming(self) -> zero_shot_classifier.ZeroShotClassifier:
    """Returns the zero-shot classifier of an open-vocabulary localizer."""
    assert self.localizer is not None  # whose proposals it names
    metadata = self.localizer[1]
    classes = open_vocabulary.TextClasses(**metadata["text_classes"])
    if classes.text_model:
      vectors = text_models.class_vectors(classes.text_model)
    else:
      encoder, _ = self.encoder_and_stride()
      vectors = lambda names: encoder.class_texts(names).vectors  # noqa: E731
    return zero_shot_classifier.ZeroShotClassifier(
      metadata["space"],
      functools.lru_cache(maxsize=1)(vectors),
      frozenset(metadata["seen_classes"]),
      classes.top_classes,
    )

  # Cached with the model, so that it is not compiled again for each video.
  @functools.cached_property
  def detect(self) -> Callable:
    """Returns the localizer's compiled `detect`."""
    assert self.localizer is not None
    return jax.jit(self.localizer[0].detect)

  @functools.cached_property
  def search(self) -> moment_retrieval.MomentSearch:
    """Returns the grounder's compiled search."""
    assert self.grounder is not None
    return moment_retrieval.MomentSearch(self.grounder[0])


# Maps each head of a Model to its trainer and its key in model.json.
_HEADS = {
  "localizer": (localization, "localization"),
  "grounder": (grounding, "grounding"),
  "matcher": (fewshot, "fewshot"),
}


def load_model(
  directory: locations.PathLike, *, needs_encoder: bool = True
) -> Model:
  """Loads a model directory, the workdir of a head, or an encoder alone.

  DIR/model.json names the encoder and the heads. A head's workdir names the
  encoder of its training features. An encoder alone is the workdir of a
  pre-training run or imported weights of both towers.

  Args:
    directory: directory of the model, or a name that `clap get` fetched.
    needs_encoder: whether a head without its encoder is an error; prediction
      on feature files works without an encoder.

  Raises:
    FileNotFoundError: if the directory contains no model, or the name has not
      been fetched.
    ValueError: if a head was trained on another encoder's features, or its
      encoder is unknown.
  """
  directory = cache.directory_of(directory)
  if not (directory / MODEL_FILE).is_file():
    return _load_run(directory, needs_encoder=needs_encoder)
  parts = metadata_lib.read(directory, MODEL_FILE)
  _check_parts(parts, directory / MODEL_FILE)
  encoder = encoder_lib.load_encoder(directory / parts["encoder"])
  heads = {
    name: _load_head(directory / parts[key], trainer)
    if parts.get(key)
    else None
    for name, (trainer, key) in _HEADS.items()
  }
  return _checked(Model(encoder, parts["stride_sec"], **heads))


def encoder_stride_sec(encoder: encoder_lib.Encoder) -> float:
  """Returns the seconds between snippets for an encoder alone."""
  stride_sec = encoder.stride_sec or DEFAULT_STRIDE_SEC
  _check_stride(stride_sec, encoder.directory)
  return stride_sec


def _check_parts(parts: dict, path: locations.Location) -> None:
  keys = [key for _, key in _HEADS.values() if parts.get(key) is not None]
  wrong = [key for key in ("encoder", *keys) if not isinstance(parts[key], str)]
  if wrong:
    raise ValueError(
      f"{path}: {', '.join(wrong)} must name a folder, got "
      f"{', '.join(repr(parts[key])[:50] for key in wrong)}."
    )
  _check_stride(parts["stride_sec"], path)


def _check_stride(stride_sec: object, path: locations.Location) -> None:
  if (
    not isinstance(stride_sec, int | float)
    or isinstance(stride_sec, bool)
    or not _MIN_STRIDE_SEC <= stride_sec <= _MAX_STRIDE_SEC
  ):
    raise ValueError(
      f"{path}: stride_sec is {stride_sec!r}; expected seconds from "
      f"{_MIN_STRIDE_SEC} to {_MAX_STRIDE_SEC:g}."
    )


def _load_run(workdir: locations.Location, *, needs_encoder: bool) -> Model:
  """Loads the model of a head's workdir, or of an encoder alone."""
  heads: dict[str, tuple | None] = dict.fromkeys(_HEADS)
  for name, (trainer, _) in _HEADS.items():
    if (workdir / trainer.MODEL_FILE).is_file():
      head = heads[name] = _load_head(workdir, trainer)
      break
  else:
    if encoder_lib.is_encoder(workdir):
      encoder = encoder_lib.load_encoder(workdir)
      return Model(encoder, encoder_stride_sec(encoder), **heads)
    raise FileNotFoundError(
      f"{workdir} is not a model: it has no {MODEL_FILE}. Expected the model "
      'directory of `clap demo`, or {"encoder": DIR, "stride_sec": S, '
      '"localization": DIR, "grounding": DIR, "fewshot": DIR} in that file, or '
      "the workdir of a finished run of a head or of pre-training, or the "
      "--out of `clap import`, or a name of `clap get --list`."
    )
  metadata = head[1]
  stride_sec = _trained_stride_sec(metadata)
  if not metadata.get("encoder_directory"):
    if not needs_encoder:
      return Model(None, stride_sec, **heads)
    raise ValueError(
      f"{workdir / trainer.MODEL_FILE} does not name the encoder of its "
      "imported features; pass feature files to `clap predict`, or write a "
      f'{MODEL_FILE} with "encoder", "stride_sec" and "{_HEADS[name][1]}".'
    )
  directory = locations.at(metadata["encoder_directory"])
  if not needs_encoder and not (directory / encoders.ENCODER_FILE).is_file():
    return Model(None, stride_sec, **heads)
  _check_stride(stride_sec, workdir / trainer.MODEL_FILE)
  encoder = encoder_lib.load_encoder(directory)
  return _checked(Model(encoder, stride_sec, **heads))


def _checked(model: Model) -> Model:
  """Raises a ValueError if a head's features and the encoder do not match."""
  encoder, own_stride_sec = model.encoder_and_stride()
  for name in _HEADS:
    head = getattr(model, name)
    stride_sec = head and _trained_stride_sec(head[1])
    if stride_sec and not math.isclose(
      stride_sec, own_stride_sec, rel_tol=_STRIDE_TOLERANCE
    ):
      raise ValueError(
        f"The {name} was trained on features every {stride_sec:g} s, but the "
        f"model's stride_sec is {own_stride_sec:g}; correct {MODEL_FILE}."
      )
    expected = head and head[1].get("encoder_parameters")
    if expected and expected != encoder.fingerprint:
      raise ValueError(
        f"The {name} was trained on features of an encoder with the "
        f"parameters {expected}, but {encoder.directory} holds "
        f"{encoder.fingerprint}; train it on features of this encoder."
      )
  return model


def _trained_stride_sec(metadata: dict) -> float | None:
  """Returns the feature stride of a head's training; None if unknown."""
  files = metadata.get("files")
  if files and files["timing"] == "frames" and files["fps"]:
    return files["stride_frames"] / files["fps"]
  return metadata.get("stride_sec")


def write_model(
  directory: locations.PathLike,
  *,
  encoder: str,
  stride_sec: float,
  localization_dir: str | None,
  grounding_dir: str | None,
  fewshot_dir: str | None = None,
) -> locations.Location:
  """Writes model.json; paths are relative to `directory`."""
  path = locations.at(directory) / MODEL_FILE
  parts = {
    "encoder": encoder,
    "stride_sec": stride_sec,
    "localization": localization_dir,
    "grounding": grounding_dir,
  } | ({"fewshot": fewshot_dir} if fewshot_dir else {})
  metadata_lib.write(path, parts)
  return path


def _length_mode(workdir: locations.Location, name: str, metadata: dict) -> str:
  """Returns the length mode of a head's training sequences."""
  length = metadata.get("length")
  if length not in sequences.LENGTHS:
    raise ValueError(
      f"{workdir / name} has the length {length!r}; expected one of "
      f"{', '.join(sequences.LENGTHS)}, as in data.length of the training."
    )
  return length


def _check_timing(path: locations.Location, metadata: dict) -> None:
  """Raises a ValueError if a head's metadata has an invalid timing."""
  for key in ("stride_sec", "clip_sec"):
    value = metadata.get(key)
    if value is None:
      continue
    if type(value) not in (int, float) or not 0 < value < math.inf:
      raise ValueError(
        f"{path}: {key} is {value!r:.60}; expected seconds above 0."
      )
  files = metadata.get("files")
  if files is None:
    return
  try:
    names = tuple(files["names"])
    feature_files.FeatureFiles(**files | {"names": names})
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{path}: files does not describe feature files "
      f"({type(error).__name__}: {error}); see data.files of the configs."
    ) from error


def _load_head(workdir: locations.Location, trainer):
  """Returns (task, metadata, parameters) of a head."""
  metadata, task, params = fit.restored(
    workdir, trainer.MODEL_FILE, trainer.make_task
  )
  metadata["length"] = _length_mode(workdir, trainer.MODEL_FILE, metadata)
  _check_timing(workdir / trainer.MODEL_FILE, metadata)
  if "text_classes" in metadata:
    metadata["space"] = zero_shot_classifier.load(
      workdir / open_vocabulary.SPACE_FILE
    )
  return task, metadata, params
