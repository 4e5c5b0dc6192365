"""Checkpoints with random weights under public ActionFormer's key names."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from clap_jax.interchange import actionformer_config
from tests.interchange import torch_writer

_MLP_RATIO = 4


def write(path: pathlib.Path, config: pathlib.Path, *, seed=0) -> pathlib.Path:
  """Writes the file that the public trainer would save of a configuration."""
  values = actionformer_config.read(config)
  names = {f"module.{k}": v for k, v in tensors(values, seed=seed).items()}
  average = {
    f"module.{k}": v for k, v in tensors(values, seed=seed + 1).items()
  }
  return torch_writer.save(
    path,
    {
      "epoch": 35,
      "state_dict": names,
      "scheduler": {"last_epoch": 3500},
      "optimizer": {"state": {}},
      "state_dict_ema": average,
    },
  )


def tensors(values: Mapping[str, Any], *, seed: int) -> dict[str, np.ndarray]:
  """Random weights by public name, of shapes as PyTorch has them."""
  made = _Weights(seed)
  model, dataset = values["model"], values["dataset"]
  num_convs, num_stem, num_branches = model["backbone_arch"]
  windows = model["n_mha_win_size"]
  if not isinstance(windows, list):
    windows = [windows] * (num_branches + 1)
  inputs, width = dataset["input_dim"], model["embd_dim"]
  if isinstance(inputs, list):
    for i, (stream, projected) in enumerate(zip(inputs, width, strict=True)):
      made.conv(f"backbone.proj.{i}.conv", stream, projected, 1)
    inputs = width = sum(width)
  for i in range(num_convs):
    size, has_norm = model["embd_kernel_size"], model["embd_with_ln"]
    made.conv(f"backbone.embd.{i}.conv", inputs, width, size, bias=not has_norm)
    if has_norm:
      made.norm(f"backbone.embd_norm.{i}", width)
    inputs = width
  names = [f"backbone.stem.{i}" for i in range(num_stem)]
  for name in names:
    made.block(name, model, width, windows[0])
  for i in range(num_branches):
    made.block(f"backbone.branch.{i}", model, width, windows[i + 1])
  for i in range(num_branches + 1):
    if model["fpn_with_ln"]:
      made.norm(f"neck.fpn_norms.{i}", model["fpn_dim"])
    made.add(f"point_generator.buffer_points.{i}", 4, 4)
    made.arrays[f"reg_head.scale.{i}.scale"] = np.ones((), np.float32)
  made.head("cls_head", model, "cls_head", dataset["num_classes"])
  made.head("reg_head", model, "offset_head", 2)
  return made.arrays


class _Weights:
  """Arrays by name, under construction."""

  def __init__(self, seed: int):
    self.arrays: dict[str, np.ndarray] = {}
    self._rng = np.random.default_rng(seed)

  def add(self, name: str, *shape: int) -> None:
    scale = 1 / np.sqrt(max(1, np.prod(shape[1:])))
    values = scale * self._rng.normal(size=shape)
    self.arrays[name] = values.astype(np.float32)

  def conv(self, name, inputs, outputs, size, *, bias=True) -> None:
    self.add(f"{name}.weight", outputs, inputs, size)
    if bias:
      self.add(f"{name}.bias", outputs)

  def norm(self, name, width) -> None:
    scale = self._rng.uniform(0.5, 1.5, (1, width, 1))
    self.arrays[f"{name}.weight"] = scale.astype(np.float32)
    self.add(f"{name}.bias", 1, width, 1)

  def block(self, name, model, width, window) -> None:
    self.norm(f"{name}.ln1", width)
    self.norm(f"{name}.ln2", width)
    for part in ("query", "key", "value"):
      self.conv(f"{name}.attn.{part}_conv.conv", 1, width, 3, bias=False)
      self.norm(f"{name}.attn.{part}_norm", width)
      self.conv(f"{name}.attn.{part}", width, width, 1)
    self.conv(f"{name}.attn.proj", width, width, 1)
    if model["use_rel_pe"] and window > 1:
      self.add(f"{name}.attn.rel_pe", 1, 1, model["n_head"], window)
    self.conv(f"{name}.mlp.0", width, _MLP_RATIO * width, 1)
    self.conv(f"{name}.mlp.3", _MLP_RATIO * width, width, 1)
    for path in ("attn", "mlp"):
      self.add(f"{name}.drop_path_{path}.scale", 1, width, 1)

  def head(self, name, model, last, outputs) -> None:
    inputs, width = model["fpn_dim"], model["head_dim"]
    size, has_norm = model["head_kernel_size"], model["head_with_ln"]
    for i in range(model["head_num_layers"] - 1):
      self.conv(f"{name}.head.{i}.conv", inputs, width, size, bias=not has_norm)
      if has_norm:
        self.norm(f"{name}.norm.{i}", width)
      inputs = width
    self.conv(f"{name}.{last}.conv", inputs, outputs, size)
