"""Steps compiled by the TPU compiler, for chips that are not here."""

import jax
import pytest

from clap_jax import config as config_lib
from clap_jax.training import compile_ahead, topology
from tests.training import tiny_run, tiny_task

needs_libtpu = pytest.mark.skipif(
  topology.library_path() is None,
  reason="no TPU compiler: pip install -e .[tpu-compile]",
)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("v5e", "GENERATION:AxB"),
    ("v9:2x2", "a generation of v4"),
    ("v5e:0x2", "no chips"),
    ("v5e:2x2x2", "three sides"),
    ("v5e:2x2; rm", "GENERATION:AxB"),
    ("0xv5e:2x2", "no chips"),
    ("2v5e:2x2", "GENERATION:AxB"),
  ],
)
def test_names_of_no_slice(name, message):
  with pytest.raises(ValueError, match=message):
    topology.parse_name(name)


def test_without_the_compiler_it_is_named(monkeypatch):
  monkeypatch.setenv("TPU_LIBRARY_PATH", "/nowhere/libtpu.so")
  with pytest.raises(FileNotFoundError, match="tpu-compile"):
    topology.describe("v5e:2x2")


@needs_libtpu
@pytest.mark.parametrize(
  ("name", "num_chips", "devices_per_chip"),
  [
    ("v4:2x2x1", 4, 1),
    ("v5p:2x2x1", 4, 1),
    ("v5e:2x4", 8, 1),
    ("v6e:2x2", 4, 1),
    ("tpu7x:2x2x1", 4, 2),
    ("v7x:1x2x1", 2, 2),
    ("2xtpu7x:2x2x1", 8, 2),
  ],
)
def test_devices_of_chips(name, num_chips, devices_per_chip):
  devices = topology.describe(name).devices
  parsed = topology.parse_name(name)
  assert parsed.num_chips == num_chips
  assert len(devices) == parsed.num_devices == num_chips * devices_per_chip
  places = {(getattr(d, "slice_index", 0), *d.coords) for d in devices}
  assert len(places) == num_chips


def compiled(batch_size, *, name="v5e:2x2", width=32, **mesh):
  batch = {
    "x": jax.ShapeDtypeStruct((batch_size, 8), "float32"),
    "y": jax.ShapeDtypeStruct((batch_size, 4), "float32"),
  }
  return compile_ahead.compile_step(
    tiny_task.TinyTask(width=width),
    batch,
    topology=topology.describe(name),
    config=tiny_run.config(8, mesh=config_lib.MeshConfig(**mesh)),
  )


@needs_libtpu
@pytest.mark.parametrize("sizes", [{}, {"fsdp": 2}])
def test_gradients_cross_slices_once(sizes):
  width = 1024
  document = compiled(1024, name="2xv5e:2x2", width=width, **sizes)
  assert document["num_slices"] == 2
  rows = [r for r in document["collectives"] if r["network"] == "dcn"]
  assert {row["kind"] for row in rows} == {"all-reduce"}
  # Each chip sends its quarter of the gradients, padded to a tile per array.
  quarter_bytes = 4 * (8 * width + width + width * 4) // 4
  sent = sum(row["sent_bytes"] for row in rows)
  assert 0 <= sent - quarter_bytes <= 4 * 4096
  seconds = document["roofline"]
  assert seconds["dcn"] == sent / document["peaks"]["dcn_bytes_per_sec"]
  alone = compiled(1024, width=width, **sizes)
  assert {row["network"] for row in alone["collectives"]} == {"ici"}
  assert alone["roofline"]["dcn"] == 0


@needs_libtpu
def test_a_step_that_fits():
  document = compiled(1024)
  assert document["fits"]
  assert document["reason"] is None
  assert document["mesh"] == {"data": 4, "fsdp": 1, "tensor": 1}
  # Two layers; the first needs no gradient by its input.
  products = 2 * 1024 * 8 * 32, 2 * 1024 * 32 * 4
  assert document["flops_per_step"] == 2 * products[0] + 3 * products[1]
  assert 0 < document["peak_bytes_per_chip"] < document["limit_bytes_per_chip"]
  parameters = 8 * 32 + 32 + 32 * 4
  # Parameters, two moments, the moving average, counters and histories.
  assert 0 <= document["state_bytes_per_chip"] - 16 * parameters < 1024
  (reduced,) = [r for r in document["collectives"] if r["kind"] == "all-reduce"]
  assert reduced["sent_bytes"] >= 4 * parameters * 2 * 3 / 4
  assert document["roofline_step_sec"] > 0


@needs_libtpu
def test_a_step_that_does_not_fit_says_by_how_much():
  document = compiled(2**30)
  assert not document["fits"]
  batch_bytes = 2**30 * (8 + 4) * 4 // 4  # per chip
  over = document["peak_bytes_per_chip"] - document["limit_bytes_per_chip"]
  assert document["missing_bytes_per_chip"] == over
  assert document["peak_bytes_per_chip"] > batch_bytes
  assert "memory" in document["reason"]
  assert document["roofline_step_sec"] is None


@needs_libtpu
def test_a_part_of_a_host_and_a_split_state():
  assert compiled(8, name="v5e:1x1", width=64)["mesh"]["data"] == 1
  split = compiled(8, width=4096, data=1, fsdp=4, fsdp_min_size=64)
  whole = compiled(8, width=4096)
  ratio = split["state_bytes_per_chip"] / whole["state_bytes_per_chip"]
  assert 0.25 <= ratio < 0.26
  assert whole["largest_replicated"][0]["bytes"] == 4 * 8 * 4096


@needs_libtpu
def test_a_generation_with_two_cores_per_chip():
  assert compiled(8, name="v4:2x2x1")["mesh"]["data"] == 4


@needs_libtpu
def test_a_batch_that_cannot_be_split():
  with pytest.raises(ValueError, match="not a positive multiple of 4"):
    compiled(6)


@needs_libtpu
def test_a_chip_of_two_devices():
  width = 1024
  document = compiled(1024, name="2xtpu7x:2x2x1", width=width)
  assert document["num_chips"] == 8
  assert document["mesh"]["data"] == 16
  chip = topology.CHIPS["tpu7x"]
  # Each device holds the whole state.
  alone = compiled(1024, width=width)
  assert document["state_bytes_per_chip"] == 2 * alone["state_bytes_per_chip"]
  assert document["peak_bytes_per_chip"] > document["state_bytes_per_chip"]
  seconds = document["roofline"]
  flops = document["flops_per_step"]
  assert seconds["compute"] == pytest.approx(flops / 8 / chip.flops_per_sec)
  rows = [r for r in document["collectives"] if r["network"] == "dcn"]
  sent = sum(row["sent_bytes"] for row in rows)
  # The eight devices of a slice share its part of the gradients.
  part_bytes = 4 * (8 * width + width + width * 4) // 8
  assert 0 <= sent - part_bytes <= 4 * 4096
  assert seconds["dcn"] == 2 * sent / chip.dcn_bytes_per_sec
