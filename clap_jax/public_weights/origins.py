"""Locates an entry's files at its publisher or a mirror."""

import dataclasses
import pathlib
import re
import urllib.parse
from collections.abc import Callable

from clap_jax.public_weights import download, hub, table

# A mirror's address with one of these suffixes is a weights file, not a folder.
_ENDINGS = (".pt", ".pth", ".bin", ".safetensors", ".npz", ".tar", ".json")


@dataclasses.dataclass(frozen=True)
class Offer:
  """One available file and its published hash.

  Attributes:
    name: name of the file, without folders.
    place: address or path of the file.
    sha256: hash or its first digits; "" if unknown.
    stated_by: source of the hash.
    blob: Git hash; "" if unknown.
  """

  name: str
  place: str
  sha256: str = ""
  stated_by: str = ""
  blob: str = ""


@dataclasses.dataclass(frozen=True)
class Origin:
  """A publisher, mirror or folder with the files of an entry.

  Attributes:
    source: description for the record and messages.
    offer: returns the offer of a file, which may still be missing, or None.
    revision: commit of a repository on the Hub; "" elsewhere.
    weights: weights file that the place names; None for the entry's.
    is_folder: whether places are paths.
  """

  source: str
  offer: Callable[[table.File], Offer | None]
  revision: str = ""
  weights: table.File | None = None
  is_folder: bool = False


def open_origin(
  entry: table.Entry, place: str | None, *, revision: str = ""
) -> Origin:
  """Opens the origin of an entry's files.

  Args:
    entry: entry of the table.
    place: address or path of a mirror folder, or of the weights in it; None
      for the publisher.
    revision: revision of the Hub repository to use instead of the table's.

  Raises:
    RefusedError: if the place cannot be used.
    DownloadError: if the Hub does not respond.
    FileNotFoundError: if the folder does not exist.
  """
  if revision and (place is not None or not entry.repository):
    raise download.RefusedError(
      f"--revision {revision}: only allowed for names on the Hugging Face Hub "
      f"without --from; {entry.name} comes from {place or entry.place}."
    )
  if place is None:
    return _published(entry, revision)
  if download.is_address(place):
    return _web_mirror(place)
  return _folder(place)


def _published(entry: table.Entry, revision: str) -> Origin:
  repository = None
  if entry.repository:
    repository = hub.describe(entry.repository, revision or entry.revision)

  def offer(file: table.File) -> Offer | None:
    if file.address:
      return _stated(file, file.address)
    found = repository and repository.files.get(file.name)
    if not found:
      return None
    return Offer(file.name, found.address, found.sha256, "the Hub", found.blob)

  if repository is None:
    return Origin(entry.weights[0].address, offer)
  source = f"https://huggingface.co/{entry.repository}"
  return Origin(source, offer, revision=repository.commit)


def _web_mirror(address: str) -> Origin:
  download.check_address(address)
  parts = urllib.parse.urlsplit(address)
  folder, _, last = parts.path.rpartition("/")
  weights = None
  if last.endswith(_ENDINGS):
    weights = table.File(plain_name(urllib.parse.unquote(last)))
  else:
    folder = parts.path.rstrip("/")

  def offer(file: table.File) -> Offer:
    if weights and file.name == weights.name:
      return _stated(file, address)
    path = f"{folder}/{urllib.parse.quote(file.name)}"
    return _stated(file, urllib.parse.urlunsplit(parts._replace(path=path)))

  return Origin(address, offer, weights=weights)


def _folder(place: str) -> Origin:
  path = pathlib.Path(place).expanduser().absolute()
  if not path.exists():
    raise FileNotFoundError(
      f"--from: {place} does not exist; pass a folder or an https address."
    )
  weights = None if path.is_dir() else table.File(plain_name(path.name))
  folder = path if path.is_dir() else path.parent

  def offer(file: table.File) -> Offer:
    return _stated(file, str(folder / file.name))

  return Origin(str(path), offer, weights=weights, is_folder=True)


def _stated(file: table.File, place: str) -> Offer:
  by = "its publisher" if file.sha256 else ""
  return Offer(file.name, place, file.sha256, by)


def plain_name(name: str) -> str:
  """Returns a name unchanged if it is a plain file name without folders.

  Raises:
    RefusedError: if it is not.
  """
  if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+ -]{0,199}", name):
    raise download.RefusedError(f"{name!r:.100} is not a plain file name.")
  return name
