"""Makes the pieces of a study; each in a folder of its own.

WORKDIR/pieces/KIND-KEY/        what was made
WORKDIR/pieces/KIND-KEY.json    written when it is whole: wall time, the piece
WORKDIR/pieces/KIND-KEY.failed.json   why it could not be made, last time
"""

import contextlib
import copy
import dataclasses
import pathlib
import time
import traceback
from collections.abc import Callable, Mapping

from clap_jax.console import Progress, console
from clap_jax.data import records, tokenizer
from clap_jax.evaluation import results
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import extract
from clap_jax.storage import output
from clap_jax.studies import planning
from clap_jax.trainers import registry
from tfds_builders import build

FOLDER = "pieces"
_TOKENIZER = "tokenizer.model"


@dataclasses.dataclass(frozen=True)
class Shelf:
  """The pieces of a workdir, by their names."""

  workdir: pathlib.Path

  def directory(self, name: str) -> pathlib.Path:
    return self.workdir / FOLDER / name

  def record(self, name: str) -> pathlib.Path:
    return self.workdir / FOLDER / f"{name}.json"

  def failure(self, name: str) -> pathlib.Path:
    return self.workdir / FOLDER / f"{name}.failed.json"

  def has(self, name: str) -> bool:
    return self.record(name).is_file()


def make_all(pieces: list[planning.Piece], shelf: Shelf) -> list[str]:
  """Makes what is missing; the names of those that could not be made.

  One that fails is noted with its reason, and so are those that read it; the
  others go on.
  """
  failed = []
  for piece in pieces:
    if shelf.has(piece.name):
      continue
    missing = [n for n in piece.inputs.values() if not shelf.has(n)]
    try:
      if missing:
        raise RuntimeError(f"not made: {', '.join(missing)}")
      make(piece, shelf)
    except Exception as error:  # isolated: the rest of the study goes on
      failed.append(piece.name)
      note_failure(
        piece,
        shelf,
        reason=f"{type(error).__name__}: {error}",
        trace="" if missing else traceback.format_exc(),
      )
  return failed


def note_failure(
  piece: planning.Piece, shelf: Shelf, *, reason: str, trace: str = ""
) -> None:
  output.make_folder(shelf.failure(piece.name).parent, folder=shelf.workdir)
  results.write_json(
    shelf.failure(piece.name),
    {"label": piece.label, "reason": reason, "traceback": trace},
  )


def make(piece: planning.Piece, shelf: Shelf) -> None:
  """Makes one piece, or goes on with it where it was left."""
  console.print(piece.label, style="bold")
  directory = shelf.directory(piece.name)
  output.make_folder(directory, folder=shelf.workdir)
  inputs = {role: shelf.directory(n) for role, n in piece.inputs.items()}
  started_sec = time.perf_counter()
  _MAKERS.get(piece.kind, _train_head)(piece, directory, inputs)
  with contextlib.suppress(FileNotFoundError):
    shelf.failure(piece.name).unlink()
  results.write_json(
    shelf.record(piece.name),
    {"wall_sec": time.perf_counter() - started_sec} | dataclasses.asdict(piece),
  )


Inputs = Mapping[str, pathlib.Path]


def _build_data(
  piece: planning.Piece, directory: pathlib.Path, inputs: Inputs
) -> None:
  del inputs
  if not (directory / piece.dataset / build.VERSION).exists():
    with Progress("build") as bar:
      build.build(
        piece.dataset,
        data_dir=directory,
        on_progress=lambda _, done, total: bar(done, total),
      )
  if not (directory / _TOKENIZER).exists():
    tokenizer.train_on_split(
      records.open_dataset(directory, piece.dataset),
      out=directory / _TOKENIZER,
      split="train",
      vocab_size=piece.config["vocab_size"],
    )


def _pretrain(
  piece: planning.Piece, directory: pathlib.Path, inputs: Inputs
) -> None:
  config = copy.deepcopy(piece.config)
  config["data"]["data_dir"] = str(inputs["data"])
  config["data"]["tokenizer"] = str(inputs["data"] / _TOKENIZER)
  if "start" in inputs:
    config["start"]["workdir"] = str(inputs["start"])
  registry.train(config, directory)


def _extract(
  piece: planning.Piece, directory: pathlib.Path, inputs: Inputs
) -> None:
  with Progress("extract") as bar:
    done = extract.extract(
      encoder_lib.load_encoder(inputs["pretrain"]),
      records.open_dataset(inputs["data"], piece.dataset),
      out=directory,
      stride_sec=piece.config["stride_sec"],
      on_progress=bar,
    )
  if done.failed:
    raise RuntimeError(f"videos without features: {done.failed}")


def _train_head(
  piece: planning.Piece, directory: pathlib.Path, inputs: Inputs
) -> None:
  config = copy.deepcopy(piece.config)
  config["data"]["data_dir"] = str(inputs["data"])
  config["data"]["features_dir"] = str(inputs["features"])
  registry.train(config, directory)


_MAKERS: dict[str, Callable] = {
  planning.DATA: _build_data,
  planning.START: _pretrain,
  planning.PRETRAIN: _pretrain,
  planning.FEATURES: _extract,
}
