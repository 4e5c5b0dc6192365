"""Imports text encoders of the BERT family such as MiniLM."""

from clap_jax.interchange import rules
from clap_jax.interchange import source as source_lib
from clap_jax.models import variants

_PREFIX = r"(?:bert\.|0\.auto_model\.)?"
_LAYER = rf"{_PREFIX}encoder\.layer\.(\d+)\."
_BLOCKS = "params/text_tower/blocks/layers"

RULES = (
  rules.same(
    rf"{_PREFIX}embeddings\.word_embeddings\.weight",
    "params/text_tower/embedding",
  ),
  rules.Rule(
    rf"{_PREFIX}embeddings\.position_embeddings\.weight",
    ("params/text_tower/positions",),
    "positions_with_first_token_type",
  ),
  rules.left_out(
    rf"{_PREFIX}embeddings\.token_type_embeddings\.weight",
    "type 0 is added to the positions; there is no second text",
  ),
  rules.same(
    rf"{_PREFIX}embeddings\.LayerNorm\.(?:weight|gamma)",
    "params/text_tower/embedding_norm/scale",
  ),
  rules.same(
    rf"{_PREFIX}embeddings\.LayerNorm\.(?:bias|beta)",
    "params/text_tower/embedding_norm/bias",
  ),
  *source_lib.block_rules(
    _LAYER,
    _BLOCKS,
    {
      r"attention\.self\.query": "attention/q",
      r"attention\.self\.key": "attention/k",
      r"attention\.self\.value": "attention/v",
      r"attention\.output\.dense": "attention/out",
      r"attention\.output\.LayerNorm": "norm_attention",
      r"intermediate\.dense": "mlp/up",
      r"output\.dense": "mlp/down",
      r"output\.LayerNorm": "norm_mlp",
    },
  ),
  rules.left_out(rf"{_PREFIX}embeddings\.position_ids", "0, 1, 2, ..."),
  rules.left_out(rf"{_PREFIX}pooler\..*", "the mean over the tokens is taken"),
  rules.left_out(r"cls\..*", "a head of pre-training"),
)


def _settings(tensors, options) -> dict:
  embedding = source_lib.find(
    tensors, rf"{_PREFIX}embeddings\.word_embeddings\.weight", axes=2
  )
  positions = source_lib.find(
    tensors, rf"{_PREFIX}embeddings\.position_embeddings\.weight", axes=2
  )
  up = source_lib.find(
    tensors,
    rf"{_PREFIX}encoder\.layer\.0\.intermediate\.dense\.weight",
    axes=2,
  )
  if options.num_heads is None:
    raise ValueError(
      "The number of attention heads is not stored in any weight of this "
      "family: keep config.json beside the weights, or pass --num_heads."
    )
  length = options.max_text_length or positions.shape[0]
  return {
    "text_tower": "bert",
    "text_size": source_lib.size_name(
      variants.TEXT_SIZES,
      width=embedding.shape[1],
      depth=source_lib.count(tensors, rf"{_LAYER}.*"),
      mlp_width=up.shape[0],
      num_heads=options.num_heads,
    ),
    "vocab_size": embedding.shape[0],
    "max_text_length": min(length, positions.shape[0]),
  }


SOURCE = source_lib.Source(
  name="bert",
  rules=RULES,
  covers=r"params/text_tower/",
  settings=_settings,
  requires={
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
  },
)
