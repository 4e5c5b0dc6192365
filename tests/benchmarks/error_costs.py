"""What each kind of detection error costs the rows of a study.

  python -m tests.benchmarks.error_costs --study WORKDIR --json OUT

WORKDIR is of `clap study`. The predictions of every localization head there are
diagnosed (clap_jax/metrics/diagnosis.py); printed are, by dataset and row, the
rise of average mAP if the errors of a kind were not there and their share of
the predictions, each a mean over seeds and heads. It sets the `near_misses` of
motion_sprites: docs/the_claim_protocol.md says by which figure.
"""

import functools
import pathlib

import numpy as np

from clap_jax.data import records
from clap_jax.evaluation import localization
from clap_jax.metrics import diagnosis, prediction_files, protocols
from clap_jax.storage import untrusted
from clap_jax.studies import artifacts
from tests.benchmarks import running


@functools.cache
def _truth(data_dir: pathlib.Path, dataset: str, split: str):
  found = records.open_dataset(data_dir, dataset)
  infos = found.split(split).metadata(on_corrupt="skip").examples
  return localization.truth_of(infos, found.label_names)


def read_heads(workdir: pathlib.Path) -> list[artifacts.Artifact]:
  """The localization heads that are made in a study's workdir."""
  found = []
  for path in sorted(workdir.glob(f"*/localization-*/{artifacts.RECORD_FILE}")):
    record = untrusted.read_json(path)
    del record["wall_sec"]
    found.append(artifacts.Artifact(**record))
  return found


def diagnosed(
  head: artifacts.Artifact, store: artifacts.ArtifactStore
) -> diagnosis.Diagnosis:
  """The diagnosis of a head's predictions on the split it was scored on."""
  truth = _truth(
    store.directory(head.inputs["data"]),
    head.dataset,
    head.config["data"]["eval_split"],
  )
  protocol = protocols.PROTOCOLS[head.config["protocol"]]
  path = store.directory(head.name) / localization.PREDICTIONS_FILE
  return diagnosis.diagnose(
    prediction_files.read_detections(path),
    truth,
    protocol,
    bins=diagnosis.bins_of(protocol, truth),
  )


def measure(*, quick: bool, study: pathlib.Path) -> list[dict]:
  """The costs and shares; `quick` takes one head of each dataset and row."""
  store = artifacts.ArtifactStore(study)
  groups: dict[tuple[str, str], list[artifacts.Artifact]] = {}
  for head in read_heads(study):
    groups.setdefault((head.dataset, head.row), []).append(head)
  rows = []
  for (dataset, row), of_row in sorted(groups.items()):
    heads = of_row[:1] if quick else of_row
    found = [diagnosed(head, store) for head in heads]
    name = f"{dataset}, {row}"
    whole = np.mean([one.average_map for one in found])
    note = f"{len(heads)} heads"
    rows.append(running.row(f"{name}: average mAP", whole, "mAP", note=note))
    for kind in diagnosis.ERROR_KINDS[1:]:
      gain = np.mean([one.map_gain[kind] for one in found])
      share = np.mean([one.shares[kind] for one in found])
      rows += [
        running.row(f"{name}: cost of {kind}", gain, "mAP"),
        running.row(f"{name}: share of {kind}", share, "of predictions"),
      ]
  if not rows:
    raise ValueError(f"{study} holds no localization head that is made.")
  return rows


if __name__ == "__main__":
  running.main(
    measure,
    __doc__,
    options={"study": {"type": pathlib.Path, "required": True}},
  )
