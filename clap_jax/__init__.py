"""Finds moments in long videos.

Importing the package loads neither JAX nor SciPy; the first use of a name does.

  import clap_jax

  model = clap_jax.load_model("workdir/pretrain")
  found = model.predict("video.mp4", queries=["a red star spins"])

See clap_jax/api.py and docs/python_api.md for the whole interface.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from clap_jax.api import (
    EncodedVideo,
    Model,
    Prediction,
    VideoIndex,
    VideoPredictions,
    load_model,
  )

__all__ = [
  "EncodedVideo",
  "Model",
  "Prediction",
  "VideoIndex",
  "VideoPredictions",
  "load_model",
]


def __getattr__(name: str) -> Any:
  """Loads clap_jax.api at the first use of one of its names (PEP 562)."""
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.api"), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
