"""Imported weights give the outputs of the source framework, layer by layer."""

import re

import jax
import numpy as np
import pytest

from clap_jax.interchange import import_weights
from clap_jax.interchange import source as source_lib
from clap_jax.models import dual_encoder, frames, variants
from clap_jax.training import paths, weights

torch = pytest.importorskip("torch")

from tests.interchange import torch_modules  # noqa: E402  (needs torch)

VIDEO = variants.VIDEO_SIZES["tiny"]
TEXT = variants.TEXT_SIZES["tiny"]
NUM_HEADS = 4  # of both
TOLERANCE = 1e-4


def state_of(module) -> dict[str, np.ndarray]:
  # Copies: training moves the module's own numbers.
  return {name: t.numpy().copy() for name, t in module.state_dict().items()}


def encoder_with(tensors, source, options=None, **settings):
  """(model, variables) of both towers, all that is imported in its place."""
  found, conversion = import_weights.convert(
    tensors,
    import_weights.SOURCES[source],
    options or source_lib.Options(num_heads=NUM_HEADS),
  )
  config = dual_encoder.DualEncoderConfig(
    **(import_weights.ELSEWHERE | {"image_size": 16} | found | settings)
  )
  model = dual_encoder.DualEncoder(config)
  shapes = import_weights.parameter_shapes(config)
  values = {
    name: conversion.weights.get(name, np.zeros(leaf.shape, np.float32))
    for name, leaf in shapes.items()
  }
  return model, paths.nest(values)


def run(model, variables, *args, method):
  """(output, name -> intermediate output of each module)."""
  output, state = jax.jit(
    lambda v, *a: model.apply(
      v, *a, method=method, capture_intermediates=True, mutable="intermediates"
    )
  )(variables, *args)
  return output, paths.flatten(state["intermediates"])


def assert_same(ours, theirs):
  theirs = theirs.detach().numpy() if hasattr(theirs, "detach") else theirs
  np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


def clips(shape, scale: frames.ColourScale, seed=0):
  """The same clips for us, uint8, and for torch, channels first, scaled."""
  ours = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
  theirs = np.moveaxis(np.array(scale(ours, np.float32)), -1, 1)
  return ours, torch.from_numpy(np.ascontiguousarray(theirs))


def intermediate(seen, ending):
  (value,) = (v for name, v in seen.items() if re.search(ending, name))
  return value


@pytest.mark.parametrize(
  ("name", "shape"),
  [
    ("r2plus1d_micro", (2, 4, 16, 16, 3)),
    pytest.param("r2plus1d_18", (1, 4, 32, 32, 3), marks=pytest.mark.slow),
    pytest.param("r2plus1d_34", (1, 4, 32, 32, 3), marks=pytest.mark.slow),
  ],
)
def test_r2plus1d_block_by_block(name, shape):
  module = torch_modules.draw(
    torch_modules.VideoResNet(variants.R2PLUS1D_SIZES[name])
  )
  model, variables = encoder_with(state_of(module), "r2plus1d")
  assert model.config.video_tower == name
  ours, theirs = clips(shape, frames.KINETICS)
  with torch.no_grad():
    expected = module(theirs)
  output, seen = run(model, variables, ours, method="video_feature")
  assert_same(output, expected.pop("feature"))
  assert expected
  for block, value in expected.items():
    got = np.moveaxis(intermediate(seen, rf"/{block}/__call__"), -1, 1)
    assert_same(got, value)


def test_r2plus1d_in_training():
  """Batch statistics, the renewed running ones, and the gradient."""
  size = variants.R2PLUS1D_SIZES["r2plus1d_micro"]
  module = torch_modules.draw(torch_modules.VideoResNet(size))
  model, variables = encoder_with(state_of(module), "r2plus1d")
  ours, theirs = clips((3, 4, 16, 16, 3), frames.KINETICS)
  module.train()
  feature = module(theirs)["feature"]
  (feature**2).sum().backward()

  def loss(params):
    y, state = model.apply(
      variables | {"params": params},
      ours,
      train=True,
      method="video_feature",
      mutable="batch_stats",
    )
    return (y**2).sum(), (y, state)

  (_, (y, state)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    variables["params"]
  )
  assert_same(y, feature)
  _, renewed = import_weights.convert(
    state_of(module),
    import_weights.SOURCES["r2plus1d"],
    source_lib.Options(),
  )
  statistics = paths.flatten(state)
  assert statistics
  for name, value in statistics.items():
    assert_same(value, renewed.weights[name])
  stem = module.stem[0].weight.grad.numpy().transpose(2, 3, 4, 1, 0)
  got = gradient["video_tower"]["stem"]["spatial"]["kernel"]
  np.testing.assert_allclose(got, stem, rtol=1e-3, atol=1e-3)


def text_inputs(seed=0):
  rng = np.random.default_rng(seed)
  tokens = rng.integers(1, 50, (3, 9)).astype(np.int32)
  lengths = np.array([9, 4, 2])
  mask = np.arange(9) < lengths[:, None]
  return np.where(mask, tokens, 0), mask, lengths


def assert_same_blocks(seen, tower, expected, *, mask=None):
  """Each block's output against that of torch, (b, l, d)."""
  outputs = np.asarray(intermediate(seen, rf"{tower}/blocks/layers/__call__"))
  assert len(outputs) == len(expected) > 1
  for ours, theirs in zip(outputs, expected, strict=True):
    ours = ours.reshape(theirs.shape)  # noqa: PLW2901
    if mask is None:
      assert_same(ours, theirs)
    else:
      assert_same(ours[mask], theirs.numpy()[mask])


@pytest.mark.parametrize("source", ["clip", "open_clip"])
def test_clip_text(source):
  module = torch_modules.draw(
    torch_modules.Clip(VIDEO, TEXT, quick=source == "clip")
  )
  model, variables = encoder_with(state_of(module), source)
  tokens, mask, lengths = text_inputs()
  with torch.no_grad():
    pooled, blocks = module.encode_text(
      torch.from_numpy(tokens).long(), torch.from_numpy(lengths - 1)
    )
    projected = functional_normalise(pooled @ module.text_projection)
  output, seen = run(model, variables, tokens, mask, method="text_tokens")
  assert_same_blocks(seen, "text_tower", blocks, mask=mask)
  assert_same(output.pooled, pooled)
  got = model.apply(variables, output.pooled, method="project_text")
  assert_same(got, projected)


def functional_normalise(x):
  return torch.nn.functional.normalize(x, dim=-1)


@pytest.mark.parametrize("source", ["clip", "open_clip"])
def test_a_still_clip_is_clip_s_image(source):
  """Spread over two frames, with attention over time that adds nothing."""
  module = torch_modules.draw(
    torch_modules.Clip(VIDEO, TEXT, quick=source == "clip")
  )
  options = source_lib.Options(
    num_heads=NUM_HEADS, num_frames=4, tubelet_frames=2
  )
  model, variables = encoder_with(state_of(module), source, options)
  images, theirs = clips((3, 1, 16, 16, 3), frames.CLIP)
  with torch.no_grad():
    pooled, blocks = module.visual(theirs[:, :, 0])
    projected = functional_normalise(pooled @ module.visual.proj)
  still = np.repeat(images, 4, axis=1)
  output, seen = run(model, variables, still, method="video_feature")
  # Two steps in time, each as the image.
  twice = [torch.stack([block, block], dim=1) for block in blocks]
  assert_same_blocks(seen, "video_tower", twice)
  assert_same(output, pooled)
  got = model.apply(variables, output, method="project_video")
  assert_same(got, projected)
  assert_same(variables["params"]["logit_scale"], module.logit_scale)


@pytest.mark.parametrize("source", ["clip", "open_clip"])
def test_a_clip_directory_of_hugging_face(source, tmp_path):
  """What its own program saves gives what its own program computes."""
  transformers = pytest.importorskip("transformers")
  both = {
    "num_attention_heads": NUM_HEADS,
    "hidden_act": "quick_gelu" if source == "clip" else "gelu",
  }
  sizes = [
    {
      "hidden_size": size.width,
      "intermediate_size": size.mlp_width,
      "num_hidden_layers": size.depth,
      **both,
    }
    for size in (TEXT, VIDEO)
  ]
  module = torch_modules.draw(
    transformers.CLIPModel(
      transformers.CLIPConfig(
        text_config=sizes[0]
        | {
          "vocab_size": 50,
          "max_position_embeddings": 9,
          "bos_token_id": 1,
          "eos_token_id": 49,
        },
        vision_config=sizes[1] | {"image_size": 16, "patch_size": 8},
        projection_dim=12,
      )
    )
  )
  module.save_pretrained(tmp_path / "saved")
  other = "open_clip" if source == "clip" else "clip"
  with pytest.raises(ValueError, match=r"text_config.hidden_act is '\w*gelu'"):
    import_weights.import_weights(
      tmp_path / "saved", source=other, out=tmp_path / "other"
    )
  done = import_weights.import_weights(
    tmp_path / "saved", source=source, out=tmp_path / "out"
  )
  config = dual_encoder.DualEncoderConfig(
    **(import_weights.ELSEWHERE | done.settings)
  )
  model = dual_encoder.DualEncoder(config)
  variables = paths.nest(weights.read(tmp_path / "out")[0])
  images, theirs = clips((3, 1, 16, 16, 3), frames.CLIP)
  tokens, mask, lengths = text_inputs()
  tokens = np.minimum(tokens, 48)
  tokens[np.arange(len(lengths)), lengths - 1] = 49  # where its texts end
  with torch.no_grad():
    expected = module(
      input_ids=torch.from_numpy(tokens).long(),
      attention_mask=torch.from_numpy(mask).long(),
      pixel_values=theirs[:, :, 0],
    )
  still = np.repeat(images, config.num_frames, axis=1)
  output = model.apply(variables, still, tokens, mask)
  assert_same(output.video, expected.image_embeds)
  assert_same(output.text, expected.text_embeds)
  assert_same(output.logit_scale, module.logit_scale.exp())


@pytest.mark.parametrize("norm", [("weight", "bias"), ("gamma", "beta")])
def test_bert(norm):
  module = torch_modules.draw(torch_modules.Bert(TEXT))
  tensors = {
    re.sub(
      r"(LayerNorm\.)(weight|bias)$",
      lambda match: match[1] + norm[match[2] == "bias"],
      name,
    ): tensor
    for name, tensor in state_of(module).items()
  }
  assert f"encoder.layer.0.output.LayerNorm.{norm[1]}" in tensors
  model, variables = encoder_with(tensors, "bert")
  tokens, mask, _ = text_inputs()
  with torch.no_grad():
    vectors, blocks = module(
      torch.from_numpy(tokens).long(), torch.from_numpy(mask)
    )
  output, seen = run(model, variables, tokens, mask, method="text_tokens")
  assert_same_blocks(seen, "text_tower", blocks, mask=mask)
  weight = mask[..., None]
  mean = (vectors.numpy() * weight).sum(1) / weight.sum(1)
  assert_same(output.pooled, mean)


def test_fewer_positions_change_no_short_text():
  module = torch_modules.draw(torch_modules.Bert(TEXT))
  options = source_lib.Options(num_heads=NUM_HEADS, max_text_length=5)
  tokens, mask, _ = text_inputs()
  results = [
    model.apply(variables, tokens[1:, :5], mask[1:, :5], method="text_tokens")
    for model, variables in (
      encoder_with(state_of(module), "bert"),
      encoder_with(state_of(module), "bert", options),
    )
  ]
  np.testing.assert_allclose(results[0].pooled, results[1].pooled, atol=1e-6)


def sines(length, width):
  """The fixed positions of the family, entry by entry."""
  table = np.zeros((length, width))
  for position in range(length):
    for j in range(width):
      angle = position / 10_000 ** (2 * (j // 2) / width)
      table[position, j] = np.cos(angle) if j % 2 else np.sin(angle)
  return torch.from_numpy(table.astype(np.float32))


def test_videomae():
  module = torch_modules.draw(torch_modules.VideoMae(VIDEO, (2, 8, 8)))
  model, variables = encoder_with(state_of(module), "videomae")
  assert model.config.patch == (2, 8, 8)
  ours, theirs = clips((2, 4, 16, 16, 3), frames.IMAGENET)
  with torch.no_grad():
    feature, blocks = module(theirs, sines(8, VIDEO.width))
  output, seen = run(model, variables, ours, method="video_feature")
  assert_same_blocks(seen, "video_tower", blocks)
  assert_same(output, feature)


# Name of the authors -> name of Hugging Face; "@" stands before a layer's own.
_HUGGING_FACE_VIDEOMAE = {
  r"patch_embed\.proj": "videomae.embeddings.patch_embeddings.projection",
  r"blocks\.(\d+)\.": r"videomae.encoder.layer.\1.@",
  r"@norm1": "layernorm_before",
  r"@norm2": "layernorm_after",
  r"@attn\.proj": "attention.output.dense",
  r"@attn\.([qv]_bias)": r"attention.attention.\1",
  r"@mlp\.fc1": "intermediate.dense",
  r"@mlp\.fc2": "output.dense",
  r"^head": "classifier",
}


def hugging_face_videomae(state):
  renamed = {}
  for name, tensor in state.items():
    key = name
    for pattern, theirs in _HUGGING_FACE_VIDEOMAE.items():
      key = re.sub(pattern, theirs, key)
    stem, fused, _ = key.partition("@attn.qkv")
    if fused:
      for part, third in zip(
        ("query", "key", "value"), np.split(tensor, 3), strict=True
      ):
        renamed[f"{stem}attention.attention.{part}.weight"] = third
    else:
      renamed[key] = tensor
  return renamed


def test_videomae_under_the_names_of_hugging_face():
  module = torch_modules.draw(torch_modules.VideoMae(VIDEO, (2, 8, 8)))
  state = state_of(module)
  theirs = hugging_face_videomae(state)
  layer = "videomae.encoder.layer.0."
  assert f"{layer}attention.attention.q_bias" in theirs
  assert f"{layer}output.dense.bias" in theirs
  _, expected = encoder_with(state, "videomae")
  _, found = encoder_with(theirs, "videomae")
  jax.tree.map(np.testing.assert_array_equal, found, expected)
