"""The TPU slice that each config names is the smallest that it fits."""

import dataclasses
import importlib
import os
import pathlib
import re

import jax
import pytest

from clap_jax.commands import configs as configs_lib
from clap_jax.storage import metadata
from clap_jax.trainers import encoders, registry
from clap_jax.training import mesh as mesh_lib
from clap_jax.training import topology
from tests.golden import golden_file

STEPS = pathlib.Path(golden_file.__file__).parent / "steps"
CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
NAMES = sorted(
  path.stem
  for path in CONFIGS.glob("*.py")
  if path.stem != "__init__"
  and not path.stem.startswith("study_")  # of many trainers
)
needs_libtpu = pytest.mark.skipif(
  topology.library_path() is None,
  reason="no TPU compiler: pip install -e .[tpu-compile]",
)


def module_of(name):
  return importlib.import_module(f"configs.{name}")


def resolved(name, size):
  config = module_of(name).get_config(size)
  return registry.resolve(config)


def write_tower(size, directory) -> None:
  """The encoder.json of a pre-training of that size, as if it had run."""
  trained = resolved("pretrain_sprites", size)
  towers = encoders.towers(
    trained.model, trained.clip, vocab_size=256, num_classes=22
  )
  document = {
    "encoder": "clap",
    "seed": 0,
    "clip": dataclasses.asdict(trained.clip),
    "model": dataclasses.asdict(towers),
    "training": {},
  }
  metadata.write(directory / encoders.ENCODER_FILE, document)


def suits(config, slice_name) -> bool:
  """Whether mesh and batch can be spread over the slice."""
  num_devices = topology.parse_name(slice_name).num_devices
  try:
    data, fsdp, _ = mesh_lib.mesh_sizes(config.mesh, num_devices)
  except ValueError:
    return False
  return config.data.batch_size % (data * fsdp) == 0


def next_smaller(config, slice_name) -> str | None:
  generation, _, sides = slice_name.partition(":")
  known = topology.SLICES[generation]
  smaller = [f"{generation}:{one}" for one in known[: known.index(sides)]]
  return next((one for one in reversed(smaller) if suits(config, one)), None)


@pytest.mark.parametrize("name", NAMES)
def test_every_size_names_a_slice(name):
  module = module_of(name)
  # The complaint lists the sizes that there are.
  with pytest.raises(ValueError, match=re.escape(str(sorted(module.SLICES)))):
    module.get_config("gigantic")
  for size, slice_name in module.SLICES.items():
    assert suits(resolved(name, size), slice_name), (size, slice_name)
  default = next(iter(module.SLICES))
  assert module.get_config("").to_dict() == (
    module.get_config(default).to_dict()
  ), "the default size comes first"


def test_the_command_line_takes_the_slice_from_the_config(tmp_path):
  path = tmp_path / "a_config.py"
  path.write_text('SLICES = {"demo": "v5e:1x1", "full": "v5e:2x2"}\n')
  for argument, slice_name in (
    ("", "v5e:1x1"),
    (":full", "v5e:2x2"),
    (":full,seed=1", "v5e:2x2"),
    (":seed=1,size=full", "v5e:2x2"),
    (":seed=1", "v5e:1x1"),
  ):
    assert configs_lib.named_slice(f"{path}{argument}") == slice_name
  path.write_text("")
  with pytest.raises(ValueError, match="has no SLICES"):
    configs_lib.named_slice(str(path))


def figures(documents) -> str:
  """What each size of a config takes of the slice that it names, by line."""
  lines = [f"jax: {jax.__version__}"]  # the compiler's version goes with it
  for size, document in documents.items():
    sent = dict.fromkeys(("ici", "dcn"), 0)
    for row in document["collectives"]:
      sent[row["network"]] += row["sent_bytes"]
    values = {
      "topology": document["topology"],
      "peak_bytes_per_chip": document["peak_bytes_per_chip"],
      "flops_per_step": document["flops_per_step"],
      "ici_bytes_per_device": sent["ici"],
      "dcn_bytes_per_device": sent["dcn"],
    }
    lines += [f"{size}.{key}: {value}" for key, value in values.items()]
  return "\n".join(lines) + "\n"


def test_figures_of_a_document():
  rows = [
    {"network": "ici", "sent_bytes": 3},
    {"network": "dcn", "sent_bytes": 2},
    {"network": "ici", "sent_bytes": 4},
  ]
  document = {
    "topology": "2xv5e:2x2",
    "peak_bytes_per_chip": 10,
    "flops_per_step": 20,
    "collectives": rows,
  }
  assert figures({"full": document}).splitlines()[1:] == [
    "full.topology: 2xv5e:2x2",
    "full.peak_bytes_per_chip: 10",
    "full.flops_per_step: 20",
    "full.ici_bytes_per_device: 7",
    "full.dcn_bytes_per_device: 2",
  ]


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_step_fits_that_slice_and_no_smaller_one(name, tmp_path):
  documents = {}
  for size, slice_name in module_of(name).SLICES.items():
    if size == "tiny":
      continue
    config = module_of(name).get_config(size)
    if "tower" in config:
      write_tower(size, tmp_path)
      config.tower.workdir = str(tmp_path)
    documents[size] = registry.compile_ahead(config, topology=slice_name)
    assert documents[size]["fits"], size
    smaller = next_smaller(resolved(name, size), slice_name)
    if smaller is not None:
      document = registry.compile_ahead(config, topology=smaller)
      assert not document["fits"], (size, smaller)
  check_figures(name, documents)


def check_figures(name, documents):
  """Compares with the figures that are kept, where they are of this JAX."""
  text = figures(documents)
  path = STEPS / f"{name}.txt"
  if not os.environ.get(golden_file.VARIABLE):
    if not path.is_file():
      pytest.skip(
        f"no figures of {name} are kept yet: "
        f"{golden_file.VARIABLE}=1 ./launch.sh test -m slow {__file__}"
      )
    kept, *_ = path.read_text(encoding="utf-8").splitlines()
    if kept != text.splitlines()[0]:
      pytest.skip(f"the figures are of another version, {kept}")
  golden_file.check(path, text)
