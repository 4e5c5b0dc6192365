"""The files of a demo and the log of its stages.

WORKDIR/
  data/rendered/motion_sprites/SIZE/   mp4 files and annotations.json
  data/motion_sprites/SIZE/1.0.0/      TFRecords, index, manifests
  data/tokenizer.model
  models/SEED/ENCODER/                 model.json: what `clap predict` takes
    pretrain/ features/ localization/ grounding/
  models/SEED/start/pretrain/          where tac and clap start from
  unseen/                              a video that no stage reads, predictions
  results.json  stages.json  report.html
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator

from clap_jax.console import console
from clap_jax.evaluation import results
from clap_jax.report import content
from clap_jax.storage import untrusted

STAGES_FILE = "stages.json"
REPORT_STAGE = "report"


@dataclasses.dataclass(frozen=True)
class Layout:
  """Paths in the workdir of a demo."""

  root: pathlib.Path
  size: str

  @property
  def dataset(self) -> str:
    return f"motion_sprites/{self.size}"

  @property
  def data(self) -> pathlib.Path:
    return self.root / "data"

  @property
  def rendered(self) -> pathlib.Path:
    return self.data / "rendered" / self.dataset

  @property
  def tokenizer(self) -> pathlib.Path:
    return self.data / "tokenizer.model"

  @property
  def unseen(self) -> pathlib.Path:
    return self.root / "unseen"

  def model(self, encoder: str, seed: int) -> pathlib.Path:
    return self.root / "models" / f"seed{seed}" / encoder


class StageLog:
  """Says what each stage reads and writes, and keeps its wall time."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._stages = untrusted.read_json(path) if path.is_file() else {}

  @contextlib.contextmanager
  def stage(
    self, name: str, *, reads: str, writes: str, command: str
  ) -> Iterator[None]:
    console.print(f"{name}  reads {reads}, writes {writes}", style="bold")
    started_sec = time.perf_counter()
    yield
    wall_sec = time.perf_counter() - started_sec
    if name == REPORT_STAGE and self.has(name, command):
      return  # the page is written by every call; the first one's cost stays
    # A stage that found its work done says nothing new about its cost.
    known = self._stages.get(name, {}).get("wall_sec", 0.0)
    self._stages[name] = {
      "wall_sec": max(wall_sec, known),
      "reads": reads,
      "writes": writes,
      "command": command,
    }
    results.write_json(self._path, self._stages)
    console.print(f"  done in {wall_sec:.1f} s")

  def has(self, name: str, command: str) -> bool:
    """Whether the stage was finished with this very command."""
    return self._stages.get(name, {}).get("command") == command

  def as_content(self) -> list[content.Stage]:
    """All but the page itself, whose cost is not known when it is written."""
    return [
      content.Stage(name=name, **facts)
      for name, facts in self._stages.items()
      if name != REPORT_STAGE
    ]
