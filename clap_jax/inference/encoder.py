"""Loads and runs a pre-trained encoder of video clips and texts."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from clap_jax.data import class_texts, clip_reader, clips, vocabulary
from clap_jax.evaluation import text_models
from clap_jax.models import dual_encoder
from clap_jax.public_weights import cache
from clap_jax.storage import locations
from clap_jax.storage import metadata as metadata_lib
from clap_jax.trainers import encoders, pretrain_task
from clap_jax.training import paths, pretrained
from clap_jax.training import weights as weights_lib

# Imported towers state no clip length; the configs train with this one.
_IMPORTED_CLIP_SEC = 2.0
_IMPORTED_RESIZE = "crop"  # CLIP's own preprocessing
_IMPORTED_KEYS = (
  "encoder",
  "source",
  "seed",
  "training",
  "settings",
  "clip",
  "stride_sec",
)
# Written by `clap export` and by `clap import`.
_TOKENIZERS = ("tokenizer", "tokenizer.json")


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Frozen video and text towers with their preprocessing."""

  name: str  # name in results.json: random, tac, tsp, clip, clap
  seed: int
  directory: locations.Location
  clip: clip_reader.ClipShape
  config: dual_encoder.DualEncoderConfig
  params: dict
  tokenizer: vocabulary.Vocabulary
  training: dict  # training data and loss, for evaluation cards
  # Seconds between clips that the weights are made for; None if any, see
  # model_directory.DEFAULT_STRIDE_SEC.
  stride_sec: float | None = None

  @functools.cached_property
  def _encode_clips(self):
    model = dual_encoder.DualEncoder(self.config)
    return jax.jit(
      lambda params, frames: model.apply(params, frames, method="video_feature")
    )

  @functools.cached_property
  def _encode_texts(self):
    model = dual_encoder.DualEncoder(self.config)
    return jax.jit(
      lambda params, tokens, mask: model.apply(
        params,
        tokens,
        mask,
        method=lambda m, *args: m.text_tokens(*args).tokens,
      )
    )

  def clip_features(self, frames: np.ndarray, batch: int) -> np.ndarray:
    """Encodes clips uint8 (n, t, y, x, 3) to float32 (n, d), in batches."""
    count = frames.shape[0]
    rows = []
    for start in range(0, count, batch):
      chunk = frames[start : start + batch]
      padding = batch - chunk.shape[0]
      if padding:
        chunk = np.concatenate([chunk, np.repeat(chunk[-1:], padding, 0)])
      feature = self._encode_clips(self.params, jnp.asarray(chunk))
      rows.append(np.asarray(feature)[: batch - padding])
    width = self.feature_width
    return np.concatenate(rows) if rows else np.zeros((0, width), np.float32)

  def text_vectors(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Encodes texts to token vectors (n, l, d) and their mask (n, l)."""
    tokens, mask = self._tokens(texts)
    encode = functools.partial(self._encode_texts, self.params)
    return text_models.in_batches(encode, tokens, mask), mask

  def _tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    return self.tokenizer.encode(
      list(texts), length=self.config.max_text_length
    )

  @functools.cached_property
  def _embed_texts(self):
    model = dual_encoder.DualEncoder(self.config)
    return jax.jit(functools.partial(model.apply, method="embed_text"))

  def class_texts(self, names: Sequence[str]) -> class_texts.ClassTexts:
    """Embeds class names in the shared space, as means over the prompts."""
    texts = [*class_texts.prompted(names), clips.GENERIC_BACKGROUND_TEXT]
    vectors = self.embed_texts(texts)
    return class_texts.ClassTexts(
      names=tuple(names),
      vectors=class_texts.mean_over_prompts(vectors[:-1]),
      background=vectors[-1],
      video_projection=np.asarray(
        self.params["params"]["video_projection"]["kernel"]
      ),
      logit_scale=self.logit_scale,
    )

  @property
  def logit_scale(self) -> float:
    """Returns the learned factor from cosines to logits."""
    learned = self.params["params"]["logit_scale"]
    return float(np.exp(np.minimum(learned, dual_encoder.MAX_LOGIT_SCALE)))

  def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
    """Embeds texts as unit vectors (n, p) of the shared space."""
    embed = functools.partial(self._embed_texts, self.params)
    return text_models.in_batches(embed, *self._tokens(texts))

  def project(self, features: np.ndarray) -> np.ndarray:
    """Projects clip features (n, d) to unit vectors (n, p) of that space."""
    kernel = self.params["params"]["video_projection"]["kernel"]
    return class_texts.unit(features @ np.asarray(kernel))

  @functools.cached_property
  def fingerprint(self) -> str:
    """Returns a hash of all parameters, by which features are compared."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
      digest.update(jax.tree_util.keystr(path).encode())
      digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]

  @property
  def sees_single_frames(self) -> bool:
    return self.clip.num_frames == 1

  @property
  def feature_width(self) -> int:
    return self.params["params"]["video_projection"]["kernel"].shape[0]


def is_encoder(directory: locations.PathLike) -> bool:
  """Returns True if `load_encoder` accepts a directory.

  Names of public weights are not looked up.
  """
  names = (encoders.ENCODER_FILE, weights_lib.MANIFEST_FILE)
  return any(locations.at(directory, name).is_file() for name in names)


def load_encoder(directory: locations.PathLike) -> Encoder:
  """Loads the towers of a pre-training run or of imported weights.

  Args:
    directory: workdir of a pre-training run, output of `clap import` or
      `clap export` with both towers, or a name that `clap get` fetched.

  Raises:
    FileNotFoundError: if the directory contains no encoder, or the name has
      not been fetched.
    ValueError: if a tower is missing or the weights do not fit the settings.
  """
  directory = cache.directory_of(directory)
  record = directory / encoders.ENCODER_FILE
  if not record.is_file():
    if is_encoder(directory):
      return _load_imported(directory)
    raise FileNotFoundError(
      f"{directory} holds no pre-trained encoder (no encoder.json). Expected "
      "the --workdir of a finished `clap train` of a pretrain config, the "
      "--out of `clap import`, or a name of `clap get --list`."
    )
  metadata, (clip, config) = metadata_lib.load(
    directory, record.name, encoders.described
  )
  params = encoders.restore_params(directory)
  pretrained.check_fits(
    params,
    functools.partial(pretrain_task.init, dual_encoder.DualEncoder(config)),
    name=str(record),
  )
  return Encoder(
    name=metadata["encoder"],
    seed=metadata["seed"],
    directory=directory,
    clip=clip,
    config=config,
    params=params,
    tokenizer=vocabulary.load(directory / encoders.TOKENIZER_FILE),
    training=metadata["training"],
  )


def _load_imported(directory: locations.Location) -> Encoder:
  """Loads an encoder that `clap import` or `clap export` wrote."""
  arrays, metadata = weights_lib.read(directory)
  manifest = directory / weights_lib.MANIFEST_FILE
  settings = metadata.get("settings")
  needed = ("video_tower", "text_tower", "projection_width")
  missing = [key for key in needed if key not in (settings or {})]
  if missing:
    raise ValueError(
      f"{directory} is not a complete encoder: its weights lack "
      f"{' and '.join(missing)}. Start a `clap train` from them, or import "
      "weights with both towers, such as CLIP."
    )
  name, seed, training, stride_sec, (clip, config) = metadata_lib.build(
    {key: metadata[key] for key in _IMPORTED_KEYS if key in metadata},
    _described_import,
    path=manifest,
    remake="run `clap import` again, into a new directory",
  )
  params = paths.nest(arrays)
  init = functools.partial(pretrain_task.init, dual_encoder.DualEncoder(config))
  pretrained.check_fits(params, init, name=str(manifest), whole=True)
  return Encoder(
    name=name,
    seed=seed,
    directory=directory,
    clip=clip,
    config=config,
    params=params,
    tokenizer=_imported_tokenizer(directory),
    training=training,
    stride_sec=stride_sec,
  )


def _described_import(metadata: dict) -> tuple:
  """Returns (name, seed, training, stride, (clip, towers)) of a manifest."""
  settings = metadata["settings"]
  shape = {
    "clip_sec": _IMPORTED_CLIP_SEC,
    "num_frames": settings["num_frames"],
    "image_size": settings["image_size"],
    "resize": _IMPORTED_RESIZE,
  } | (metadata.get("clip") or {})
  name = metadata.get("encoder") or metadata["source"]
  seed = metadata.get("seed", 0)
  training = metadata.get("training", {"imported": name})
  for value, kind in ((name, str), (seed, int), (training, dict)):
    if type(value) is not kind:
      raise TypeError(f"{value!r:.50} is not of type {kind.__name__}")
  stride_sec = metadata.get("stride_sec")
  if stride_sec is not None and not (
    type(stride_sec) in (int, float) and 0 < stride_sec < math.inf
  ):
    raise ValueError(f"stride_sec is {stride_sec!r:.50}, expected seconds")
  towers = {"num_classes": 0} | settings
  described = encoders.described({"clip": shape, "model": towers})
  return name, seed, training, stride_sec, described


def _imported_tokenizer(directory: locations.Location) -> vocabulary.Vocabulary:
  for name in _TOKENIZERS:
    if (directory / name).is_file():
      return vocabulary.load(directory / name)
  raise ValueError(
    f"{directory} has no tokenizer ({' or '.join(_TOKENIZERS)}), which texts "
    "need; import again with --tokenizer."
  )
