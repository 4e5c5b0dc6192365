"""Origins of an entry's files: the publisher or a mirror."""

import dataclasses
import pathlib
import re
import urllib.parse
from collections.abc import Callable

from clap_jax.public_weights import download, hub, table

# A mirror's address with one of these ends is that of the weights themselves.
_ENDINGS = (".pt", ".pth", ".bin", ".safetensors", ".npz", ".tar", ".json")


@dataclasses.dataclass(frozen=True)
class Offer:
  """One file with its publisher's statement of it.

  Attributes:
    name: of the file, without folders.
    place: its address, or its path.
    sha256: all of the hash or its first digits; "" if it is not stated.
    stated_by: who states the hash.
    blob: Git's own hash; "" if it is not stated.
  """

  name: str
  place: str
  sha256: str = ""
  stated_by: str = ""
  blob: str = ""


@dataclasses.dataclass(frozen=True)
class Origin:
  """An origin of files.

  Attributes:
    source: for the record and for messages.
    offer: the offer of a file, which may still be missing; None if there is
      none.
    revision: the commit of a repository on the Hub; "" elsewhere.
    weights: those that the place names itself; None for the entry's.
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
  """The origin of an entry's files.

  Args:
    entry: what is wanted.
    place: an address or a folder in the place of the publisher's, or the
      address or the path of the weights, whose folder has the others; None
      for the publisher's.
    revision: of a repository on the Hub, instead of the table's.

  Raises:
    RefusedError: the place cannot be used.
    DownloadError: the Hub does not answer.
    FileNotFoundError: there is no such folder.
  """
  if revision and (place is not None or not entry.repository):
    raise download.RefusedError(
      f"--revision {revision}: only for names that come from the Hugging Face "
      f"Hub, without --from; {entry.name} comes from {place or entry.place}."
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
      f"--from: there is no folder {place}; give a folder or an https address."
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
  """A name without folders that can be one of a file.

  Raises:
    RefusedError: it is not.
  """
  if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+ -]{0,199}", name):
    raise download.RefusedError(f"{name!r:.100} is not a name of a file.")
  return name
