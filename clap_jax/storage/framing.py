"""Implements the framing of TFRecord files.

A record on disk is: length (uint64, little endian), masked CRC32C of those
eight bytes (uint32), the data, masked CRC32C of the data (uint32).
"""

import struct

import crc32c

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8


def masked_crc32c(data: bytes) -> int:
  """Computes the rotated and shifted CRC32C of TFRecord files."""
  crc = crc32c.crc32c(data)
  return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


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
