"""Imports CLIP's text and image towers from OpenAI and open_clip.

Both use the same weight names; clip_huggingface maps those of Hugging Face.
OpenAI's models were trained with QuickGELU, most of open_clip with GELU. This
is the only difference between the two sources, and the weights do not show it.
"""

import math
import re

import numpy as np

from clap_jax.interchange import clip_huggingface, rules
from clap_jax.interchange import source as source_lib
from clap_jax.models import frames, variants

_PREFIX = r"(?:state_dict\.)?(?:module\.)?"  # open_clip's training checkpoints
_IN_TEXT = rf"{_PREFIX}(?:text\.)?"  # open_clip's custom text towers
_VISUAL = rf"{_PREFIX}visual\."
_TEXT = rf"{_IN_TEXT}transformer\.resblocks\.(\d+)\."
_IMAGE = rf"{_VISUAL}transformer\.resblocks\.(\d+)\."
_HF_TEXT = r"text_model\.embeddings\."
_HF_IMAGE = r"vision_model\.embeddings\."
_TEXT_BLOCKS = clip_huggingface.TEXT_BLOCKS
_VIDEO_BLOCKS = clip_huggingface.VIDEO_BLOCKS


def _projections(blocks: str, *names: str, leaf: str) -> tuple[str, ...]:
  return tuple(
    rf"{blocks}/{name}/{part}/{leaf}[\1]" for name in names for part in "qkv"
  )


RULES = (
  # Image tower. Attention over time is initialized from attention over space,
  # with an output of zero; see FILLINGS.
  rules.Rule(
    rf"{_VISUAL}conv1\.weight",
    ("params/video_tower/embed/kernel",),
    "inflated_tubelet",
  ),
  rules.same(rf"{_VISUAL}class_embedding", "params/video_tower/class_token"),
  rules.same(
    rf"{_VISUAL}positional_embedding", "params/video_tower/space_positions"
  ),
  rules.same(
    rf"{_VISUAL}ln_pre\.weight", "params/video_tower/embedding_norm/scale"
  ),
  rules.same(
    rf"{_VISUAL}ln_pre\.bias", "params/video_tower/embedding_norm/bias"
  ),
  rules.same(rf"{_VISUAL}ln_post\.weight", "params/video_tower/norm/scale"),
  rules.same(rf"{_VISUAL}ln_post\.bias", "params/video_tower/norm/bias"),
  rules.same(rf"{_VISUAL}proj", "params/video_projection/kernel"),
  rules.Rule(
    rf"{_IMAGE}attn\.in_proj_weight",
    _projections(_VIDEO_BLOCKS, "space", "time", leaf="kernel"),
    "thirds_transposed_twice",
  ),
  rules.Rule(
    rf"{_IMAGE}attn\.in_proj_bias",
    _projections(_VIDEO_BLOCKS, "space", "time", leaf="bias"),
    "thirds_twice",
  ),
  rules.Rule(
    rf"{_IMAGE}ln_1\.weight",
    (
      rf"{_VIDEO_BLOCKS}/norm_space/scale[\1]",
      rf"{_VIDEO_BLOCKS}/norm_time/scale[\1]",
    ),
    "twice",
  ),
  rules.Rule(
    rf"{_IMAGE}ln_1\.bias",
    (
      rf"{_VIDEO_BLOCKS}/norm_space/bias[\1]",
      rf"{_VIDEO_BLOCKS}/norm_time/bias[\1]",
    ),
    "twice",
  ),
  *source_lib.block_rules(
    _IMAGE,
    _VIDEO_BLOCKS,
    {
      r"attn\.out_proj": "space/out",
      r"ln_2": "norm_mlp",
      r"mlp\.c_fc": "mlp/up",
      r"mlp\.c_proj": "mlp/down",
    },
  ),
  # Text tower.
  rules.same(
    rf"{_IN_TEXT}token_embedding\.weight", "params/text_tower/embedding"
  ),
  rules.Rule(
    rf"{_IN_TEXT}positional_embedding",
    ("params/text_tower/positions",),
    "positions",
  ),
  rules.same(rf"{_IN_TEXT}ln_final\.weight", "params/text_tower/norm/scale"),
  rules.same(rf"{_IN_TEXT}ln_final\.bias", "params/text_tower/norm/bias"),
  rules.same(rf"{_IN_TEXT}text_projection", "params/text_projection/kernel"),
  rules.Rule(
    rf"{_TEXT}attn\.in_proj_weight",
    _projections(_TEXT_BLOCKS, "attention", leaf="kernel"),
    "thirds_transposed",
  ),
  rules.Rule(
    rf"{_TEXT}attn\.in_proj_bias",
    _projections(_TEXT_BLOCKS, "attention", leaf="bias"),
    "thirds",
  ),
  *source_lib.block_rules(
    _TEXT,
    _TEXT_BLOCKS,
    {
      r"ln_1": "norm_attention",
      r"attn\.out_proj": "attention/out",
      r"ln_2": "norm_mlp",
      r"mlp\.c_fc": "mlp/up",
      r"mlp\.c_proj": "mlp/down",
    },
  ),
  rules.same(rf"{_PREFIX}logit_(scale|bias)", r"params/logit_\1"),
  rules.left_out(r"(.*\.)?attn_mask", "the causal mask, which the tower makes"),
  rules.left_out(
    r"input_resolution|context_length|vocab_size", "a number, seen in shapes"
  ),
  rules.left_out(r"(epoch|optimizer|scaler)(\..*)?", "state of the training"),
  *clip_huggingface.RULES,
)

FILLINGS = (
  rules.Filling(
    rf"{_VIDEO_BLOCKS}/time/out/(kernel|bias)",
    0.0,
    "images have no time: attention over it adds nothing at first",
  ),
  rules.Filling(
    "params/video_tower/time_positions", 0.0, "images have no time"
  ),
  rules.Filling(
    "params/logit_bias", -10.0, "of the sigmoid objective, where it starts"
  ),
)


# Regexes that match both OpenAI's names and Hugging Face's.
_PATCHES = rf"{_VISUAL}conv1\.weight|{_HF_IMAGE}patch_embedding\.weight"
_PLACES = (
  rf"{_VISUAL}positional_embedding|{_HF_IMAGE}position_embedding\.weight"
)
_POSITIONS = (
  rf"{_IN_TEXT}positional_embedding|{_HF_TEXT}position_embedding\.weight"
)
_TOKENS = (
  rf"{_IN_TEXT}token_embedding\.weight|{_HF_TEXT}token_embedding\.weight"
)


def _settings(tensors, options, *, tower: str) -> dict:
  settings: dict = {"projection_width": _projection_width(tensors)}
  if options.tower != "text":
    settings |= {"video_tower": tower, **_video_settings(tensors, options)}
  if options.tower != "video":
    settings |= {"text_tower": tower, **_text_settings(tensors, options)}
  return settings


def _video_settings(tensors, options) -> dict:
  patches = source_lib.find(tensors, _PATCHES, axes=4)
  places = source_lib.find(tensors, _PLACES, axes=2).shape[0]
  patch = (options.tubelet_frames, *patches.shape[2:])
  return {
    "motion_gain": 0.0,
    "video_size": _size(
      tensors,
      (_IMAGE, clip_huggingface.IMAGE_LAYER),
      variants.VIDEO_SIZES,
      options,
    ),
    "num_frames": options.num_frames,
    "image_size": math.isqrt(places - 1) * patch[1],
    "patch": patch,
  }


def _text_settings(tensors, options) -> dict:
  positions = source_lib.find(tensors, _POSITIONS, axes=2)
  length = options.max_text_length or positions.shape[0]
  return {
    "text_size": _size(
      tensors,
      (_TEXT, clip_huggingface.TEXT_LAYER),
      variants.TEXT_SIZES,
      options,
    ),
    "vocab_size": source_lib.find(tensors, _TOKENS, axes=2).shape[0],
    "max_text_length": min(length, positions.shape[0]),
  }


def _recoloured(tensors, colours: frames.ColourScale) -> dict:
  """Folds another colour normalization into the patch weights, exactly.

  The patch embedding is linear in the colours. Another deviation scales its
  weights; another mean adds a constant to every patch, as its position does.
  """
  changed = dict(tensors)
  (patch_key,) = _keys(tensors, _PATCHES)
  (place_key,) = _keys(tensors, _PLACES)
  patches = np.asarray(tensors[patch_key], np.float32)
  mean = np.asarray(colours.mean, np.float32)
  std = np.asarray(colours.std, np.float32)
  shift = (np.asarray(frames.CLIP.mean, np.float32) - mean) / std
  scale = np.asarray(frames.CLIP.std, np.float32) / std
  changed[patch_key] = patches * scale[:, None, None]
  places = np.array(tensors[place_key], np.float32)
  places[1:] += np.einsum("ocyx,c->o", patches, shift)  # 0: the class token
  changed[place_key] = places
  return changed


def _keys(tensors, pattern: str) -> list[str]:
  found = [key for key in tensors if re.fullmatch(pattern, key)]
  if len(found) != 1:
    raise ValueError(f"Expected one tensor named like {pattern!r}, got {found}")
  return found


def _projection_width(tensors) -> int:
  """Returns d of OpenAI's (width, d) or Hugging Face's (d, width) weights."""
  for pattern, axis in (
    (r"(text|visual)_projection\.weight", 0),
    (rf"{_IN_TEXT}text_projection|{_VISUAL}proj", 1),
  ):
    for key in tensors:
      if re.fullmatch(pattern, key) and tensors[key].ndim == 2:
        return tensors[key].shape[axis]
  raise ValueError("The weights have no projection to a shared space.")


def _size(tensors, prefixes, table, options) -> str:
  first, first_hf = (prefix.replace(r"(\d+)", "0") for prefix in prefixes)
  mlp_width, width = source_lib.find(
    tensors, rf"{first}mlp\.c_fc\.weight|{first_hf}mlp\.fc1\.weight", axes=2
  ).shape
  return source_lib.size_name(
    table,
    width=width,
    depth=max(source_lib.count(tensors, rf"{p}.*") for p in prefixes),
    mlp_width=mlp_width,
    num_heads=options.num_heads or width // 64,  # as in the whole family
  )


def _source(name: str, *, activation: str) -> source_lib.Source:
  return source_lib.Source(
    name=name,
    rules=RULES,
    fillings=FILLINGS,
    covers=r"params/((video|text)_(tower|projection)/|logit_(scale|bias)$)",
    settings=lambda tensors, options: _settings(tensors, options, tower=name),
    requires=clip_huggingface.requires(activation)
    | {"model_cfg.quick_gelu": activation == "quick_gelu"},
    recoloured=_recoloured,
  )


OPENAI = _source("clip", activation="quick_gelu")
OPEN_CLIP = _source("open_clip", activation="gelu")
