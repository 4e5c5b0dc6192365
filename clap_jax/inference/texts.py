"""Token vectors of sentences by the frozen text tower."""

import pathlib
from collections.abc import Sequence

import numpy as np

from clap_jax.inference import encoder as encoder_lib


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
    path: of the .npz.
    encoder: whose text tower reads the raw sentences.
    texts: different sentences.
    dtype: of the vectors of a new file; float16 halves a large one.

  Raises:
    FileExistsError: the file is of another encoder.
  """
  path = pathlib.Path(path)
  known = {}
  if path.is_file():
    with np.load(path, allow_pickle=False) as arrays:
      known = {key: arrays[key] for key in arrays.files}
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
  partial = path.with_suffix(".tmp")
  with partial.open("wb") as file:
    np.savez(
      file,
      texts=np.array([*(known["texts"].tolist() if known else ()), *new]),
      vectors=vectors.astype(dtype),
      mask=mask,
      parameters=encoder.fingerprint,
    )
  partial.replace(path)
  return len(new)
