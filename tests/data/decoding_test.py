"""Processes that decode give what threads give, and leave nothing behind."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from clap_jax.data import decoding, pipeline
from clap_jax.data.records import open_dataset
from clap_jax.media import confinement
from clap_jax.storage.tfrecord import CorruptRecordError
from tests.data import built_dataset, pipeline_test

SCRIPT = """
import sys, time
from clap_jax.data import pipeline, vocabulary
from clap_jax.data.records import open_dataset
from tests.data import pipeline_test

dataset = open_dataset(sys.argv[1], "toy/small")
source = pipeline_test.make_source(
  dataset, dataset.split("train"), vocabulary.load(sys.argv[2])
)
batches = pipeline.training_batches(
  source, batch_size=4, seed=0, num_processes=2
)
next(batches)
print(*batches._processes.pids, flush=True)
time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def source(dataset, records, tokenizer):
  return pipeline_test.make_source(dataset, records, tokenizer)


def assert_same(first, second):
  for a, b in zip(first, second, strict=True):
    pipeline_test.assert_equal(a, b)


def wait_for_the_end_of(pids):
  deadline_sec = time.monotonic() + 60
  alive = list(pids)
  while alive and time.monotonic() < deadline_sec:
    time.sleep(0.05)
    alive = [pid for pid in alive if is_alive(pid)]
  assert not alive


def is_alive(pid: int) -> bool:
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except (FileNotFoundError, ProcessLookupError):
    return False
  return stat.rpartition(")")[2].split()[0] != "Z"  # nobody waits for it here


def test_bytes_order_hosts_and_resume_are_those_of_threads(source):
  take = pipeline_test.take
  expected = take(source, 5, num_threads=0)
  assert_same(expected, take(source, 5, num_processes=2))
  assert_same(expected[3:], take(source, 2, start_step=3, num_processes=2))
  rows = {"rows": (1, 6, 7)}
  assert_same(
    take(source, 2, num_threads=0, **rows),
    take(source, 2, num_processes=3, **rows),
  )


def test_batches_stay_while_later_ones_are_made(source):
  expected = pipeline_test.take(source, 6, num_threads=0)
  with pipeline.training_batches(
    source, batch_size=8, seed=3, num_processes=2
  ) as batches:
    kept = [next(batches) for _ in range(6)]
  assert_same(expected, kept)  # also after the end of the processes
  kept[0].frames[0] = 0  # it belongs to the reader


def test_a_killed_worker_is_replaced_and_its_clips_are_decoded_again(
  source, capfd
):
  expected = pipeline_test.take(source, 8, num_threads=0)
  with pipeline.training_batches(
    source, batch_size=8, seed=3, num_processes=2
  ) as batches:
    found = [next(batches)]
    assert batches.scalars() == {"perf/decoder_restarts": 0.0}
    before = batches._processes.pids
    for pid in before:
      os.kill(pid, signal.SIGKILL)
    found += [next(batches) for _ in range(7)]
    assert batches.scalars() == {"perf/decoder_restarts": 2.0}
    after = batches._processes.pids
  assert_same(expected, found)
  assert not set(before) & set(after)
  assert not any(map(is_alive, [*before, *after]))
  message = capfd.readouterr().err
  assert f"{before[0]} died (SIGKILL)" in message


def test_workers_that_always_die_end_the_run(source, monkeypatch):
  dying = [sys.executable, "-c", "raise SystemExit(7)"]
  monkeypatch.setattr(confinement, "command", lambda *_: dying)
  with (
    pipeline.training_batches(
      source, batch_size=2, seed=0, num_processes=2
    ) as batches,
    pytest.raises(decoding.DecodingError, match=r"3 .*exit status 7.*record"),
  ):
    next(batches)


def test_a_bad_record_is_skipped_as_in_threads(tmp_path, tokenizer):
  directory = built_dataset.write_dataset(tmp_path)
  dataset = open_dataset(tmp_path, "toy/small")
  records = dataset.split("train")
  sources = [
    pipeline_test.make_source(dataset, records, tokenizer) for _ in range(2)
  ]
  shard = directory / "toy-train.tfrecord-00001-of-00002"
  data = bytearray(shard.read_bytes())
  data[500] ^= 1  # after the metadata was read
  shard.write_bytes(bytes(data))
  expected = pipeline_test.take(sources[0], 5, num_threads=0)
  assert_same(expected, pipeline_test.take(sources[1], 5, num_processes=2))
  assert sources[1].bad_records.reasons == sources[0].bad_records.reasons


def test_an_error_of_a_worker_reaches_the_reader(source, monkeypatch):
  place = source._place._replace(split="trian")
  monkeypatch.setattr(source, "_place", place)
  with pytest.raises(ValueError, match="unknown split 'trian'"):
    pipeline_test.take(source, 1, num_processes=2)


def test_errors_arrive_as_what_they_are_and_nothing_waits_after_the_end(
  tmp_path,
):
  origin = {"directory": str(tmp_path), "dataset": "toy", "split": "train"}
  processes = decoding.DecodingProcesses(1, origin)
  memory = decoding.SharedArray((8,))
  with pytest.raises(FileNotFoundError, match=r"dataset_info\.json"):
    processes.submit({}, memory).result(timeout=120)
  processes.close()
  assert processes.submit({}, memory).cancelled()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, None])
def test_nothing_is_left_of_a_run_that_ends(
  data_dir, tokenizer, tmp_path, number
):
  model = tmp_path / "texts.model"
  model.write_bytes(tokenizer.model)
  memory = sorted(os.listdir("/dev/shm"))
  seconds = "0" if number is None else "600"
  with subprocess.Popen(
    [sys.executable, "-c", SCRIPT, str(data_dir), str(model), seconds],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    if number is not None:
      assert all(map(is_alive, pids))
      process.send_signal(number)
    code = process.wait(timeout=120)
    wait_for_the_end_of(pids)
    assert code == (0 if number is None else -number)
    assert "Traceback" not in process.stderr.read()
  assert sorted(os.listdir("/dev/shm")) == memory


def test_workers_do_without_jax():
  code = (
    "import sys, clap_jax.data.decoding_worker\n"
    "print(sorted({'jax', 'grain', 'tensorflow'} & sys.modules.keys()))"
  )
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
  ("cores", "expected"), [(1, 0), (2, 0), (4, 2), (16, 14), (224, 32)]
)
def test_default_number(monkeypatch, cores, expected):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
  assert decoding.default_number() == expected


def test_a_request_names_the_video_of_its_record(source, records):
  item = source._sampler.item(0, seed=3)
  request = source._loader.request(item, row=2)
  assert request["offset"] == 2 * 4 * 16 * 16 * 3
  records.expect_id(item.record_index, request["id"])
  assert records[item.record_index].id == request["id"]
  records.expect_id(item.record_index, "another")
  with pytest.raises(CorruptRecordError, match="another"):
    records[item.record_index]


def test_shared_memory_goes_with_its_last_user():
  memory = decoding.SharedArray((3, 5))
  array, file = memory.array, memory.file
  os.pwrite(file, bytes(range(15)), 0)
  del memory
  with pytest.raises(OSError, match="Bad file"):
    os.fstat(file)
  np.testing.assert_array_equal(array, np.arange(15).reshape(3, 5))
