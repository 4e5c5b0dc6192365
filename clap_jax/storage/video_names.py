"""Resolves video names and converts names to safe ids.

An annotation may name `a.mp4` by `a`, `./a.mp4`, `C:\\videos\\a.mp4`, `A.MP4`,
`v_a` (as ActivityNet does) or in another Unicode form. A name that matches two
videos is refused, never guessed.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable

_ENDING = re.compile(r"\.(?=[A-Za-z0-9]*[A-Za-z])[A-Za-z0-9]{1,5}$")
_DRIVE = re.compile(r"[A-Za-z]:(?=[\\/])")
_HASH_DIGITS = 8
_MAX_ID_LENGTH = 128


class AmbiguousNameError(ValueError):
  """Raised if a name matches several videos; lists them."""


def normalize(name: str) -> str:
  """Normalizes to NFC, with `/`, without `./` and drive letters."""
  name = unicodedata.normalize("NFC", name.strip())
  if _DRIVE.match(name) or ("\\" in name and "/" not in name):
    name = _DRIVE.sub("", name, count=1).replace("\\", "/")
  parts = [part for part in name.split("/") if part not in ("", ".")]
  root = "/" if name.startswith("/") else ""
  return root + "/".join(parts)


def base(name: str) -> str:
  """Returns the normalized part after the last folder."""
  return normalize(name).rpartition("/")[2]


def stem(name: str) -> str:
  """Returns the normalized name without its file extension."""
  return _ENDING.sub("", normalize(name))


def toggled(name: str) -> str:
  """Adds or removes ActivityNet's `v_` before the base name."""
  folder, slash, last = name.rpartition("/")
  last = last.removeprefix("v_") if last.startswith("v_") else f"v_{last}"
  return f"{folder}{slash}{last}"


def _base_stem(name: str) -> str:
  return stem(base(name))


# From the surest to the least sure: each is (key of a known name, keys of the
# name that is looked for). A stage counts only where no earlier one found any.
_STAGES: tuple[
  tuple[Callable[[str], str], Callable[[str], tuple[str, ...]]], ...
] = (
  (normalize, lambda name: (normalize(name),)),
  (stem, lambda name: (normalize(name),)),
  (stem, lambda name: (toggled(normalize(name)),)),
  (base, lambda name: (base(name),)),
  (_base_stem, lambda name: (base(name),)),
  (_base_stem, lambda name: (toggled(base(name)),)),
  (_base_stem, lambda name: (_base_stem(name),)),
  (_base_stem, lambda name: (toggled(_base_stem(name)),)),
  (
    lambda name: _base_stem(name).casefold(),
    lambda name: (base(name).casefold(), _base_stem(name).casefold()),
  ),
  (
    lambda name: _base_stem(name).casefold(),
    lambda name: (
      toggled(base(name).casefold()),
      toggled(_base_stem(name).casefold()),
    ),
  ),
)
_NUM_EXACT_STAGES = len(_STAGES) - 2


class NameIndex:
  """An index of videos by every unambiguous name."""

  def __init__(self, names: Iterable[str], *, any_case: bool = True):
    """Indexes the names of the videos.

    Args:
      names: files below a folder, or ids.
      any_case: whether `A.MP4` matches `a.mp4`; False for ids that differ by
        case only, such as YouTube's.
    """
    self._names = tuple(dict.fromkeys(names))
    self._known = frozenset(self._names)
    self._num_stages = len(_STAGES) if any_case else _NUM_EXACT_STAGES
    self._by_key: dict[int, dict[str, list[str]]] = {}

  def find(self, name: str) -> str | None:
    """Returns the known name that `name` matches, or None.

    Raises:
      AmbiguousNameError: it matches several.
    """
    if name in self._known:
      return name
    for stage in range(self._num_stages):
      keys_of = _STAGES[stage][1]
      table = self._table(stage)
      keys = dict.fromkeys(keys_of(name))
      found = dict.fromkeys(n for key in keys for n in table.get(key, ()))
      if len(found) > 1:
        listed = ", ".join(list(found)[:3])
        raise AmbiguousNameError(f"several files of that name: {listed}")
      if found:
        return next(iter(found))
    return None

  def _table(self, stage: int) -> dict[str, list[str]]:
    if stage not in self._by_key:
      key_of = _STAGES[stage][0]
      table: dict[str, list[str]] = {}
      for name in self._names:
        table.setdefault(key_of(name), []).append(name)
      self._by_key[stage] = table
    return self._by_key[stage]


def is_own(name: str, file_name: str) -> bool:
  """Returns True if a name matches a file up to folders, extension, `v_`."""
  of_file = stem(file_name)
  forms = {of_file, base(of_file)}
  forms |= {toggled(form) for form in forms}
  return not forms.isdisjoint((normalize(name), stem(name)))


def same_video(first: str, second: str) -> bool:
  """Returns True if two names can refer to the same file.

  They can if their base names are equal and the folders of one are a suffix of
  those of the other: `a.mp4`, `x/a` and `/home/me/x/A.mp4`, but not `x/a.mp4`
  and `y/a.mp4`.
  """
  if _base_stem(first).casefold() != _base_stem(second).casefold():
    return False
  folders = [
    tuple(part.casefold() for part in normalize(name).strip("/").split("/"))[
      :-1
    ]
    for name in (first, second)
  ]
  short, long = sorted(folders, key=len)
  return not short or long[-len(short) :] == short


def spellings(name: str) -> tuple[str, ...]:
  """Returns possible names of a video's files, the most likely first."""
  forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
  forms = [name, *forms]
  forms += [_ENDING.sub("", form) for form in forms]
  forms += [toggled(form) for form in forms]
  return tuple(dict.fromkeys(forms))


def slug(name: str) -> str:
  """Reduces a name to ASCII; a hash distinguishes other scripts.

  `a/b c` becomes `a_b_c`. If letters of another script are dropped, eight
  digits of a hash of the NFC form are appended.
  """
  name = unicodedata.normalize("NFC", name)
  text = re.sub(r"[^A-Za-z0-9_-]+", "_", name)
  if name.isascii():
    return text
  digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
  text = text.strip("_")[: _MAX_ID_LENGTH - _HASH_DIGITS - 1]
  return f"{text}_{digest}" if text else digest
