"""Random weights in the forms that the public ones are published in."""

import gzip
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from clap_jax.models import variants
from tests.interchange import torch_writer

Tensors = dict[str, np.ndarray]
WORDS = (
  *("a", "the", "video", "of", "person", "someone", "is", "doing", "jumps"),
  *("women", "long", "jump", "nothing", "happens", "nobody", "does", "action"),
  *("anything", "still", "picture", "empty", "scene", "something", "else"),
)


def _drawn(shapes: Mapping[str, tuple[int, ...]], dtype) -> Tensors:
  rng = np.random.default_rng(0)
  tensors = {}
  for name, shape in shapes.items():
    noise = rng.standard_normal(shape, np.float32)
    is_scale = name.endswith("weight") and len(shape) == 1
    if len(shape) > 1:
      noise *= np.prod(shape[1:]) ** -0.5
    tensors[name] = (1.0 + 0.1 * noise if is_scale else noise).astype(dtype)
  return tensors


def _block(prefix: str, size: variants.TransformerSize) -> dict[str, tuple]:
  width, hidden = size.width, size.mlp_width
  return {
    f"{prefix}.{name}": shape
    for name, shape in {
      "attn.in_proj_weight": (3 * width, width),
      "attn.in_proj_bias": (3 * width,),
      "attn.out_proj.weight": (width, width),
      "attn.out_proj.bias": (width,),
      "ln_1.weight": (width,),
      "ln_1.bias": (width,),
      "mlp.c_fc.weight": (hidden, width),
      "mlp.c_fc.bias": (hidden,),
      "mlp.c_proj.weight": (width, hidden),
      "mlp.c_proj.bias": (width,),
      "ln_2.weight": (width,),
      "ln_2.bias": (width,),
    }.items()
  }


def clip_tensors(
  size: str,
  *,
  vocab_size: int,
  side_px: int = 32,
  patch_px: int = 16,
  projection: int = 16,
  dtype: Any = np.float16,
) -> Tensors:
  """Both towers of CLIP under OpenAI's names."""
  video, text = variants.VIDEO_SIZES[size], variants.TEXT_SIZES[size]
  shapes: dict[str, tuple[int, ...]] = {
    "visual.class_embedding": (video.width,),
    "visual.positional_embedding": (
      1 + (side_px // patch_px) ** 2,
      video.width,
    ),
    "visual.proj": (video.width, projection),
    "visual.conv1.weight": (video.width, 3, patch_px, patch_px),
    "token_embedding.weight": (vocab_size, text.width),
    "positional_embedding": (77, text.width),
    "text_projection": (text.width, projection),
  }
  for name, width in (
    ("visual.ln_pre", video.width),
    ("visual.ln_post", video.width),
    ("ln_final", text.width),
  ):
    shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
  for layer in range(video.depth):
    shapes |= _block(f"visual.transformer.resblocks.{layer}", video)
  for layer in range(text.depth):
    shapes |= _block(f"transformer.resblocks.{layer}", text)
  return _drawn(shapes, dtype) | {"logit_scale": np.array(4.6, dtype)}


def bert_tensors(size: str, *, vocab_size: int) -> Tensors:
  """A BERT under Hugging Face's names."""
  text = variants.TEXT_SIZES[size]
  width, hidden = text.width, text.mlp_width
  shapes: dict[str, tuple[int, ...]] = {
    "embeddings.word_embeddings.weight": (vocab_size, width),
    "embeddings.position_embeddings.weight": (64, width),
    "embeddings.token_type_embeddings.weight": (2, width),
    "embeddings.LayerNorm.weight": (width,),
    "embeddings.LayerNorm.bias": (width,),
    "pooler.dense.weight": (width, width),
    "pooler.dense.bias": (width,),
  }
  for layer in range(text.depth):
    prefix = f"encoder.layer.{layer}"
    for name, (rows, columns) in {
      "attention.self.query": (width, width),
      "attention.self.key": (width, width),
      "attention.self.value": (width, width),
      "attention.output.dense": (width, width),
      "intermediate.dense": (hidden, width),
      "output.dense": (width, hidden),
    }.items():
      shapes |= {
        f"{prefix}.{name}.weight": (rows, columns),
        f"{prefix}.{name}.bias": (rows,),
      }
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
      shapes |= {
        f"{prefix}.{name}.weight": (width,),
        f"{prefix}.{name}.bias": (width,),
      }
  return _drawn(shapes, np.float32)


def r2plus1d_tensors(name: str) -> Tensors:
  """An R(2+1)D under torchvision's names, with a classifier."""
  size = variants.R2PLUS1D_SIZES[name]
  mid, width = size.stem_widths
  shapes: dict[str, tuple[int, ...]] = (
    {
      "stem.0.weight": (mid, 3, 1, 7, 7),
      "stem.3.weight": (width, mid, 3, 1, 1),
      "fc.weight": (7, size.widths[-1]),
      "fc.bias": (7,),
    }
    | _norm("stem.1", mid)
    | _norm("stem.4", width)
  )
  for layer, (depth, out) in enumerate(
    zip(size.depths, size.widths, strict=True), 1
  ):
    for block in range(depth):
      prefix = f"layer{layer}.{block}"
      mids = size.mid_widths(width, out)
      for conv, (inner, source) in enumerate(
        zip(mids, (width, out), strict=True), 1
      ):
        shapes |= {
          f"{prefix}.conv{conv}.0.0.weight": (inner, source, 1, 3, 3),
          f"{prefix}.conv{conv}.0.3.weight": (out, inner, 3, 1, 1),
        }
        shapes |= _norm(f"{prefix}.conv{conv}.0.1", inner)
        shapes |= _norm(f"{prefix}.conv{conv}.1", out)
      if (layer > 1 and not block) or width != out:
        shapes[f"{prefix}.downsample.0.weight"] = (out, width, 1, 1, 1)
        shapes |= _norm(f"{prefix}.downsample.1", out)
      width = out
  tensors = _drawn(shapes, np.float32)
  return {
    key: np.abs(value) if key.endswith("running_var") else value
    for key, value in tensors.items()
  }


def _norm(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
  names = ("weight", "bias", "running_mean", "running_var")
  return {f"{prefix}.{name}": (width,) for name in names}


def merges(words: Iterable[str] = WORDS) -> list[tuple[str, str]]:
  """Merges that make whole words of letters."""
  made: dict[tuple[str, str], None] = {}
  for word in words:
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    while len(pieces) > 1:
      made[pieces[0], pieces[1]] = None
      pieces[:2] = ["".join(pieces[:2])]
  return list(made)


def write_pieces(path: pathlib.Path) -> int:
  """Writes merges as OpenAI published them; returns the number of pieces."""
  pairs = merges()
  lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
  path.write_bytes(gzip.compress("\n".join(lines).encode()))
  return 512 + len(pairs) + 2


def write_pairs(folder: pathlib.Path) -> int:
  """Writes vocab.json and merges.txt; returns the number of pieces."""
  pairs = merges()
  letters = sorted({letter for word in WORDS for letter in word})
  pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
  pieces += ["".join(pair) for pair in pairs]
  pieces = list(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))
  (folder / "vocab.json").write_text(
    json.dumps({piece: index for index, piece in enumerate(pieces)})
  )
  lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
  (folder / "merges.txt").write_text("\n".join(lines) + "\n")
  return len(pieces)


def write_word_pieces(path: pathlib.Path) -> int:
  """Writes a vocab.txt of BERT; returns the number of pieces."""
  words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
  path.write_text("\n".join(words) + "\n")
  return len(words)


def write_open_clip(folder: pathlib.Path, size: str, **options: Any) -> None:
  """A repository of open_clip's on the Hub: safetensors, config, pieces."""
  folder.mkdir(parents=True, exist_ok=True)
  tensors = clip_tensors(size, vocab_size=write_pairs(folder), **options)
  safetensors.numpy.save_file(tensors, folder / "open_clip_model.safetensors")
  config = {"model_cfg": {"embed_dim": tensors["visual.proj"].shape[1]}}
  (folder / "open_clip_config.json").write_text(json.dumps(config))


def write_shards(folder: pathlib.Path, tensors: Tensors, count: int) -> None:
  """Writes model-0000x-of-0000n.safetensors and their index."""
  names = sorted(tensors)
  places = {}
  for shard in range(count):
    file = f"model-{shard + 1:05}-of-{count:05}.safetensors"
    own = {name: tensors[name] for name in names[shard::count]}
    safetensors.numpy.save_file(own, folder / file)
    places |= dict.fromkeys(own, file)
  (folder / "model.safetensors.index.json").write_text(
    json.dumps({"metadata": {}, "weight_map": places})
  )


def write_torchscript(path: pathlib.Path, tensors: Tensors) -> None:
  """As OpenAI's ViT-B-32.pt is one."""
  torch_writer.save_scripted(path, tensors)


def write_state_dict(path: pathlib.Path, tensors: Tensors) -> None:
  """As torchvision's, IG-65M's and TSP's .pth are."""
  torch_writer.save(path, tensors)
