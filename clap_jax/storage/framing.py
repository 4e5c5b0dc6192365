"""Implements the framing of TFRecord files.

A record on disk is: length (uint64, little endian), masked CRC32C of those
eight bytes (uint32), the data, masked CRC32C of the data (uint32).
"""

import struct

import crc32c
import numpy as np

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8


def masked_crc32c(data: bytes | memoryview) -> int:
  """Computes the rotated and shifted CRC32C of TFRecord files."""
  crc = crc32c.crc32c(data)
  return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def check_offsets(offsets: np.ndarray, *, num_bytes: int) -> None:
  """Checks the offsets of all records of a shard.

  Raises:
    ValueError: they cannot be those of a shard of `num_bytes`.
  """
  if not len(offsets):
    if num_bytes:
      raise ValueError("no offset, although the shard is not empty")
  elif offsets[0] != 0 or np.any(offsets[1:] <= offsets[:-1]):
    raise ValueError("offsets that do not increase from 0")
  elif offsets[-1] >= num_bytes:
    raise ValueError(
      f"an offset beyond the shard's end ({offsets[-1]} of {num_bytes} bytes)"
    )


def frame_record(data: bytes) -> bytes:
  """Frames a record for a TFRecord file."""
  length = struct.pack("<Q", len(data))
  return b"".join(
    (
      HEADER.pack(len(data), masked_crc32c(length)),
      data,
      FOOTER.pack(masked_crc32c(data)),
    )
  )
