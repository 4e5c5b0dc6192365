"""PyTorch files: tensors as PyTorch reads them, and nothing ever run."""

import argparse
import collections
import io
import os
import pathlib
import struct
import zipfile

import numpy as np
import pytest

from clap_jax.interchange import torch_file


def program(payload: bytes, *, protocol: int = 2) -> bytes:
  """Opcodes as a file begins and ends."""
  return b"\x80" + bytes([protocol]) + payload + b"."


def zipped(path, payload: bytes, members=(), compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, "w", compression) as archive:
    archive.writestr("archive/data.pkl", payload)
    for name, body in members:
      archive.writestr(f"archive/{name}", body)
  return path


def tensor_program(count=6, shape=(2, 3), strides=(3, 1), offset=0) -> bytes:
  """{"weight": a float32 tensor} by hand, as torch.save writes it."""

  def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()

  def number(value):
    return b"J" + struct.pack("<i", value)

  def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"

  reference = (
    b"("
    + text("storage")
    + b"ctorch\nFloatStorage\n"
    + text("0")
    + text("cpu")
    + number(count)
    + b"tQ"
  )
  arguments = (
    b"("
    + reference
    + number(offset)
    + numbers(shape)
    + numbers(strides)
    + b"\x89ccollections\nOrderedDict\n)Rt"
  )
  return program(
    b"}"
    + text("weight")
    + b"ctorch._utils\n_rebuild_tensor_v2\n"
    + arguments
    + b"Rs"
  )


def test_a_tensor_written_by_hand(tmp_path):
  values = np.arange(6, dtype="<f4")
  path = zipped(
    tmp_path / "a.pth", tensor_program(), [("data/0", values.tobytes())]
  )
  read = torch_file.read(path)
  np.testing.assert_array_equal(read["weight"], values.reshape(2, 3))


PAYLOADS = {
  "os.system": b"cos\nsystem\n(V{command}\ntR",
  "posix.system": b"cposix\nsystem\n(V{command}\ntR",
  "builtins.eval": b"cbuiltins\neval\n(V{python}\ntR",
  "builtins.exec": b"c__builtin__\nexec\n(V{python}\ntR",
  "subprocess.Popen": b"csubprocess\nPopen\n(V{command}\ntR",
  "builtins.getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nV__call__\ntR",
  "stack global": b"\x8c\x02os\x8c\x06system\x93(V{command}\ntR",
  "instance": b"(V{command}\nios\nsystem\n",
  "object": b"(cos\nsystem\nV{command}\no",
  "numpy load": b"cnumpy\nload\n(V{command}\ntR",
  "torch load": b"ctorch\nload\n(V{command}\ntR",
  "rebuilding a module": b"ctorch.nn.modules.linear\nLinear\n)\x81",
  "importlib": b"cimportlib\nimport_module\n(Vantigravity\ntR",
  "an extension": b"\x82\x01",
}


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_loaders_never_execute_untrusted_content(
  tmp_path, monkeypatch, name, layout
):
  """Whatever a file asks to run is refused by name, and does not run."""
  canary = tmp_path / "canary"
  command = f"touch {canary}"
  python = f"open({str(canary)!r}, 'w')"
  payload = PAYLOADS[name].replace(b"{command}", command.encode())
  payload = program(payload.replace(b"{python}", python.encode()), protocol=4)
  path = tmp_path / "evil.pth"
  if layout == "zip":
    zipped(path, payload)
  else:
    path.write_bytes(legacy_head() + payload)
  calls = []
  for function in ("system", "popen"):
    monkeypatch.setattr(os, function, lambda *a: calls.append(a))
  with pytest.raises(torch_file.TorchFileError, match=r"refused|admitted"):
    torch_file.read(path)
  assert not canary.exists()
  assert not calls


def legacy_head() -> bytes:
  magic = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
  system = b"}X\x0d\x00\x00\x00little_endian\x88s"
  return program(b"\x8a\x0a" + magic) + program(b"M\xe9\x03") + program(system)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"shape": (2, 4), "strides": (4, 1)}, "reaches beyond its 6"),
    ({"offset": 3}, "reaches beyond"),
    ({"offset": -1}, "reaches beyond"),
    ({"shape": (1 << 30, 1 << 30), "strides": (0, 0)}, "reaches beyond"),
    ({"strides": (-3, 1)}, "reaches beyond"),
    ({"count": 7}, "cut short"),
  ],
)
def test_tensors_that_reach_too_far(tmp_path, changes, message):
  path = zipped(
    tmp_path / "a.pth", tensor_program(**changes), [("data/0", bytes(24))]
  )
  with pytest.raises(torch_file.TorchFileError, match=message):
    torch_file.read(path)


def test_nested_containers_do_not_explode(tmp_path):
  """Thirty lists, each twice within the next, are a billion leaves."""
  body = b"]q\x00" + b"".join(
    b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(40)
  )
  path = zipped(tmp_path / "a.pth", program(body))
  with pytest.raises(torch_file.TorchFileError, match="more than"):
    torch_file.read(path)


def test_a_dictionary_within_itself(tmp_path):
  body = b"}q\x00X\x01\x00\x00\x00ah\x00s"
  path = zipped(tmp_path / "a.pth", program(body))
  with pytest.raises(torch_file.TorchFileError, match=r"too deeply: 'a\.a\.a"):
    torch_file.read(path)


@pytest.mark.parametrize(
  ("body", "message"),
  [
    (b"", "neither|not a PyTorch|damaged"),
    (b"\x80\x02", "not a PyTorch file"),
    (b"hello there, no file of ours", "damaged"),
    (program(b"K\x01"), "neither a zip archive"),
    (program(b"K\x00K\x01K\x02\x86R"), "calls a name that is not"),
    (program(b"t"), "has no beginning|damaged"),
    (program(b"0"), "damaged|not a PyTorch"),
  ],
)
def test_other_files(tmp_path, body, message):
  path = tmp_path / "a.pth"
  path.write_bytes(body)
  with pytest.raises(torch_file.TorchFileError, match=message):
    torch_file.read(path)


def test_compressed_members_are_refused(tmp_path):
  path = zipped(
    tmp_path / "a.pth",
    tensor_program(),
    [("data/0", bytes(24))],
    compression=zipfile.ZIP_DEFLATED,
  )
  with pytest.raises(torch_file.TorchFileError, match="compressed"):
    torch_file.read(path)


def scripted_program(arguments=b")", attributes=b"}") -> bytes:
  return program(
    b"c__torch__.model\nCLIP\n" + arguments + b"\x81" + attributes + b"b"
  )


@pytest.mark.parametrize(
  ("payload", "message"),
  [
    (scripted_program(arguments=b"(K\x01t"), "calls '__torch__.model.CLIP'"),
    (scripted_program(attributes=b"(K\x01t"), "no named attributes"),
    (program(b"ctorch.jit._pickle\nrestore_type_tag\n"), "restore_type_tag"),
    (program(b"c__torch__x\nCLIP\n"), "'__torch__x.CLIP'"),
    (program(b"cos\nsystem\n"), "'os.system'"),
  ],
)
def test_code_beside_a_program_admits_no_more(tmp_path, payload, message):
  path = zipped(
    tmp_path / "a.pt", payload, [("code/__torch__.py", b"import os\n")]
  )
  with pytest.raises(torch_file.TorchFileError, match=message):
    torch_file.read(path)


def test_a_scripted_class_without_code_is_refused(tmp_path):
  path = zipped(tmp_path / "a.pth", scripted_program())
  with pytest.raises(torch_file.TorchFileError, match="Only tensors"):
    torch_file.read(path)


@pytest.mark.parametrize("how", ["trace", "script"])
def test_torchscript_is_its_state_dict(tmp_path, how):
  torch = pytest.importorskip("torch")
  module = torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 2), torch.nn.Sequential(torch.nn.BatchNorm2d(4))
  ).eval()
  module.register_buffer("resolution", torch.tensor(224))
  more = [torch.zeros((1, 3, 4, 4))] if how == "trace" else []
  path = tmp_path / "ViT.pt"
  torch.jit.save(getattr(torch.jit, how)(module, *more), path)
  expected = module.state_dict()
  read = torch_file.read(path)
  assert read.keys() == expected.keys()
  for name, tensor in expected.items():
    np.testing.assert_array_equal(read[name], tensor.numpy())


def checkpoint(torch):
  generator = torch.Generator().manual_seed(0)
  base = torch.randn((4, 6), generator=generator)
  return {
    "model": {
      "layer.weight": base,
      "layer.transposed": base.T,
      "layer.part": base[1:3, ::2],
      "half": base.half(),
      "bfloat16": base.bfloat16(),
      "double": base.double(),
      "counter": torch.tensor(3),
      "flags": torch.tensor([True, False]),
      "parameter": torch.nn.Parameter(base),
      "empty": torch.zeros((0, 3)),
    },
    "epoch": 7,
    "lr": 0.1,
    "args": argparse.Namespace(path=pathlib.PosixPath("/x"), sizes=[1, 2]),
    "lr_scheduler": {"milestones": collections.Counter({4: 1, 6: 1})},
    "betas": (0.9, 0.99),
  }


@pytest.mark.parametrize("zip_layout", [True, False])
def test_as_pytorch_reads_it(tmp_path, zip_layout):
  torch = pytest.importorskip("torch")
  expected = checkpoint(torch)
  path = tmp_path / "a.pth"
  torch.save(expected, path, _use_new_zipfile_serialization=zip_layout)
  read = torch_file.read(path)
  assert set(read) == {f"model.{name}" for name in expected["model"]}
  for name, tensor in expected["model"].items():
    want = tensor.detach()
    want = (want.float() if name == "bfloat16" else want).numpy()
    np.testing.assert_array_equal(read[f"model.{name}"], want)


def test_a_state_dict_with_its_metadata(tmp_path):
  torch = pytest.importorskip("torch")
  module = torch.nn.Sequential(
    torch.nn.Conv3d(2, 3, 1), torch.nn.BatchNorm3d(3)
  )
  buffer = io.BytesIO()
  torch.save(module.state_dict(), buffer)
  path = tmp_path / "a.pth"
  path.write_bytes(buffer.getvalue())
  read = torch_file.read(path)
  assert set(read) == set(module.state_dict())


def test_a_truncated_archive(tmp_path):
  torch = pytest.importorskip("torch")
  path = tmp_path / "a.pth"
  torch.save(checkpoint(torch), path)
  path.write_bytes(path.read_bytes()[:-40])
  with pytest.raises(torch_file.TorchFileError, match=r"archive .* cut short"):
    torch_file.read(path)


def test_a_truncated_file(tmp_path):
  torch = pytest.importorskip("torch")
  path = tmp_path / "a.pth"
  torch.save(checkpoint(torch), path, _use_new_zipfile_serialization=False)
  body = path.read_bytes()
  path.write_bytes(body[: len(body) - 40])
  with pytest.raises(torch_file.TorchFileError, match=r"cut short|numbers"):
    torch_file.read(path)


def test_numbers_and_types_beside_the_weights(tmp_path):
  """As training checkpoints have them: the best score so far, a dtype."""
  torch = pytest.importorskip("torch")
  document = {
    "model": {"w": torch.arange(3.0)},
    "best": np.float64(0.5),
    "epoch": np.int64(3),
    "dtype": torch.bfloat16,
  }
  torch.save(document, tmp_path / "a.pth")
  read = torch_file.read(tmp_path / "a.pth")
  assert list(read) == ["model.w"]
  np.testing.assert_array_equal(read["model.w"], [0, 1, 2])


def test_an_array_of_numpy_is_not_left_out_in_silence(tmp_path):
  torch = pytest.importorskip("torch")
  document = {"w": torch.arange(3.0), "mean": np.ones(3)}
  torch.save(document, tmp_path / "a.pth")
  with pytest.raises(torch_file.TorchFileError, match="_reconstruct"):
    torch_file.read(tmp_path / "a.pth")


def test_a_key_of_any_depth(tmp_path):
  """Its hash would go as deep as the file says, beyond Python's stack."""
  path = zipped(
    tmp_path / "a.pth", program(b"}K\x01" + b"\x85" * 300_000 + b"K\x01s")
  )
  with pytest.raises(torch_file.TorchFileError, match="key is a tuple"):
    torch_file.read(path)


def test_one_tensor_in_many_places_is_one_array(tmp_path):
  torch = pytest.importorskip("torch")
  tensor = torch.ones(1 << 10)
  torch.save({f"w{i}": tensor for i in range(100)}, tmp_path / "a.pth")
  read = torch_file.read(tmp_path / "a.pth")
  assert len(read) == 100
  assert all(np.shares_memory(read["w0"], array) for array in read.values())


def test_many_tensors_of_few_numbers(tmp_path):
  torch = pytest.importorskip("torch")
  tensor = torch.ones(1 << 10)
  torch.save({f"w{i}": tensor[:] for i in range(100)}, tmp_path / "a.pth")
  with pytest.raises(torch_file.TorchFileError, match="share the same few"):
    torch_file.read(tmp_path / "a.pth")
