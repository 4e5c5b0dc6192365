import numpy as np
import orjson
from tensorboardX.proto import event_pb2

from clap_jax.training import writer


def steps_of(workdir):
  return [record["step"] for record in writer.read_metrics(workdir)]


def test_resuming_drops_later_lines_and_a_torn_one(tmp_path):
  log = writer.MetricsWriter(tmp_path, step=0)
  for step in (1, 2, 3, 4):
    log.write(step, {"train/loss": np.float32(0.1), "train/n": np.int32(step)})
  log.sync()
  log.close()
  with open(tmp_path / writer.METRICS_FILE, "ab") as file:
    file.write(b'{"step": 2, "train/lo')
  log = writer.MetricsWriter(tmp_path, step=2)
  log.write(3, {"train/loss": 1.0})
  log.close()
  assert steps_of(tmp_path) == [1, 2, 3]
  first = writer.read_metrics(tmp_path)[0]
  assert first == {"step": 1, "train/loss": 0.1, "train/n": 1}


def test_a_new_run_drops_everything(tmp_path):
  log = writer.MetricsWriter(tmp_path, step=0)
  log.write(1, {"a": 1})
  log.close()
  writer.MetricsWriter(tmp_path, step=0).close()
  assert steps_of(tmp_path) == []


def test_values_that_are_not_finite_are_null(tmp_path):
  log = writer.MetricsWriter(tmp_path, step=0)
  log.write(1, {"a": np.float32("nan"), "b": float("inf"), "c": np.bool_(True)})
  log.close()
  line = (tmp_path / writer.METRICS_FILE).read_bytes()
  assert orjson.loads(line) == {"step": 1, "a": None, "b": None, "c": 1}


def events(workdir):
  """(step, name, value) of all event files, read without TensorFlow."""
  found = []
  for path in sorted((workdir / writer.TENSORBOARD_DIRECTORY).iterdir()):
    content, offset = path.read_bytes(), 0
    while offset < len(content):
      length = int.from_bytes(content[offset : offset + 8], "little")
      event = event_pb2.Event.FromString(
        content[offset + 12 : offset + 12 + length]
      )
      offset += 16 + length
      found += [
        (event.step, value.tag, value.simple_value)
        for value in event.summary.value
      ]
  return found


def test_tensorboard_sees_what_the_record_has(tmp_path):
  log = writer.MetricsWriter(tmp_path, step=0, tensorboard=True)
  log.write(1, {"train/loss": 0.5, "eval/x/map@0.50": 0.25})
  log.write(2, {"train/loss": float("nan")})
  log.close()
  assert events(tmp_path) == [
    (1, "train/loss", 0.5),
    (1, "eval/x/map_0.50", 0.25),  # TensorBoard has no "@" in names
  ]


def test_without_tensorboard_there_are_not_event_files(tmp_path):
  writer.MetricsWriter(tmp_path, step=0).close()
  assert not (tmp_path / writer.TENSORBOARD_DIRECTORY).exists()
