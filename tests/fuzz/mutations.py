"""Random changes to files: of bytes, and of the values of JSON documents."""

import copy
import random
from typing import Any

_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 48)
_TOKENS = (
  b"\x93NUMPY",
  b"PK\x03\x04",
  b"PK\x01\x02",
  b"PK\x05\x06",
  b"(9223372036854775807,)",
  b"'|O'",
  b"-" * 64,
  b"(" * 256,
  b"[" * 2000,
  b"{" * 64,
  b'"',
  b"\x00",
  b"nan",
  b"1e999",
  b"-1",
  b"../../x",
  b"/etc/passwd",
  b"\x1b[2J",
  b"\xff\xfe",
  b"\xef\xbb\xbf",
  b"h\x00",
  b"\x8c\x01",
  b"\x8d",
  b"R",
  b"Q",
  b"]",
  b"}",
  b"u",
  b"e",
  b".",
)
_VALUES = (
  None,
  True,
  -1,
  0,
  1 << 70,
  1e308,
  float("nan"),
  "",
  "x",
  "../../x",
  "\x1b[2J\ud800",
  [],
  {},
  [[]] * 3,
  {"a": {"b": {}}},
  ["x"] * 100,
)


def of_bytes(rng: random.Random, content: bytes) -> bytes:
  """One to eight changes."""
  made = bytearray(content)
  for _ in range(1 << rng.randrange(4)):
    place = rng.randrange(len(made) + 1)
    match rng.randrange(7):
      case 0 if made:
        made[min(place, len(made) - 1)] = rng.randrange(256)
      case 1 if made:
        made[min(place, len(made) - 1)] ^= 1 << rng.randrange(8)
      case 2:
        width = rng.choice((1, 2, 4, 8))
        number = rng.choice(_NUMBERS) & ((1 << 8 * width) - 1)
        made[place : place + width] = number.to_bytes(width, "little")
      case 3:
        made[place:place] = rng.choice(_TOKENS)
      case 4:
        del made[place : place + (1 << rng.randrange(8))]
      case 5:
        end = place + (1 << rng.randrange(8))
        made[place:place] = made[place:end] * rng.choice((1, 2, 64))
      case 6 if not rng.randrange(4):
        del made[place:]
  return bytes(made)


def of_document(rng: random.Random, document: Any) -> Any:
  """One to four values replaced, removed or repeated."""
  made = copy.deepcopy(document)
  for _ in range(1 << rng.randrange(3)):
    holders = [made] if isinstance(made, dict | list) else []
    for holder in holders:  # grows
      children = holder.values() if isinstance(holder, dict) else holder
      holders += [c for c in children if isinstance(c, dict | list)][:50]
    holders = [holder for holder in holders if holder]
    if not holders:
      return rng.choice(_VALUES)
    holder = rng.choice(holders)
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    key = rng.choice(keys)
    if rng.randrange(4) == 0:
      del holder[key]
    elif rng.randrange(4) == 0 and isinstance(holder, list):
      holder.append(copy.deepcopy(holder[key]))
    else:
      holder[key] = copy.deepcopy(rng.choice(_VALUES))
  return made
