"""VideoPrism's encoder against its definition, under the names of its tree."""

import math

import jax
import numpy as np

from clap_jax.interchange import import_weights
from clap_jax.interchange import source as source_lib
from clap_jax.models import dual_encoder, video_tower
from clap_jax.training import paths

WIDTH, HEADS, HIDDEN, SIDE, STEPS = 16, 2, 32, 6, 2
CAP = 50.0


def draw_tree() -> dict[str, np.ndarray]:
  """Flat names and shapes of the public archives, small, with drawn values."""
  rng = np.random.default_rng(0)
  tree = {}

  def add(name, *shape, scale=1.0):
    tree[f"params/{name}"] = (scale * rng.normal(size=shape)).astype(np.float32)

  def linear(name, *shape):
    add(f"{name}/linear/kernel", *shape, scale=shape[-2] ** -0.5)
    add(f"{name}/linear/bias", *shape[:-2], shape[-1], scale=0.1)

  def norm(name, *shape):
    add(f"{name}/scale", *shape, scale=0.1)
    add(f"{name}/bias", *shape, scale=0.1)

  linear("patch_projection", SIDE * SIDE * 3, WIDTH)
  add("spatial_pos_emb/emb_var", 4, WIDTH)
  add("temporal_pos_emb/emb_var", STEPS, WIDTH)
  norm("spatial_ln", WIDTH)
  norm("temporal_ln", WIDTH)
  for encoder, depth in (("spatial_encoder", 1), ("temporal_encoder", 4)):
    layers = f"{encoder}/transformers_stack/x_layers"
    norm(f"{layers}/layer_norm", depth, WIDTH)
    norm(f"{layers}/ff_layer/layer_norm", depth, WIDTH)
    linear(f"{layers}/ff_layer/ffn_layer1", depth, WIDTH, HIDDEN)
    linear(f"{layers}/ff_layer/ffn_layer2", depth, HIDDEN, WIDTH)
    head = WIDTH // HEADS
    for name in ("query", "key", "value", "post"):
      # Large queries and keys, so that the bound on the logits is felt.
      scale = 4.0 if name in ("query", "key") else WIDTH**-0.5
      weight = f"{layers}/self_attention/{name}"
      add(f"{weight}/w", depth, WIDTH, HEADS, head, scale=scale)
      bias = (WIDTH,) if name == "post" else (HEADS, head)
      add(f"{weight}/b", depth, *bias, scale=0.1)
  return tree


def normed(x, scale, bias):
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / np.sqrt(var + 1e-6) * (1 + scale) + bias


ERF = np.vectorize(math.erf)


def stack(tree, encoder, x):  # (b, n, d)
  names = f"params/{encoder}/transformers_stack/x_layers/"
  layers = {k[len(names) :]: v for k, v in tree.items() if k.startswith(names)}
  seen = []
  for index in range(len(layers["layer_norm/scale"])):
    p = {
      name: value[index].astype(np.float64) for name, value in layers.items()
    }
    y = normed(x, p["layer_norm/scale"], p["layer_norm/bias"])
    q, k, v = (
      np.einsum("btd,dnh->bnth", y, p[f"self_attention/{name}/w"])
      + p[f"self_attention/{name}/b"][:, None]
      for name in ("query", "key", "value")
    )
    logits = np.einsum("bnth,bnsh->bnts", q, k) * (WIDTH // HEADS) ** -0.5
    logits = CAP * np.tanh(logits / CAP)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    y = np.einsum("bnts,bnsh,dnh->btd", weights, v, p["self_attention/post/w"])
    x = x + y + p["self_attention/post/b"]
    y = normed(x, p["ff_layer/layer_norm/scale"], p["ff_layer/layer_norm/bias"])
    y = y @ p["ff_layer/ffn_layer1/linear/kernel"]
    y = y + p["ff_layer/ffn_layer1/linear/bias"]
    y = y * 0.5 * (1 + ERF(y / math.sqrt(2)))
    x = x + y @ p["ff_layer/ffn_layer2/linear/kernel"]
    x = x + p["ff_layer/ffn_layer2/linear/bias"]
    seen.append(x)
  return x, seen


def encode(tree, clips):  # uint8 (b, t, y, x, 3)
  batch, steps, side = clips.shape[:3]
  cut = clips.reshape(batch * steps, side // SIDE, SIDE, side // SIDE, SIDE, 3)
  cut = cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch * steps, 4, -1) / 255.0
  x = cut @ tree["params/patch_projection/linear/kernel"]
  x = x + tree["params/patch_projection/linear/bias"]
  x, space = stack(
    tree, "spatial_encoder", x + tree["params/spatial_pos_emb/emb_var"]
  )
  x = normed(x, tree["params/spatial_ln/scale"], tree["params/spatial_ln/bias"])
  x = x.reshape(batch, steps, 4, WIDTH).transpose(0, 2, 1, 3)
  x = (
    x.reshape(batch * 4, steps, WIDTH) + tree["params/temporal_pos_emb/emb_var"]
  )
  x, time = stack(tree, "temporal_encoder", x)
  x = normed(
    x, tree["params/temporal_ln/scale"], tree["params/temporal_ln/bias"]
  )
  return x.reshape(batch, -1, WIDTH).mean(1), space, time


def test_layer_by_layer():
  tree = draw_tree()
  settings, conversion = import_weights.convert(
    tree, import_weights.SOURCES["videoprism"], source_lib.Options()
  )
  assert settings["patch"] == (1, SIDE, SIDE)
  assert (settings["num_frames"], settings["image_size"]) == (STEPS, 2 * SIDE)
  config = dual_encoder.DualEncoderConfig(
    **(import_weights.ELSEWHERE | settings)
  )
  tower = video_tower.make(config)
  shape = (3, STEPS, 2 * SIDE, 2 * SIDE, 3)
  clips = np.random.default_rng(1).integers(0, 255, shape, np.uint8)
  expected, *blocks = encode(tree, clips)
  params = paths.nest(conversion.weights)["params"]["video_tower"]
  output, state = jax.jit(
    lambda p: tower.apply(
      {"params": p},
      clips,
      capture_intermediates=True,
      mutable="intermediates",
    )
  )(params)
  np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)
  seen = state["intermediates"]
  for name, want in zip(("space", "time"), blocks, strict=True):
    got = seen[name]["layers"]["__call__"][0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
