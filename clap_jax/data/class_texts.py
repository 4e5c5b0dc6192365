"""Class names in the space that texts and clips share, as a file."""

import pathlib
from typing import NamedTuple

import numpy as np


class ClassTexts(NamedTuple):
  """What a zero-shot comparison of features with class names needs."""

  names: tuple[str, ...]  # (c,)
  vectors: np.ndarray  # float32 (c, p), unit vectors
  background: np.ndarray  # float32 (p,): a sentence that says "background"
  video_projection: np.ndarray  # float32 (d, p): takes features there
  logit_scale: float  # learned with the towers

  def similarities(self, features: np.ndarray) -> np.ndarray:
    """Features (t, d) to cosines (t, c + 1): the classes, then background."""
    projected = features @ self.video_projection
    norm = np.linalg.norm(projected, axis=-1, keepdims=True)
    texts = np.concatenate([self.vectors, self.background[None]])
    return (projected / np.maximum(norm, 1e-6)) @ texts.T


def save(path: pathlib.Path, texts: ClassTexts) -> None:
  """Writes the file whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix(".tmp")
  with partial.open("wb") as file:
    np.savez(file, **texts._asdict() | {"names": np.array(texts.names)})
  partial.replace(path)


def load(path: pathlib.Path) -> ClassTexts:
  with np.load(path, allow_pickle=False) as arrays:
    return ClassTexts(
      tuple(str(name) for name in arrays["names"]),
      arrays["vectors"],
      arrays["background"],
      arrays["video_projection"],
      float(arrays["logit_scale"]),
    )
