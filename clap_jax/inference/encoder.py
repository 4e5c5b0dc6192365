"""A pre-trained run, loaded to turn clips and texts into features."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from clap_jax.data import class_texts, clips, vocabulary
from clap_jax.models import dual_encoder
from clap_jax.trainers import encoders, pretrain_task, text_models
from clap_jax.trainers import facts as facts_lib
from clap_jax.training import pretrained


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Frozen towers with all that is needed to feed them."""

  name: str  # as in results.json: random, tac, tsp, clip, clap
  seed: int
  directory: pathlib.Path
  clip: encoders.ClipShape
  config: dual_encoder.DualEncoderConfig
  params: dict
  tokenizer: vocabulary.Vocabulary
  training: dict  # what the features have seen, for evaluation cards

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
      lambda params, tokens, mask: (
        model.apply(params, tokens, mask, method="text_tokens").tokens
      )
    )

  def clip_features(self, frames: np.ndarray, batch: int) -> np.ndarray:
    """uint8 (n, t, y, x, 3) -> float32 (n, d), `batch` clips at a time."""
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

  def text_vectors(
    self, texts: list[str], batch: int = 64
  ) -> tuple[np.ndarray, np.ndarray]:
    """Texts to token vectors (n, l, d) and their mask (n, l)."""
    tokens, mask = self.tokenizer.encode(
      texts, length=self.config.max_text_length
    )
    rows = []
    for start in range(0, len(texts), batch):
      take = slice(start, start + batch)
      padding = batch - tokens[take].shape[0]
      pad = ((0, padding), (0, 0))
      vectors = self._encode_texts(
        self.params, np.pad(tokens[take], pad), np.pad(mask[take], pad)
      )
      rows.append(np.asarray(vectors)[: batch - padding])
    return np.concatenate(rows), mask

  @functools.cached_property
  def _embed_texts(self):
    model = dual_encoder.DualEncoder(self.config)

    def embed(params, tokens, mask):
      text = model.apply(params, tokens, mask, method="text_tokens")
      return model.apply(params, text.pooled, method="project_text")

    return jax.jit(embed)

  def class_texts(self, names: Sequence[str]) -> class_texts.ClassTexts:
    """Class names in the shared space: the mean over the label prompts."""
    texts = [*class_texts.prompted(names), clips.GENERIC_BACKGROUND_TEXT]
    vectors = self.embed_texts(texts)
    scale = np.minimum(
      self.params["params"]["logit_scale"], dual_encoder.MAX_LOGIT_SCALE
    )
    return class_texts.ClassTexts(
      names=tuple(names),
      vectors=class_texts.mean_over_prompts(vectors[:-1]),
      background=vectors[-1],
      video_projection=np.asarray(
        self.params["params"]["video_projection"]["kernel"]
      ),
      logit_scale=float(np.exp(scale)),
    )

  def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
    """Texts to unit vectors (n, p) of the shared space."""
    tokens, mask = self.tokenizer.encode(
      list(texts), length=self.config.max_text_length
    )
    embed = functools.partial(self._embed_texts, self.params)
    return text_models.in_batches(embed, tokens, mask)

  def project(self, features: np.ndarray) -> np.ndarray:
    """Features (n, d) of clips to unit vectors (n, p) of the shared space."""
    kernel = self.params["params"]["video_projection"]["kernel"]
    return class_texts.unit(features @ np.asarray(kernel))

  @functools.cached_property
  def fingerprint(self) -> str:
    """A hash of all parameters: equal encoders, equal features."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
      digest.update(jax.tree_util.keystr(path).encode())
      digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]

  @property
  def feature_width(self) -> int:
    return self.params["params"]["video_projection"]["kernel"].shape[0]


def load_encoder(directory) -> Encoder:
  """Loads the towers of a `clap train` pre-training directory.

  Raises:
    FileNotFoundError: if the directory holds no finished pre-training.
  """
  directory = pathlib.Path(directory)
  record = directory / "encoder.json"
  if not record.is_file():
    raise FileNotFoundError(
      f"{directory} holds no pre-trained encoder (no encoder.json). Expected "
      "the --workdir of a finished `clap train` of a pretrain config."
    )
  facts, (clip, config) = facts_lib.load(
    directory, record.name, encoders.described
  )
  params = encoders.restore_params(directory)
  pretrained.check_fits(
    params,
    pretrain_task.PretrainTask(dual_encoder.DualEncoder(config), None).init,
    name=str(record),
  )
  return Encoder(
    name=facts["encoder"],
    seed=facts["seed"],
    directory=directory,
    clip=clip,
    config=config,
    params=params,
    tokenizer=vocabulary.load(directory / "tokenizer.model"),
    training=facts["training"],
  )
