"""Imports VideoPrism's video encoder from NumPy archives.

The public archives stack their layers as ours do. A norm's scale is kept less 1
there. Of the video-text models the encoder is taken, without what pools it.
"""

import math

from clap_jax.interchange import rules
from clap_jax.interchange import source as source_lib
from clap_jax.models import variants

_PREFIX = r"(?:params/)?(?:vision_encoder/)?"
_OURS = "params/video_tower"


def _norm(theirs: str, ours: str) -> tuple[rules.Rule, ...]:
  return (
    rules.Rule(
      rf"{_PREFIX}{theirs}/scale", (f"{_OURS}/{ours}/scale",), "plus_one"
    ),
    rules.same(rf"{_PREFIX}{theirs}/bias", f"{_OURS}/{ours}/bias"),
  )


def _linear(theirs: str, ours: str) -> tuple[rules.Rule, ...]:
  return tuple(
    rules.same(rf"{_PREFIX}{theirs}/linear/{leaf}", f"{_OURS}/{ours}/{leaf}")
    for leaf in ("kernel", "bias")
  )


def _stack(theirs: str, ours: str) -> tuple[rules.Rule, ...]:
  layers = f"{theirs}/transformers_stack/x_layers"
  blocks = f"{ours}/layers"
  made = [
    *_norm(f"{layers}/layer_norm", f"{blocks}/norm_attention"),
    *_norm(f"{layers}/ff_layer/layer_norm", f"{blocks}/norm_mlp"),
    *_linear(f"{layers}/ff_layer/ffn_layer1", f"{blocks}/mlp/up"),
    *_linear(f"{layers}/ff_layer/ffn_layer2", f"{blocks}/mlp/down"),
  ]
  attention = f"{_PREFIX}{layers}/self_attention"
  target = f"{_OURS}/{blocks}/attention"
  for name, part in (("query", "q"), ("key", "k"), ("value", "v")):
    made += [
      rules.Rule(
        f"{attention}/{name}/w", (f"{target}/{part}/kernel",), "heads_in"
      ),
      rules.Rule(
        f"{attention}/{name}/b", (f"{target}/{part}/bias",), "heads_bias"
      ),
    ]
  return (
    *made,
    rules.Rule(f"{attention}/post/w", (f"{target}/out/kernel",), "heads_out"),
    rules.same(f"{attention}/post/b", f"{target}/out/bias"),
  )


RULES = (
  *_linear("patch_projection", "embed"),
  rules.same(rf"{_PREFIX}spatial_pos_emb/emb_var", f"{_OURS}/space_positions"),
  *_stack("spatial_encoder", "space"),
  *_norm("spatial_ln", "space_norm"),
  rules.same(rf"{_PREFIX}temporal_pos_emb/emb_var", f"{_OURS}/time_positions"),
  *_stack("temporal_encoder", "time"),
  *_norm("temporal_ln", "norm"),
  rules.left_out(
    r"(?:params/)?(auxiliary_encoder|contrastive_vision_pooler)/.*",
    "of the video-text model: the mean over the encoder's tokens is taken",
  ),
  rules.left_out(
    r"(?:params/)?text_encoder/.*", "the text tower has a form of its own"
  ),
)


def _settings(tensors, options) -> dict:
  del options
  layers = rf"{_PREFIX}spatial_encoder/transformers_stack/x_layers"
  depth, width, num_heads, _ = source_lib.find(
    tensors, f"{layers}/self_attention/query/w", axes=4
  ).shape
  up = source_lib.find(
    tensors, f"{layers}/ff_layer/ffn_layer1/linear/kernel", axes=3
  )
  places = source_lib.find(
    tensors, rf"{_PREFIX}spatial_pos_emb/emb_var", axes=2
  )
  steps = source_lib.find(
    tensors, rf"{_PREFIX}temporal_pos_emb/emb_var", axes=2
  )
  values = source_lib.find(
    tensors, rf"{_PREFIX}patch_projection/linear/kernel", axes=2
  ).shape[0]
  side = math.isqrt(values // 3)
  return {
    "video_tower": "videoprism",
    "motion_gain": 0.0,
    "video_size": source_lib.size_name(
      variants.VIDEO_SIZES,
      width=width,
      depth=depth,
      mlp_width=up.shape[-1],
      num_heads=num_heads,
    ),
    "num_frames": steps.shape[0],
    "image_size": side * math.isqrt(places.shape[0]),
    "patch": (1, side, side),
  }


SOURCE = source_lib.Source(
  name="videoprism",
  rules=RULES,
  covers=r"params/video_tower/",
  settings=_settings,
)
