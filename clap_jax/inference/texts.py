"""Encodes sentences to token vectors with the frozen text tower."""

from collections.abc import Sequence

import numpy as np

from clap_jax.inference import encoder as encoder_lib
from clap_jax.storage import arrays, locations

_MAX_BYTES = 64 << 30  # of the token vectors of all sentences


def add_texts(
  path: locations.PathLike,
  encoder: encoder_lib.Encoder,
  *,
  texts: Sequence[str],
  dtype: str | np.dtype = "float32",
) -> int:
  """Adds the sentences that a file of token vectors lacks.

  The .npz contains texts (n,), vectors (n, l, d), mask (n, l) and the encoder's
  fingerprint (`parameters`). It is written atomically.

  Args:
    texts: distinct sentences.
    dtype: type of the vectors in a new file; float16 halves its size.

  Returns:
    The number of sentences added.

  Raises:
    ValueError: if the file is damaged or has other arrays.
    FileExistsError: if another encoder made the file.
  """
  path = locations.at(path)
  known = {}
  if path.is_file():
    known = arrays.read_npz(path, max_bytes=_MAX_BYTES)
    missing = {"texts", "vectors", "mask"} - known.keys()
    if missing:
      raise ValueError(
        f"{path} lacks {', '.join(sorted(missing))}, so `clap texts` did not "
        "write it; use another file."
      )
    made_with = str(known.get("parameters", encoder.fingerprint))
    if made_with != encoder.fingerprint:
      raise FileExistsError(
        f"{path} contains vectors of the encoder {made_with}, not of "
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
