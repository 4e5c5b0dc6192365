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

# Import options that determine the clip shape.
_OF_CLIPS = ("num_frames", "tubelet_frames")
# Keys of the cache record that the import's manifest repeats.
_RECORDED = ("name", "source", "revision", "licence")


@dataclasses.dataclass(frozen=True)
class Got:
  """Result of `get`.

  Attributes:
    record: record of the files; see fetching.fetch.
    directory: directory of the imported encoder.
    imported: result of the import; None if an earlier call imported it.
  """

  record: dict[str, Any]
  directory: pathlib.Path
  imported: import_weights.Imported | None

  @property
  def sha256(self) -> str:
    """Returns the hash of the weights file, or of its index."""
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

  Cached files are not fetched again. Concurrent calls for a name wait for each
  other.

  Args:
    out: directory of the import; None uses the cache.
    place: address or folder to use instead of the publisher's.
    revision: revision of the Hub repository to use instead of the table's.
    sha256: maps file names to expected hashes; see fetching.fetch.
    options: import options to use instead of the table's; only with `out`.
    on_wait: called before waiting for another call.
    on_progress: called after each block.

  Raises:
    ValueError: if the name is unknown, a file has another hash, or the weights
      do not fit their source.
    DownloadError: if the connection fails repeatedly.
    FileExistsError: if `out` already contains weights.
  """
  entry = table.find(name)
  if options and out is None:
    raise ValueError(
      f"{', '.join(f'--{key}' for key in options)}: only allowed with --out; "
      "imports into the cache use the table's options."
    )
  if out is not None and (pathlib.Path(out) / cache.MANIFEST).exists():
    raise FileExistsError(f"{out} already contains weights; use another --out.")
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
  if not clip:  # the table's single-frame options do not fit longer clips
    options = {k: v for k, v in options.items() if k not in _OF_CLIPS}
  public = {key: fetched.record[key] for key in _RECORDED}
  tokenizer = fetched.tokenizer and fetched.folder / fetched.tokenizer
  return import_weights.import_weights(
    fetched.folder / fetched.weights,
    source=entry.source,
    out=target,
    options=source_lib.Options(**(options | dict(given))),
    tokenizer=tokenizer,
    metadata={"public": public, **clip},
    colours=entry.colours and frames.ColourScale(*entry.colours),
  )
