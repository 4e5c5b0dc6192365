"""Imports VideoMAE's transformers: joint attention over tubelets.

Names of the authors' own code and of Hugging Face. Checkpoints of masked
pre-training have a norm over the tokens where fine-tuned ones have one over
their mean; here it is taken over the mean.
"""

from clap_jax.interchange import rules
from clap_jax.interchange import source as source_lib
from clap_jax.models import variants

_PREFIX = r"(?:module\.|model\.)?(?:encoder\.)?"
_BLOCK = rf"{_PREFIX}blocks\.(\d+)\."
_HF = r"(?:videomae\.)?"
_HF_LAYER = rf"{_HF}encoder\.layer\.(\d+)\."
_BLOCKS = "params/video_tower/blocks/layers"
_PATCHES = (
  rf"(?:{_PREFIX}patch_embed\.proj|"
  rf"{_HF}embeddings\.patch_embeddings\.projection)"
)

RULES = (
  rules.Rule(
    rf"{_PATCHES}\.weight", ("params/video_tower/embed/kernel",), "tubelet"
  ),
  rules.same(rf"{_PATCHES}\.bias", "params/video_tower/embed/bias"),
  # Names of the authors' code.
  rules.Rule(
    rf"{_BLOCK}attn\.qkv\.weight",
    tuple(rf"{_BLOCKS}/attention/{part}/kernel[\1]" for part in "qkv"),
    "thirds_transposed",
  ),
  rules.same(
    rf"{_BLOCK}attn\.([qv])_bias", rf"{_BLOCKS}/attention/\2/bias[\1]"
  ),
  *source_lib.block_rules(
    _BLOCK,
    _BLOCKS,
    {
      r"norm1": "norm_attention",
      r"attn\.proj": "attention/out",
      r"norm2": "norm_mlp",
      r"mlp\.fc1": "mlp/up",
      r"mlp\.fc2": "mlp/down",
    },
  ),
  # Names of Hugging Face.
  rules.same(
    rf"{_HF_LAYER}attention\.attention\.([qv])_bias",
    rf"{_BLOCKS}/attention/\2/bias[\1]",
  ),
  *source_lib.block_rules(
    _HF_LAYER,
    _BLOCKS,
    {
      r"layernorm_before": "norm_attention",
      r"attention\.attention\.query": "attention/q",
      r"attention\.attention\.key": "attention/k",
      r"attention\.attention\.value": "attention/v",
      r"attention\.output\.dense": "attention/out",
      r"layernorm_after": "norm_mlp",
      r"intermediate\.dense": "mlp/up",
      r"output\.dense": "mlp/down",
    },
  ),
  rules.same(
    rf"(?:{_PREFIX}(?:fc_)?norm|{_HF}layernorm)\.weight",
    "params/video_tower/norm/scale",
  ),
  rules.same(
    rf"(?:{_PREFIX}(?:fc_)?norm|{_HF}layernorm)\.bias",
    "params/video_tower/norm/bias",
  ),
  rules.left_out(
    r"(?:module\.|model\.)?(decoder|mask_token|encoder_to_decoder).*",
    "of masked pre-training",
  ),
  rules.left_out(r".*pos_embed|.*position_embeddings", "fixed sines"),
  rules.left_out(
    r"(?:module\.|model\.)?(head|classifier)\..*",
    "a classifier of other classes",
  ),
  rules.left_out(r"optimizer\..*", "state of the training"),
)

FILLINGS = (
  rules.Filling(
    rf"{_BLOCKS}/attention/k/bias", 0.0, "the family has none for keys"
  ),
)


def _settings(tensors, options) -> dict:
  patches = source_lib.find(tensors, rf"{_PATCHES}\.weight", axes=5)
  width = patches.shape[0]
  up = source_lib.find(
    tensors,
    rf"{_PREFIX}blocks\.0\.mlp\.fc1\.weight|"
    rf"{_HF}encoder\.layer\.0\.intermediate\.dense\.weight",
    axes=2,
  )
  depth = max(
    source_lib.count(tensors, rf"{_BLOCK}.*"),
    source_lib.count(tensors, rf"{_HF_LAYER}.*"),
  )
  return {
    "video_tower": "videomae",
    "motion_gain": 0.0,
    "video_size": source_lib.size_name(
      variants.VIDEO_SIZES,
      width=width,
      depth=depth,
      mlp_width=up.shape[0],
      num_heads=options.num_heads or width // 64,
    ),
    "patch": tuple(patches.shape[2:]),
  }


SOURCE = source_lib.Source(
  name="videomae",
  rules=RULES,
  fillings=FILLINGS,
  covers=r"params/video_tower/",
  settings=_settings,
  # Nothing of the fixed sines lies in the weights, but these know one grid of
  # them alone: that of the paper, where no config says another.
  clips={"clip.image_size": 224, "clip.num_frames": 16},
  clips_said={"clip.image_size": "image_size", "clip.num_frames": "num_frames"},
)
