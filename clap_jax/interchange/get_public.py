"""Fetches, checks and imports public checkpoints by name."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from clap_jax.interchange import import_weights
from clap_jax.interchange import source as source_lib
from clap_jax.models import frames
from clap_jax.public_weights import cache, fetching, table

# Options of an import that decide how clips are cut.
_OF_CLIPS = ("num_frames", "tubelet_frames")
# What the manifest of an import keeps of the record of its files.
_RECORDED = ("name", "source", "revision", "licence")


@dataclasses.dataclass(frozen=True)
class Got:
  """Result of `get`.

  Attributes:
    record: of the files; see fetching.fetch.
    directory: of the imported encoder.
    imported: what became of the weights; None if they had been imported before.
  """

  record: dict[str, Any]
  directory: pathlib.Path
  imported: import_weights.Imported | None

  @property
  def sha256(self) -> str:
    """The hash of the weights, or of the index of their files."""
    (found,) = (
      file["sha256"]
      for file in self.record["files"]
      if file["name"] == self.record["weights"]
    )
    return found


def get(
  name: str,
  *,
  out: str | os.PathLike | None = None,
  place: str | None = None,
  revision: str = "",
  sha256: Mapping[str, str] | None = None,
  options: Mapping[str, Any] | None = None,
  on_wait: Callable[[], None] = lambda: None,
  on_progress: fetching.Progress = lambda name, done, total: None,
) -> Got:
  """Fetches a checkpoint into the cache and imports it.

  What is there stays. Several calls for one name wait for each other.

  Args:
    out: the directory to import to, instead of the cache's own.
    place: an address or a folder instead of the publisher's.
    revision: of a repository on the Hub, instead of the table's.
    sha256: file name -> expected hash; see fetching.fetch.
    options: of the import, instead of the table's; with `out` only.
    on_wait: called before another call is waited for.
    on_progress: called with every block that comes.

  Raises:
    ValueError: there is no such name, a file is not what it should be, or the
      weights do not fit their source.
    DownloadError: the connection failed again and again.
    FileExistsError: `out` holds weights.
  """
  entry = table.find(name)
  if options and out is None:
    raise ValueError(
      f"{', '.join(f'--{key}' for key in options)}: only with --out, for what "
      "has the name is imported as the table says."
    )
  if out is not None and (pathlib.Path(out) / cache.MANIFEST).exists():
    raise FileExistsError(f"{out} holds weights already; give another --out.")
  with cache.locked(entry.name, on_wait):
    if out is None and cache.is_there(entry.name):
      record = cache.read_record(entry.name)
      fetching.check_same(
        entry.name, record, revision=revision, sha256=sha256 or {}
      )
      if record:
        return Got(record, cache.encoder_of(entry.name), None)
    fetched = fetching.fetch(
      entry,
      place=place,
      revision=revision,
      sha256=sha256,
      on_progress=on_progress,
    )
    target = cache.encoder_of(entry.name) if out is None else out
    imported = _import(entry, fetched, target, options or {})
  return Got(fetched.record, pathlib.Path(target), imported)


def _import(entry, fetched, target, given) -> import_weights.Imported:
  clip = {}
  if entry.clip and not set(given) & set(_OF_CLIPS):
    clip = {"clip": dict(entry.clip), "stride_sec": entry.stride_sec}
  options = dict(entry.options)
  if not clip:  # those of single frames suit no clips of several
    options = {k: v for k, v in options.items() if k not in _OF_CLIPS}
  public = {key: fetched.record[key] for key in _RECORDED}
  tokenizer = fetched.tokenizer and fetched.folder / fetched.tokenizer
  return import_weights.import_weights(
    fetched.folder / fetched.weights,
    source=entry.source,
    out=target,
    options=source_lib.Options(**(options | dict(given))),
    tokenizer=tokenizer,
    facts={"public": public, **clip},
    colours=entry.colours and frames.ColourScale(*entry.colours),
  )
