"""One set of weights, wrapped in every way, gives the same import."""

import json

import numpy as np
import pytest
import safetensors.numpy

from clap_jax import main
from clap_jax.interchange import import_weights, weight_files, wrappers
from clap_jax.interchange import source as source_lib
from clap_jax.models import variants
from clap_jax.training import weights
from tests.interchange import torch_writer

VOCABULARY, LENGTH = 8, 12


def bert_tensors(seed=0):
  """A drawn text encoder of the smallest size under Hugging Face's names."""
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return rng.normal(size=shape).astype(np.float32)

  size = variants.TEXT_SIZES["micro"]
  width, mlp = size.width, size.mlp_width
  made = {
    "embeddings.word_embeddings.weight": draw(VOCABULARY, width),
    "embeddings.position_embeddings.weight": draw(LENGTH, width),
    "embeddings.token_type_embeddings.weight": draw(2, width),
    "embeddings.LayerNorm.weight": draw(width),
    "embeddings.LayerNorm.bias": draw(width),
  }
  for layer in range(size.depth):
    for name, out, into in (
      ("attention.self.query", width, width),
      ("attention.self.key", width, width),
      ("attention.self.value", width, width),
      ("attention.output.dense", width, width),
      ("intermediate.dense", mlp, width),
      ("output.dense", width, mlp),
    ):
      made[f"encoder.layer.{layer}.{name}.weight"] = draw(out, into)
      made[f"encoder.layer.{layer}.{name}.bias"] = draw(out)
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
      made[f"encoder.layer.{layer}.{name}.weight"] = draw(width)
      made[f"encoder.layer.{layer}.{name}.bias"] = draw(width)
  return made


MODEL, AVERAGE = bert_tensors(0), bert_tensors(1)
OPTIONS = source_lib.Options(num_heads=2)
STATE = {"0": {"exp_avg": np.ones(3, np.float32)}}
RNG = np.arange(16, dtype=np.uint8)


def prefixed(prefix, tensors=None):
  return {f"{prefix}{key}": v for key, v in (tensors or MODEL).items()}


WRAPPED = {
  "bare": MODEL,
  "state_dict": {"state_dict": MODEL, "epoch": 3},
  "lightning": {
    "state_dict": prefixed("model."),
    "optimizer_states": STATE,
    "lr_schedulers": {"last": np.ones(1, np.float32)},
    "epoch": 3,
    "pytorch-lightning_version": "2.1",
  },
  "lightning of net": {"state_dict": prefixed("net.")},
  "lightning of an unknown name": {"state_dict": prefixed("text_branch.")},
  "lightning with a loss": {
    "state_dict": prefixed("model.") | {"criterion.weight": RNG}
  },
  "net": {"net": MODEL, "acc": 1},
  "net prefix": prefixed("net."),
  "module": prefixed("module."),
  "DeepSpeed": {"module": MODEL, "optimizer": STATE, "global_steps": 3},
  "model_state_dict": {
    "model_state_dict": MODEL,
    "optimizer_state_dict": {"state": STATE},
  },
  "compiled": prefixed("_orig_mod."),
  "compiled in DDP": {"model": prefixed("module._orig_mod.")},
  "DDP in compiled": {"model": prefixed("_orig_mod.module.")},
  "compiled layers": {
    key.replace("encoder.", "encoder._orig_mod."): value
    for key, value in MODEL.items()
  },
  "FSDP": prefixed("_fsdp_wrapped_module."),
  "two": {"model": MODEL, "model_ema": AVERAGE, "optimizer": STATE},
  "two within": {
    "state_dict": prefixed("model.") | prefixed("model_ema.", AVERAGE)
  },
  "timm": {"state_dict": MODEL, "state_dict_ema": AVERAGE},
  "average of a module": {
    "model": MODEL,
    "ema": {"module": AVERAGE, "decay": RNG[:1], "updates": RNG[:1]},
  },
  "averaged model": prefixed("module.") | {"n_averaged": RNG[:1]},
  "rng": {"model": MODEL, "rng": RNG},
  "rng beside bare weights": MODEL | {"rng": RNG},
  "rng states": {"model": MODEL, "rng_state": RNG, "cuda_rng_state_all": RNG},
}
WITH_AVERAGE = ("two", "two within", "timm", "average of a module")


def flat(tree, prefix=""):
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from flat(value, f"{prefix}{key}.")
    elif isinstance(value, np.ndarray):
      yield f"{prefix}{key}", value


def write(path, tree):
  if path.suffix == ".safetensors":
    safetensors.numpy.save_file(dict(flat(tree)), path)
  elif path.suffix == ".npz":
    np.savez(path, **dict(flat(tree)))
  else:
    torch_writer.save(path, tree)
  return path


def imported(path, out, **options):
  done = import_weights.import_weights(
    path, source="bert", out=out, options=OPTIONS, **options
  )
  return done, weights.read(out)[0]["params/text_tower/embedding"]


def embedding(tensors):
  return tensors["embeddings.word_embeddings.weight"]


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_wrapped_weights_are_the_weights(tmp_path, name, suffix):
  path = write(tmp_path / f"a{suffix}", WRAPPED[name])
  done, found = imported(path, tmp_path / "out")
  np.testing.assert_array_equal(found, embedding(MODEL))
  assert bool(done.unwrapped) == ("bare" not in name)
  reasons = done.conversion.left_out
  num_kept = len(dict(flat(WRAPPED[name]))) - len(MODEL)
  # type 0 is added to the positions
  assert len(reasons) == num_kept + 1


@pytest.mark.parametrize("name", WITH_AVERAGE)
def test_the_moving_average_is_used_on_request(tmp_path, name):
  path = write(tmp_path / "a.pth", WRAPPED[name])
  done, found = imported(path, tmp_path / "out", choice="ema")
  np.testing.assert_array_equal(found, embedding(AVERAGE))
  assert any("ema" in line for line in done.unwrapped)


def test_the_command_prints_what_it_chose(tmp_path, capsys):
  path = write(tmp_path / "a.pth", WRAPPED["two"])
  arguments = ["import", str(path), "--source=bert", "--num_heads=2"]
  assert main.main([*arguments, f"--out={tmp_path / 'out'}"]) == 0
  printed = capsys.readouterr()
  assert "under model, not those under model_ema" in printed.out + printed.err
  arguments.append("--weights=ema")
  assert main.main([*arguments, f"--out={tmp_path / 'ema'}"]) == 0
  found, facts = weights.read(tmp_path / "ema")
  np.testing.assert_array_equal(
    found["params/text_tower/embedding"], embedding(AVERAGE)
  )
  assert "model_ema" in facts["unwrapped"][0]


@pytest.mark.parametrize(
  ("tree", "options", "message"),
  [
    ({"model": MODEL, "net": AVERAGE}, {}, "each of model, net"),
    ({"model": MODEL}, {"choice": "ema"}, "no moving average"),
    (MODEL | prefixed("_orig_mod."), {}, "both become"),
    ({"model": MODEL, "mean": RNG}, {}, "no rule for mean"),
    ({"model": RNG}, {}, "model is a tensor"),
    (prefixed("model.") | MODEL, {}, "both become"),
  ],
)
def test_ambiguous_containers_are_refused(tmp_path, tree, options, message):
  path = write(tmp_path / "a.pth", tree)
  with pytest.raises(ValueError, match=message):
    imported(path, tmp_path / "out", **options)
  assert not (tmp_path / "out").exists()


def sharded(folder, suffix, *, stem):
  """Writes the weights as two files and an index; returns its path."""
  names = sorted(MODEL)
  places = {}
  for number, group in enumerate((names[::2], names[1::2]), start=1):
    file = f"{stem}-{number:05d}-of-00002{suffix}"
    write(folder / file, {key: MODEL[key] for key in group})
    places |= dict.fromkeys(group, file)
  index = folder / f"{stem}{suffix}.index.json"
  document = {"metadata": {"total_size": 1}, "weight_map": places}
  index.write_text(json.dumps(document))
  return index


@pytest.mark.parametrize(
  ("stem", "suffix"), [("model", ".safetensors"), ("pytorch_model", ".bin")]
)
def test_weights_in_several_files(tmp_path, stem, suffix):
  index = sharded(tmp_path, suffix, stem=stem)
  for number, path in enumerate((tmp_path, index)):
    done, found = imported(path, tmp_path / f"out{number}")
    np.testing.assert_array_equal(found, embedding(MODEL))
    assert done.file == index.name


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda d, _: d.update(weight_map=[]), "weight_map"),
    (lambda d, k: d["weight_map"].update({k: "../x.bin"}), "beside it"),
    (lambda d, k: d["weight_map"].update({k: "/etc/passwd"}), "beside it"),
    (lambda d, k: d["weight_map"].update({k: "x.bin"}), "is missing"),
    (lambda d, k: d["weight_map"].pop(k), "places elsewhere"),
    (
      lambda d, k: d["weight_map"].update(more=d["weight_map"][k]),
      "files lack, 'more'",
    ),
  ],
)
def test_an_index_that_does_not_fit(tmp_path, change, message):
  index = sharded(tmp_path, ".bin", stem="pytorch_model")
  document = json.loads(index.read_text())
  change(document, sorted(MODEL)[0])
  index.write_text(json.dumps(document))
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    weight_files.read(index)


def test_a_variant_in_a_directory(tmp_path):
  half = {key: value.astype(np.float16) for key, value in MODEL.items()}
  write(tmp_path / "model.fp16.safetensors", half)
  done, found = imported(tmp_path, tmp_path / "out")
  assert done.file == "model.fp16.safetensors"
  np.testing.assert_array_equal(found, embedding(half).astype(np.float32))
  write(tmp_path / "model.fp32.safetensors", MODEL)
  with pytest.raises(ValueError, match="several files of weights"):
    weight_files.find(tmp_path)
  write(tmp_path / "model.safetensors", MODEL)
  assert weight_files.find(tmp_path).name == "model.safetensors"


POINTER = (
  b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 438\n"
)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (POINTER, "a Git LFS pointer"),
    (b"<!DOCTYPE html>\n<html>401</html>", "a web page"),
    (b"\n  <html><body>not found</body></html>", "a web page"),
    (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "an XML document"),
  ],
)
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors", ".npz"])
def test_files_that_stand_in_for_weights(tmp_path, content, message, suffix):
  path = tmp_path / f"a{suffix}"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=rf"a\{suffix} is {message}"):
    weight_files.read(path)


def test_names_that_would_reach_the_terminal(tmp_path):
  path = write(tmp_path / "a.npz", {"\x1b[2Ja": RNG})
  with pytest.raises(ValueError, match=r"\\x1b"):
    weight_files.read(path)


def test_prefixes_that_are_not_wrappers_stay():
  tensors = {"encoder.a": RNG, "encoder.b": RNG}
  done = wrappers.unwrap(tensors, is_known=lambda key: key == "encoder.a")
  assert done.tensors.keys() == tensors.keys()
  assert not done.removed
