"""Reads and writes embeddings of class names."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clap_jax.data import clips
from clap_jax.storage import arrays, locations


class ClassTexts(NamedTuple):
  """Class names and projections for zero-shot classification of features."""

  names: tuple[str, ...]  # (c,)
  vectors: np.ndarray  # float32 (c, p), unit vectors
  background: np.ndarray  # float32 (p,): a sentence about "background"
  video_projection: np.ndarray  # float32 (d, p), applied to features
  logit_scale: float  # learned with the towers

  def similarities(self, features: np.ndarray) -> np.ndarray:
    """Returns the cosines (t, c + 1) of features (t, d), background last."""
    texts = np.concatenate([self.vectors, self.background[None]])
    return unit(features @ self.video_projection) @ texts.T


def unit(x: np.ndarray) -> np.ndarray:
  """Scales vectors (*b, p) to unit length; zero vectors stay zero."""
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def prompted(names: Sequence[str]) -> list[str]:
  """Formats every class name with every label prompt, name by name."""
  words = [clips.readable_label(name) for name in names]
  return [prompt.format(w) for w in words for prompt in clips.LABEL_PROMPTS]


def mean_over_prompts(vectors: np.ndarray) -> np.ndarray:
  """Averages the vectors (n, p) of `prompted` names to unit vectors (c, p)."""
  by_name = vectors.reshape(-1, len(clips.LABEL_PROMPTS), vectors.shape[-1])
  return unit(by_name.mean(axis=1))


def save(path: locations.Location, texts: ClassTexts) -> None:
  """Writes the file atomically."""
  path.parent.mkdir(parents=True, exist_ok=True)
  content = texts._asdict() | {"names": np.array(texts.names)}
  arrays.write_npz(path, content)


def load(path: locations.Location) -> ClassTexts:
  with arrays.open_npz(path) as archive:
    missing = set(ClassTexts._fields) - archive.keys()
    if missing:
      raise ValueError(f"{path} lacks {sorted(missing)}; recreate it")
    return ClassTexts(
      tuple(str(name) for name in archive["names"]),
      archive["vectors"],
      archive["background"],
      archive["video_projection"],
      float(archive["logit_scale"]),
    )
