"""Fetches the files of an entry into the cache and checks them.

A file gets its final name only after its hash was checked, so that no other
code reads unchecked files.
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

Progress = Callable[[str, int, int], None]  # (file, bytes done, total bytes)

INDEX_SUFFIX = ".index.json"
_INDEXED = (".safetensors", ".bin")
_SMALL_BYTES = 256 << 20  # limit of files other than the weights
_SPARE_BYTES = 64 << 20
_MAX_INDEX_BYTES = 64 << 20
_MAX_SHARDS = 1 << 10
_MAX_COPIED_BYTES = 1 << 44
_FIRST = "no publisher: later downloads must equal this first one"


@dataclasses.dataclass(frozen=True)
class Fetched:
  """Files of an entry in the cache.

  Attributes:
    folder: folder of the files.
    weights: name of the weights file, or of its index.
    tokenizer: name of the first tokenizer file; None without a tokenizer.
    record: contents of the cache record.
  """

  folder: pathlib.Path
  weights: str
  tokenizer: str | None
  record: dict[str, Any]


class _Fetch:
  """One run of `fetch`: its arguments, and the files fetched so far."""

  def __init__(self, entry, folder, origin, *, expected, known, on_progress):
    self._entry = entry
    self._folder = folder
    self._origin = origin
    self._expected = dict(expected)
    self._known = known  # maps names to the SHA-256 of the first download
    self._on_progress = on_progress
    self.files: dict[str, dict[str, Any]] = {}
    self._plain = entry.weights
    if named := origin.weights:
      # A mirror may rename the weights, but their hash must be the same.
      sha256 = entry.weights[0].sha256
      self._plain = (dataclasses.replace(named, sha256=sha256),)

  def weights(self) -> str:
    """Fetches the first available weights, with all shards of an index."""
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
        f"{self._origin.source} has none of {names}, expected as the weights "
        f"of {self._entry.name}."
      )
    if taken.endswith(INDEX_SUFFIX):
      for name in _shards(self._folder / taken):
        if not self._take(table.File(name)):
          raise download.MissingError(
            f"{self._origin.source} lacks {name}, which {taken} lists."
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
        f"{self._origin.source} lacks {choices}, the tokenizer of "
        f"{self._entry.name}."
      )
    return taken

  def configs(self) -> None:
    for file in self._entry.configs:
      self._take(file)

  def _first_of(self, alternatives) -> str | None:
    """Fetches the first complete alternative; returns its first file name."""
    for files in alternatives:
      if all(self._take(file) for file in files):
        return files[0].name
    return None

  def _take(self, file: table.File) -> bool:
    """Fetches a file; returns False if it does not exist."""
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
    output.move(partial, path)
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
    """Returns (SHA-256 or its first digits, Git hash, source of the hash)."""
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
    """Returns the hash of a file, or removes the file if it is wrong."""
    wanted, blob, by = expected
    found = untrusted.hash_file(partial, max_bytes=_MAX_COPIED_BYTES)
    wrong = not found.startswith(wanted) or (
      blob and blob != _git_hash(partial)
    )
    if wrong:
      download.discard(partial)
      raise download.RefusedError(
        f"{offer.name} from {offer.place} has the SHA-256 {found}, expected "
        f"{wanted or f'the Git hash {blob}'} ({by}). The file is damaged or "
        "another one and was removed unread. If you trust it, pass --sha256 "
        f"{offer.name}={found}."
      )
    return found

  def _is_kept(self, path, offer, expected) -> bool:
    """Returns True if the cached file has the expected hash."""
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
  """Fetches the files of an entry into the cache and writes their record.

  The caller holds `cache.locked`. Unchanged cached files are not fetched again.

  Args:
    entry: entry of the table.
    place: address or folder to use instead of the publisher's.
    revision: revision of the Hub repository to use instead of the table's.
    sha256: maps file names to hashes to use instead of the published ones; the
      key "" stands for the weights.
    on_progress: called after each block.

  Raises:
    RefusedError: if a file is missing or has another hash.
    DownloadError: if the connection fails repeatedly or the disk is too full.
    FileNotFoundError: if `place` is a folder that does not exist.
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
  if place is None:  # files of a mirror may be smaller
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
  """Checks a requested revision and hashes against an earlier record.

  Raises:
    RefusedError: if they differ.
  """
  if not record:
    return
  remove = f"remove {cache.folder_of(name)} to fetch another file."
  if revision and record["revision"] != revision:
    raise download.RefusedError(
      f"--revision {revision:.100}: {record['revision'] or 'another'} is "
      f"cached; {remove}"
    )
  for file in record["files"]:
    is_weights = file["name"] == record["weights"]
    asked = sha256.get(file["name"]) or (is_weights and sha256.get(""))
    if asked and file["sha256"] != asked.lower():
      raise download.RefusedError(
        f"--sha256: the cached {file['name']} has {file['sha256']}, got "
        f"{asked:.100}; {remove}"
      )


def _is_whole(record: dict[str, Any], folder: pathlib.Path) -> bool:
  """Returns True if all files of a record exist unchanged."""
  for file in record["files"]:
    path = folder / origins.plain_name(file["name"])
    if not path.is_file() or file["sha256"] != untrusted.hash_file(
      path.name, folder=folder, max_bytes=_MAX_COPIED_BYTES
    ):
      return False
  return True


def _check_space(entry: table.Entry, folder: pathlib.Path) -> None:
  free = shutil.disk_usage(folder).free
  # The file and its import, which is in single precision.
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
      f"--sha256 {text!r:.100}: expected 64 hexadecimal digits, or FILE=DIGITS."
    )
  return text.lower()


def _copy(
  offer: origins.Offer, partial: pathlib.Path, *, max_bytes: int
) -> None:
  path = pathlib.Path(offer.place)
  if not path.exists():
    raise download.MissingError(f"{path} does not exist.")
  with untrusted.open_file(path, max_bytes=max_bytes):
    pass  # opening checks its size and kind
  output.copy(path, partial)


def _git_hash(path: pathlib.Path) -> str:
  """Computes Git's hash of a file: SHA-1 of its length and content."""
  with untrusted.open_file(path, max_bytes=_SMALL_BYTES) as file:
    head = f"blob {untrusted.size_of(file)}\0".encode()
    digest = hashlib.sha1(head, usedforsecurity=False)
    shutil.copyfileobj(file, _Hashing(digest))
  return digest.hexdigest()


class _Hashing:
  """A writable file object that hashes its input."""

  def __init__(self, digest):
    self.write = digest.update


def _shards(index: pathlib.Path) -> list[str]:
  """Lists the files that a weights index refers to."""
  document = untrusted.read_json(index, max_bytes=_MAX_INDEX_BYTES)
  places = document.get("weight_map") if isinstance(document, dict) else None
  if not isinstance(places, dict) or not places:
    raise download.RefusedError(
      f"{index} has no weight_map from tensors to files."
    )
  names = sorted(set(map(str, places.values())))
  if len(names) > _MAX_SHARDS:
    raise download.RefusedError(
      f"{index} lists {len(names)} files; expected at most {_MAX_SHARDS}."
    )
  for name in names:
    if name.endswith(INDEX_SUFFIX) or not name.endswith(_INDEXED):
      raise download.RefusedError(
        f"{index}: {name!r:.100} is not a shard; expected "
        f"{' or '.join(_INDEXED)}."
      )
    origins.plain_name(name)
  return names
