import numpy as np
import orjson

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
