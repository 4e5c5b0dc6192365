"""Fetches the files of an entry into the cache and checks them.

A file appears under its name only once its hash is right: nothing else reads
one that is not.
"""

import dataclasses
import hashlib
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from clap_jax.public_weights import cache, download, origins, table
from clap_jax.storage import output, untrusted

Progress = Callable[[str, int, int], None]  # file, bytes done, bytes in all

INDEX_SUFFIX = ".index.json"
_INDEXED = (".safetensors", ".bin")
_SMALL_BYTES = 256 << 20  # of a file other than the weights
_SPARE_BYTES = 64 << 20
_MAX_INDEX_BYTES = 64 << 20
_MAX_SHARDS = 1 << 10
_MAX_COPIED_BYTES = 1 << 44
_FIRST = "no publisher: later downloads must equal this first one"


@dataclasses.dataclass(frozen=True)
class Fetched:
  """Files of an entry in the cache.

  Attributes:
    folder: of the files.
    weights: name of the weights, or of their index.
    tokenizer: name of its first file; None without one.
    record: what was written about them.
  """

  folder: pathlib.Path
  weights: str
  tokenizer: str | None
  record: dict[str, Any]


class _Fetch:
  """One run of `fetch`: its arguments, and the files that it took."""

  def __init__(self, entry, folder, origin, *, expected, known, on_progress):
    self._entry = entry
    self._folder = folder
    self._origin = origin
    self._expected = dict(expected)
    self._known = known  # name -> SHA-256 of the first download
    self._on_progress = on_progress
    self.files: dict[str, dict[str, Any]] = {}
    self._plain = entry.weights
    if named := origin.weights:
      # Under another name they are still the weights that were published.
      sha256 = entry.weights[0].sha256
      self._plain = (dataclasses.replace(named, sha256=sha256),)

  def weights(self) -> str:
    """Takes the first of the alternatives; with all files of an index."""
    plain = self._plain
    indices = tuple(
      table.File(f"{file.name}{INDEX_SUFFIX}")
      for file in plain
      if file.name.endswith(_INDEXED) and not file.sha256
    )
    taken = self._first_of([(file,) for file in (*plain, *indices)])
    if taken is None:
      names = ", ".join(file.name for file in plain)
      raise download.MissingError(
        f"{self._origin.source} has none of {names}, the weights of "
        f"{self._entry.name}."
      )
    if taken.endswith(INDEX_SUFFIX):
      for name in _shards(self._folder / taken):
        if not self._take(table.File(name)):
          raise download.MissingError(
            f"{self._origin.source} lacks {name}, which {taken} names."
          )
    return taken

  def tokenizer(self) -> str | None:
    if not self._entry.tokenizer:
      return None
    taken = self._first_of(self._entry.tokenizer)
    if taken is None:
      choices = " or ".join(
        " and ".join(file.name for file in files)
        for files in self._entry.tokenizer
      )
      raise download.MissingError(
        f"{self._origin.source} lacks {choices}, without which "
        f"{self._entry.name} reads no text."
      )
    return taken

  def configs(self) -> None:
    for file in self._entry.configs:
      self._take(file)

  def _first_of(self, alternatives) -> str | None:
    """Takes all files of the first alternative; the name of its first file."""
    for files in alternatives:
      if all(self._take(file) for file in files):
        return files[0].name
    return None

  def _take(self, file: table.File) -> bool:
    """Brings a file here; False if there is none."""
    offer = self._origin.offer(file)
    if offer is None:
      return False
    expected = self._expectation(offer)
    path = self._folder / offer.name
    if path.is_file() and self._is_kept(path, offer, expected):
      return True
    partial = path.with_name(f".{offer.name}.part")
    try:
      self._receive(offer, partial)
    except download.MissingError:
      return False
    sha256 = self._checked(offer, partial, expected)
    output.rename(partial, path)
    self._note(offer, path, sha256, expected)
    return True

  def _receive(self, offer: origins.Offer, partial: pathlib.Path) -> None:
    is_weights = offer.name.endswith((*_INDEXED, ".pt", ".pth", ".npz"))
    about = self._entry.about_bytes if is_weights else None
    report = lambda done, total: self._on_progress(  # noqa: E731
      offer.name, done, total or about or done
    )
    limit = 2 * about + _SPARE_BYTES if about else _SMALL_BYTES
    if self._origin.is_folder:
      _copy(offer, partial, max_bytes=limit)
    else:
      download.download(
        offer.place, partial, max_bytes=limit, on_progress=report
      )

  def _expectation(self, offer: origins.Offer) -> tuple[str, str, str]:
    """(SHA-256 or its first digits, Git's hash, who states them)."""
    given = self._expected.get(offer.name)
    if given is None and any(offer.name == each.name for each in self._plain):
      given = self._expected.get("")
    if given:
      return given, "", "--sha256"
    if offer.sha256:
      return offer.sha256, "", offer.stated_by
    if known := self._known.get(offer.name):
      return known, "", "the first download"
    return "", offer.blob, "the Hub" if offer.blob else _FIRST

  def _checked(self, offer, partial, expected) -> str:
    """The hash of a file that is as expected; others are removed."""
    wanted, blob, by = expected
    found = untrusted.hash_file(partial, max_bytes=_MAX_COPIED_BYTES)
    wrong = not found.startswith(wanted) or (
      blob and blob != _git_hash(partial)
    )
    if wrong:
      download.discard(partial)
      raise download.RefusedError(
        f"{offer.name} from {offer.place} has the SHA-256 {found}, expected "
        f"{wanted or f'the Git hash {blob}'} ({by}). It was removed unread: it "
        "is damaged or another file. If it is yours, state its hash: --sha256 "
        f"{offer.name}={found}."
      )
    return found

  def _is_kept(self, path, offer, expected) -> bool:
    """Returns True if the present file is the wanted one."""
    wanted, blob, _ = expected
    known = wanted or self._known.get(offer.name)
    if not known or (blob and blob != _git_hash(path)):
      return False
    found = untrusted.hash_file(path, max_bytes=_MAX_COPIED_BYTES)
    if not found.startswith(known):
      return False
    self._note(offer, path, found, expected)
    return True

  def _note(self, offer, path, sha256, expected) -> None:
    self.files[offer.name] = {
      "name": offer.name,
      "address": offer.place,
      "sha256": sha256,
      "bytes": path.stat().st_size,
      "hash_stated_by": expected[2],
    }


def fetch(
  entry: table.Entry,
  *,
  place: str | None = None,
  revision: str = "",
  sha256: Mapping[str, str] | None = None,
  on_progress: Progress = lambda name, done, total: None,
) -> Fetched:
  """Brings the files of an entry into the cache; call it with the cache locked.

  What is there and unchanged stays. A record of all files is written.

  Args:
    entry: what is wanted.
    place: an address or a folder instead of the publisher's.
    revision: of the repository on the Hub, instead of the table's.
    sha256: file name -> the hash that it must have instead of the stated one;
      "" for the weights.
    on_progress: called with every block that comes.

  Raises:
    RefusedError: a file is not what it should be, or there is none.
    DownloadError: the connection failed again and again.
    FileNotFoundError: `place` is a folder that is not there.
  """
  earlier = cache.read_record(entry.name)
  folder = cache.files_of(entry.name)
  output.make_folder(folder)
  check_same(entry.name, earlier, revision=revision, sha256=sha256 or {})
  if earlier and place is None and _is_whole(earlier, folder):
    return Fetched(folder, earlier["weights"], earlier["tokenizer"], earlier)
  if entry.repository and place is None:
    revision = revision or earlier.get("revision", "")
  origin = origins.open_origin(entry, place, revision=revision)
  if place is None:  # what lies elsewhere may be smaller
    _check_space(entry, folder)
  expected = {name: _hexadecimal(text) for name, text in (sha256 or {}).items()}
  known = {file["name"]: file["sha256"] for file in earlier.get("files", ())}
  run = _Fetch(
    entry,
    folder,
    origin,
    expected=expected,
    known=known,
    on_progress=on_progress,
  )
  run.configs()
  tokenizer = run.tokenizer()
  weights = run.weights()
  record = {
    "name": entry.name,
    "source": origin.source,
    "revision": origin.revision or earlier.get("revision", ""),
    "licence": entry.licence,
    "weights": weights,
    "tokenizer": tokenizer,
    "files": [run.files[name] for name in sorted(run.files)],
  }
  cache.write_record(entry.name, record)
  return Fetched(folder, weights, tokenizer, record)


def check_same(
  name: str,
  record: dict[str, Any],
  *,
  revision: str,
  sha256: Mapping[str, str],
) -> None:
  """Checks that what was asked for is what was recorded before.

  Raises:
    RefusedError: it is not.
  """
  if not record:
    return
  remove = f"remove {cache.folder_of(name)} to fetch another."
  if revision and record["revision"] != revision:
    raise download.RefusedError(
      f"--revision {revision:.100}: {record['revision'] or 'another'} was "
      f"fetched before; {remove}"
    )
  for file in record["files"]:
    is_weights = file["name"] == record["weights"]
    asked = sha256.get(file["name"]) or (is_weights and sha256.get(""))
    if asked and file["sha256"] != asked.lower():
      raise download.RefusedError(
        f"--sha256: {file['name']} has {file['sha256']}, got {asked:.100}; "
        f"{remove}"
      )


def _is_whole(record: dict[str, Any], folder: pathlib.Path) -> bool:
  """Whether the files of a record are there as they came."""
  for file in record["files"]:
    path = folder / origins.plain_name(file["name"])
    if not path.is_file() or file["sha256"] != untrusted.hash_file(
      path.name, folder=folder, max_bytes=_MAX_COPIED_BYTES
    ):
      return False
  return True


def _check_space(entry: table.Entry, folder: pathlib.Path) -> None:
  free = shutil.disk_usage(folder).free
  # The file, and its import in single precision.
  needed = 3 * entry.about_bytes
  if free < needed:
    raise download.DownloadError(
      f"{folder}: {free / 1e6:,.0f} MB are free, {entry.name} needs about "
      f"{needed / 1e6:,.0f} MB; set {cache.VARIABLE} to a folder on another "
      "disk."
    )


def _hexadecimal(text: str) -> str:
  if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
    raise download.RefusedError(
      f"--sha256 {text!r:.100}: expected 64 hexadecimal digits, or FILE= and "
      "those."
    )
  return text.lower()


def _copy(
  offer: origins.Offer, partial: pathlib.Path, *, max_bytes: int
) -> None:
  path = pathlib.Path(offer.place)
  if not path.exists():
    raise download.MissingError(f"There is no {path}.")
  with untrusted.open_file(path, max_bytes=max_bytes):
    pass  # its size and kind are checked
  output.copy(path, partial)


def _git_hash(path: pathlib.Path) -> str:
  """Computes Git's name of a file: SHA-1 of its length and content."""
  with untrusted.open_file(path, max_bytes=_SMALL_BYTES) as file:
    head = f"blob {untrusted.size_of(file)}\0".encode()
    digest = hashlib.sha1(head, usedforsecurity=False)
    shutil.copyfileobj(file, _Hashing(digest))
  return digest.hexdigest()


class _Hashing:
  """A file that hashes what is written to it."""

  def __init__(self, digest):
    self.write = digest.update


def _shards(index: pathlib.Path) -> list[str]:
  """The files that an index of weights names."""
  document = untrusted.read_json(index, max_bytes=_MAX_INDEX_BYTES)
  places = document.get("weight_map") if isinstance(document, dict) else None
  if not isinstance(places, dict) or not places:
    raise download.RefusedError(
      f"{index} has no weight_map of tensors and files."
    )
  names = sorted(set(map(str, places.values())))
  if len(names) > _MAX_SHARDS:
    raise download.RefusedError(f"{index} names {len(names)} files.")
  for name in names:
    if name.endswith(INDEX_SUFFIX) or not name.endswith(_INDEXED):
      raise download.RefusedError(f"{index}: {name!r:.100} is not a shard.")
    origins.plain_name(name)
  return names
