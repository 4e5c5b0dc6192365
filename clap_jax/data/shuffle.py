"""Computes shuffled orders without memory or state.

The position of item i of an endless, shuffled stream is a function of (seed, i)
alone: any number of hosts and workers agree on it, and a run resumes at any
position immediately. The arithmetic is implemented here so that the order never
depends on a library's version.
"""

_MASK = (1 << 64) - 1
_NUM_ROUNDS = 6


def mix(*values: int) -> int:
  """Computes a 64-bit hash of integers (chained splitmix64 finalisers)."""
  state = 0x9E3779B97F4A7C15
  for value in values:
    state = (state ^ (value & _MASK)) & _MASK
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    state ^= state >> 31
  return state


def permute(index: int, *, length: int, seed: int) -> int:
  """Returns entry `index` of a pseudo-random permutation of range(length).

  A Feistel network over the smallest even number of bits that holds the length;
  values beyond the length are permuted again (cycle walking).

  Raises:
    ValueError: `index` is not in [0, length).
  """
  if not 0 <= index < length:
    raise ValueError(f"index {index} is not in [0, {length})")
  half_bits = max(1, ((length - 1).bit_length() + 1) // 2)
  half_mask = (1 << half_bits) - 1
  value = index
  while True:
    left, right = value >> half_bits, value & half_mask
    for number in range(_NUM_ROUNDS):
      left, right = right, left ^ (mix(seed, number, right) & half_mask)
    value = (left << half_bits) | right
    if value < length:
      return value


def shuffled(index: int, *, length: int, seed: int) -> int:
  """Returns item `index` of endless reshuffled epochs of range(length)."""
  if length < 1:
    raise ValueError("cannot shuffle: length is 0")
  epoch, position = divmod(index, length)
  return permute(position, length=length, seed=mix(seed, epoch))
