"""Encodes sentences to token vectors with the frozen text tower."""

import pathlib
from collections.abc import Sequence

import numpy as np

from clap_jax.inference import encoder as encoder_lib
from clap_jax.storage import arrays, locations

_MAX_BYTES = 64 << 30  # of the token vectors of all sentences


def add_texts(
  path: str | pathlib.Path,
  encoder: encoder_lib.Encoder,
  *,
  texts: Sequence[str],
  dtype: str = "float32",
) -> int:
  """Encodes what the file does not hold yet; returns how many that were.

  The .npz holds texts (n,), vectors (n, l, d), mask (n, l), and in
  `parameters` the fingerprint of the encoder. It appears whole or not at all.

  Args:
    encoder: whose text tower reads the raw sentences.
    texts: different sentences.
    dtype: of the vectors of a new file; float16 halves a large one.

  Raises:
    ValueError: the file is damaged or holds something else.
    FileExistsError: the file is of another encoder.
  """
  path = locations.at(path)
  known = {}
  if path.is_file():
    known = arrays.read_npz(path, max_bytes=_MAX_BYTES)
    missing = {"texts", "vectors", "mask"} - known.keys()
    if missing:
      raise ValueError(
        f"{path} lacks {', '.join(sorted(missing))}; it was not written by "
        "`clap texts`. Use another file."
      )
    made_with = str(known.get("parameters", encoder.fingerprint))
    if made_with != encoder.fingerprint:
      raise FileExistsError(
        f"{path} holds vectors of the encoder {made_with}, not of "
        f"{encoder.fingerprint} in {encoder.directory}; use another file."
      )
  old = set(known["texts"].tolist()) if known else set()
  new = [text for text in texts if text not in old]
  if not new:
    return 0
  vectors, mask = encoder.text_vectors(new)
  if known:
    vectors = np.concatenate([known["vectors"], vectors])
    mask = np.concatenate([known["mask"], mask])
    dtype = known["vectors"].dtype
  path.parent.mkdir(parents=True, exist_ok=True)
  texts = [*(known["texts"].tolist() if known else ()), *new]
  arrays.write_npz(
    path,
    {
      "texts": np.array(texts),
      "vectors": vectors.astype(dtype),
      "mask": mask,
      "parameters": encoder.fingerprint,
    },
  )
  return len(new)
