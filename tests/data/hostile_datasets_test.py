"""Folders of datasets whose files are pipes, devices, links or nonsense."""

import json
import os

import pytest

from clap_jax import main
from clap_jax.data import records, verification
from clap_jax.storage.tfrecord import CorruptRecordError
from tests.data import built_dataset

SHARD = "toy-train.tfrecord-00000-of-00002"
INFO, MANIFEST = "dataset_info.json", "train/manifest.json"
LABELS = "segments-label.labels.txt"


@pytest.fixture
def dataset(tmp_path):
  return built_dataset.write_dataset(tmp_path / "data", num_videos=4)


def read_all(directory):
  opened = records.open_dataset(directory.parents[2], "toy/small")
  source = opened.split("train")
  assert opened.label_names
  opened.subset_note("train")
  for number in range(len(source)):
    source[number]
  source.metadata()


def pipe(path):
  path.unlink(missing_ok=True)
  os.mkfifo(path)


def device(path):
  path.unlink(missing_ok=True)
  path.symlink_to("/dev/zero")


def kernel_file(path):
  path.unlink(missing_ok=True)
  path.symlink_to("/proc/self/environ")


def own_file(path):
  """A link to a file of the user outside the folder."""
  outside = path.parents[4] / "outside"
  content = path.read_bytes() if path.exists() else b"{}"
  outside.write_bytes(content)
  path.unlink(missing_ok=True)
  path.symlink_to(outside)


def sparse(path):
  with path.open("wb") as file:
    file.truncate(12 << 40)


FILES = (INFO, MANIFEST, "features.json", LABELS, SHARD, f"{SHARD}.idx")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", [pipe, device, kernel_file, own_file])
def test_special_files_and_links_are_refused(dataset, name, kind):
  kind(dataset / name)
  with pytest.raises((records.DatasetError, CorruptRecordError)):
    read_all(dataset)


@pytest.mark.parametrize("name", [INFO, MANIFEST, f"{SHARD}.idx", LABELS])
def test_sizes_are_checked_before_reading(dataset, name):
  sparse(dataset / name)
  with pytest.raises(
    (records.DatasetError, CorruptRecordError), match="bytes; at most"
  ):
    read_all(dataset)


def test_a_linked_folder_is_refused(dataset):
  (dataset / "train").rename(dataset.parent / "elsewhere")
  (dataset / "train").symlink_to("../elsewhere")
  with pytest.raises(records.DatasetError, match="symbolic link"):
    read_all(dataset)


DEEP = "[" * 100_000
INFOS = {
  "a list": "[]",
  "a text": '"x"',
  "nested deeply": DEEP,
  "objects nested deeply": '{"a":' * 900 + "1" + "}" * 900,
  "no name": "{}",
  "a name that leads out": '{"name": "../../x"}',
  "a name that is a list": '{"name": ["x"]}',
  "splits of text": '{"name": "toy", "splits": "x"}',
  "a split that leads out": (
    '{"name": "toy", "splits": [{"name": "../x", "shardLengths": []}]}'
  ),
  "lengths of text": (
    '{"name": "toy", "splits": [{"name": "train", "shardLengths": ["x"]}]}'
  ),
  "another format": '{"name": "toy", "fileFormat": "riegeli"}',
  "not text": "\udcff",
}


@pytest.mark.parametrize("name", INFOS)
def test_descriptions_that_are_none(dataset, name, capsys):
  (dataset / INFO).write_bytes(INFOS[name].encode(errors="surrogateescape"))
  arguments = [
    "data",
    "verify",
    "toy/small",
    f"--data_dir={dataset.parents[2]}",
  ]
  assert main.main(arguments) == 2
  assert INFO in capsys.readouterr().err


@pytest.mark.parametrize(
  "changes",
  [
    {"shards": [{"name": "../../../etc/passwd", "bytes": 1}]},
    {"shards": [{"name": "/etc/passwd", "bytes": 1}]},
    {"shards": [{"name": SHARD, "bytes": "x"}]},
    {"shards": [{"name": SHARD}]},
    {"shards": ["x"]},
    {"shards": {}},
    {"corrupt": [{}]},
    {"missing": None},
    {"annotated": []},
  ],
)
def test_manifests_that_are_none(dataset, changes):
  manifest = {"present": 4, "missing": [], "corrupt": []} | changes
  (dataset / MANIFEST).write_text(json.dumps(manifest))
  with pytest.raises(records.DatasetError, match=r"manifest\.json"):
    read_all(dataset)


def test_verification_opens_nothing_outside(dataset):
  (dataset / "SHA256SUMS").write_text(
    "00  ../../../../outside\n00  /etc/passwd\n00  pipe\n00  link\n"
  )
  os.mkfifo(dataset / "pipe")
  (dataset / "link").symlink_to("/etc/passwd")
  opened = records.open_dataset(dataset.parents[2], "toy/small")
  problems = "\n".join(verification.verify(opened).problems)
  for name, reason in (
    ("../../../../outside", "leads out"),
    ("/etc/passwd", "leads out"),
    ("pipe", "not a regular file"),
    ("link", "symbolic link"),
  ):
    assert any(
      name in line and reason in line for line in problems.split("\n")
    ), name


@pytest.mark.parametrize("kind", [pipe, device])
def test_verification_of_special_sums(dataset, kind):
  kind(dataset / "SHA256SUMS")
  opened = records.open_dataset(dataset.parents[2], "toy/small")
  assert "SHA256SUMS" in verification.verify(opened).problems[0]
