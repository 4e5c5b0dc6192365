"""The framing of TFRecord files.

A record on disk is: length (uint64, little endian), masked CRC32C of those
eight bytes (uint32), the data, masked CRC32C of the data (uint32).
"""

import struct

import crc32c

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8


def masked_crc32c(data: bytes) -> int:
  """The rotated and shifted CRC32C that TFRecord files store."""
  crc = crc32c.crc32c(data)
  return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def frame_record(data: bytes) -> bytes:
  """The bytes that a TFRecord file holds for one record."""
  length = struct.pack("<Q", len(data))
  return b"".join(
    (
      HEADER.pack(len(data), masked_crc32c(length)),
      data,
      FOOTER.pack(masked_crc32c(data)),
    )
  )
