"""Artifacts of studies, their store, and the jobs that make them.

WORKDIR/NAME/                an artifact: a dataset, features, a training run
WORKDIR/NAME/artifact.json   its fields and wall time, written when complete
WORKDIR/NAME/failure.json    the reason of its last failure
"""

import contextlib
import copy
import dataclasses
import pathlib
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

from clap_jax.console import Progress, console
from clap_jax.data import records, tokenizer
from clap_jax.evaluation import results
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import extract
from clap_jax.storage import output, untrusted
from clap_jax.trainers import registry
from tfds_builders import build

DATA, START, PRETRAIN, FEATURES = "data", "start", "pretrain", "features"
RECORD_FILE, FAILURE_FILE = "artifact.json", "failure.json"
TOKENIZER_FILE = "tokenizer.model"


@dataclasses.dataclass(frozen=True)
class Artifact:
  """A dataset, features or a training run, made once and kept."""

  kind: str  # data, start, pretrain, features, or the task of a head
  name: str  # folder below the workdir
  label: str  # shown to users
  config: dict  # JSON values, without local paths
  key: str = ""  # hash of all that it depends on, see fingerprints.py
  row: str = ""  # "" if all rows share it
  seed: int = 0
  dataset: str = ""
  inputs: dict[str, str] = dataclasses.field(  # role -> name of an artifact
    default_factory=dict
  )
  head_seed: int | None = None  # distinguishes the heads of one encoder


@dataclasses.dataclass(frozen=True)
class Job:
  """Artifacts that one process makes, in order."""

  label: str
  artifacts: tuple[Artifact, ...]

  @property
  def name(self) -> str:
    """Returns the stem of the job's file names."""
    readable = re.sub(r"[^A-Za-z0-9=._+-]+", "_", self.label)
    key = self.artifacts[0].key[:8]
    return f"{readable}-{key}" if key else readable


@dataclasses.dataclass(frozen=True)
class ArtifactStore:
  """The artifacts of a workdir, by their names."""

  workdir: pathlib.Path

  def directory(self, name: str) -> pathlib.Path:
    return self.workdir / name

  def has(self, name: str) -> bool:
    return (self.directory(name) / RECORD_FILE).is_file()

  def record(self, name: str) -> dict:
    """Returns the fields of a finished artifact and its wall_sec."""
    return untrusted.read_json(self.directory(name) / RECORD_FILE)

  def failure(self, name: str) -> str | None:
    """Returns the reason of an artifact's failure, or None."""
    path = self.directory(name) / FAILURE_FILE
    return untrusted.read_json(path)["reason"] if path.is_file() else None

  def note_failure(self, name: str, reason: str, trace: str = "") -> None:
    output.make_folder(self.directory(name), folder=self.workdir)
    results.write_json(
      self.directory(name) / FAILURE_FILE,
      {"reason": reason, "traceback": trace},
    )

  def forget_failure(self, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
      (self.directory(name) / FAILURE_FILE).unlink()


def make_all(artifacts: Sequence[Artifact], store: ArtifactStore) -> list[str]:
  """Makes missing artifacts; returns the names of those that failed.

  The reason of each failure is recorded, also for artifacts that depend on it;
  the others continue.
  """
  failed = []
  for artifact in artifacts:
    if store.has(artifact.name):
      continue
    missing = [n for n in artifact.inputs.values() if not store.has(n)]
    try:
      if missing:
        raise RuntimeError(f"not made: {', '.join(missing)}")
      make(artifact, store)
    except Exception as error:  # must not stop the other artifacts
      failed.append(artifact.name)
      store.note_failure(
        artifact.name,
        f"{type(error).__name__}: {error}",
        "" if missing else traceback.format_exc(),
      )
  return failed


def make(artifact: Artifact, store: ArtifactStore) -> None:
  """Makes one artifact, or resumes an interrupted one."""
  console.print(artifact.label, style="bold")
  directory = store.directory(artifact.name)
  output.make_folder(directory, folder=store.workdir)
  inputs = {role: store.directory(n) for role, n in artifact.inputs.items()}
  started_sec = time.perf_counter()
  _MAKERS.get(artifact.kind, _train)(artifact, directory, inputs)
  wall_sec = time.perf_counter() - started_sec
  store.forget_failure(artifact.name)
  results.write_json(
    directory / RECORD_FILE,
    {"wall_sec": wall_sec} | dataclasses.asdict(artifact),
  )


Inputs = Mapping[str, pathlib.Path]


def _build_data(
  artifact: Artifact, directory: pathlib.Path, inputs: Inputs
) -> None:
  del inputs
  if not (directory / artifact.dataset / build.VERSION).exists():
    with Progress("build") as bar:
      build.build(
        artifact.dataset,
        data_dir=directory,
        on_progress=lambda _, done, total: bar(done, total),
      )
  if not (directory / TOKENIZER_FILE).exists():
    tokenizer.train_on_split(
      records.open_dataset(directory, artifact.dataset),
      out=directory / TOKENIZER_FILE,
      split="train",
      vocab_size=artifact.config["vocab_size"],
    )


def _extract(
  artifact: Artifact, directory: pathlib.Path, inputs: Inputs
) -> None:
  with Progress("extract") as bar:
    done = extract.extract(
      encoder_lib.load_encoder(inputs["pretrain"]),
      records.open_dataset(inputs["data"], artifact.dataset),
      out=directory,
      stride_sec=artifact.config["stride_sec"],
      on_progress=bar,
    )
  if done.failed:
    raise RuntimeError(f"videos without features: {done.failed}")


def _train(artifact: Artifact, directory: pathlib.Path, inputs: Inputs) -> None:
  config = copy.deepcopy(artifact.config)
  for key, value in places(artifact, inputs).items():
    section, name = key.split(".")
    config[section][name] = value
  registry.train(config, directory)


def places(artifact: Artifact, inputs: Inputs) -> dict[str, str]:
  """Returns the paths of a training run's inputs by their config keys."""
  found = {}
  if "data" in inputs:
    found["data.data_dir"] = str(inputs["data"])
    if "tokenizer" in artifact.config["data"]:  # configs of heads have none
      found["data.tokenizer"] = str(inputs["data"] / TOKENIZER_FILE)
  if "features" in inputs:
    found["data.features_dir"] = str(inputs["features"])
  if "start" in inputs:
    found["start.workdir"] = str(inputs["start"])
  return found


_MAKERS: dict[str, Callable] = {DATA: _build_data, FEATURES: _extract}
