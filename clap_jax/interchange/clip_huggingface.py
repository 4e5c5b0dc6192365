"""Maps weight names of Hugging Face's CLIPModel to CLIP's.

The towers are those of clip.py, with a separate weight for each projection of
the attention.
"""

from clap_jax.interchange import rules
from clap_jax.interchange import source as source_lib

TEXT_LAYER = r"text_model\.encoder\.layers\.(\d+)\."
IMAGE_LAYER = r"vision_model\.encoder\.layers\.(\d+)\."
TEXT_BLOCKS = "params/text_tower/blocks/layers"
VIDEO_BLOCKS = "params/video_tower/blocks/layers"

_TOWERS = ("", "text_config.", "vision_config.")  # "" for a single tower


def requires(activation: str) -> dict[str, str | float]:
  """Returns the values that config.json must have, by dotted keys."""
  return {
    f"{tower}{key}": value
    for tower in _TOWERS
    for key, value in (("hidden_act", activation), ("layer_norm_eps", 1e-5))
  }


def _space_and_time(name: str, leaf: str) -> tuple[str, ...]:
  return tuple(
    rf"{VIDEO_BLOCKS}/{name.format(axis)}/{leaf}[\1]"
    for axis in ("space", "time")
  )


def _attention_of_images(part: str) -> tuple[rules.Rule, ...]:
  """Returns rules that initialize attention over time from that over space."""
  key, name = rf"{IMAGE_LAYER}self_attn\.{part}_proj", f"{{}}/{part}"
  return (
    rules.Rule(
      rf"{key}\.weight", _space_and_time(name, "kernel"), "transpose_twice"
    ),
    rules.Rule(rf"{key}\.bias", _space_and_time(name, "bias"), "twice"),
  )


RULES = (
  rules.Rule(
    r"vision_model\.embeddings\.patch_embedding\.weight",
    ("params/video_tower/embed/kernel",),
    "inflated_tubelet",
  ),
  rules.same(
    r"vision_model\.embeddings\.class_embedding",
    "params/video_tower/class_token",
  ),
  rules.same(
    r"vision_model\.embeddings\.position_embedding\.weight",
    "params/video_tower/space_positions",
  ),
  # The name is misspelled in the source.
  rules.same(
    r"vision_model\.pre_layrnorm\.weight",
    "params/video_tower/embedding_norm/scale",
  ),
  rules.same(
    r"vision_model\.pre_layrnorm\.bias",
    "params/video_tower/embedding_norm/bias",
  ),
  rules.same(
    r"vision_model\.post_layernorm\.weight", "params/video_tower/norm/scale"
  ),
  rules.same(
    r"vision_model\.post_layernorm\.bias", "params/video_tower/norm/bias"
  ),
  *(rule for part in "qkv" for rule in _attention_of_images(part)),
  rules.Rule(
    rf"{IMAGE_LAYER}layer_norm1\.weight",
    _space_and_time("norm_{}", "scale"),
    "twice",
  ),
  rules.Rule(
    rf"{IMAGE_LAYER}layer_norm1\.bias",
    _space_and_time("norm_{}", "bias"),
    "twice",
  ),
  *source_lib.block_rules(
    IMAGE_LAYER,
    VIDEO_BLOCKS,
    {
      r"self_attn\.out_proj": "space/out",
      r"layer_norm2": "norm_mlp",
      r"mlp\.fc1": "mlp/up",
      r"mlp\.fc2": "mlp/down",
    },
  ),
  rules.same(
    r"text_model\.embeddings\.token_embedding\.weight",
    "params/text_tower/embedding",
  ),
  rules.Rule(
    r"text_model\.embeddings\.position_embedding\.weight",
    ("params/text_tower/positions",),
    "positions",
  ),
  rules.same(
    r"text_model\.final_layer_norm\.weight", "params/text_tower/norm/scale"
  ),
  rules.same(
    r"text_model\.final_layer_norm\.bias", "params/text_tower/norm/bias"
  ),
  *source_lib.block_rules(
    TEXT_LAYER,
    TEXT_BLOCKS,
    {
      r"layer_norm1": "norm_attention",
      **{rf"self_attn\.{part}_proj": f"attention/{part}" for part in "qkv"},
      r"self_attn\.out_proj": "attention/out",
      r"layer_norm2": "norm_mlp",
      r"mlp\.fc1": "mlp/up",
      r"mlp\.fc2": "mlp/down",
    },
  ),
  rules.transposed(
    r"visual_projection\.weight", "params/video_projection/kernel"
  ),
  rules.transposed(r"text_projection\.weight", "params/text_projection/kernel"),
  rules.left_out(
    r"(text|vision)_model\.embeddings\.position_ids", "0, 1, 2, ..."
  ),
)
