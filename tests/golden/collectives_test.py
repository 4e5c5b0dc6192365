"""What the pre-training step sends between devices, by kind and count.

A change of a model or of its sharding that makes devices send more is seen here
before it is paid for on a slice.
"""

import dataclasses
import importlib.metadata
import pathlib

import jax
import pytest

from clap_jax import config as config_lib
from clap_jax.models import partitioning
from clap_jax.trainers import abstract, pretrain, registry
from clap_jax.training import compile_ahead, hlo, topology
from configs import pretrain_sprites
from tests.golden import golden_file

HERE = pathlib.Path(__file__).parent
MESHES = {
  "data": config_lib.MeshConfig(data=4),
  "fsdp": config_lib.MeshConfig(data=1, fsdp=4, fsdp_min_size=64),
  "fsdp_tensor": config_lib.MeshConfig(
    data=1, fsdp=2, tensor=2, fsdp_min_size=64
  ),
}


def text_of(devices, *, version: str) -> str:
  """The collectives of the step on each mesh of four devices."""
  config = pretrain_sprites.get_config("tiny")
  config.model.dtype = "bfloat16"
  config = registry.resolve(config)
  run = pretrain.abstract_run(
    config, abstract.DataFacts(vocab_size=64, num_classes=5)
  )
  parts = [f"{version}\n"]
  for name, mesh in MESHES.items():
    step = compile_ahead.trace_step(
      run.task,
      run.batch,
      devices=devices,
      config=dataclasses.replace(config, mesh=mesh),
      sharding_rules=partitioning.PARAMETER_AXES,
    )
    with jax.set_mesh(step.mesh):
      text = step.traced.lower().compile().as_text()
    found = hlo.collectives(text, num_devices=len(devices))
    parts.append(f"\n{name}\n")
    parts += [
      f"{row.kind}, groups of {row.group_size}: {row.calls} calls, "
      f"{row.sent_bytes:.0f} bytes out of a device\n"
      for row in sorted(found)
    ]
  return "".join(parts)


def check(path: pathlib.Path, devices, *, version: str) -> None:
  kept = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
  if kept and kept[0] != version:
    pytest.skip(f"the text is of {kept[0]}, this is {version}")
  golden_file.check(path, text_of(devices, version=version))


def test_on_simulated_devices():
  check(
    HERE / "collectives_cpu.txt",
    jax.devices()[:4],
    version=f"jax {jax.__version__}",
  )


@pytest.mark.slow
@pytest.mark.skipif(
  topology.library_path() is None,
  reason="no TPU compiler: pip install -e .[tpu-compile]",
)
def test_on_a_tpu_slice():
  slice_ = topology.describe("v5e:2x2")
  libtpu = importlib.metadata.version("libtpu")
  check(
    HERE / "collectives_v5e.txt",
    slice_.devices,
    version=f"jax {jax.__version__}, libtpu {libtpu}",
  )
