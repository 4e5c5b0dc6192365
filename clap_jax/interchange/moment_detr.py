"""Maps names and layouts of Moment-DETR's public checkpoints."""

from clap_jax.interchange import rules
from clap_jax.models.moment_detr import MomentDetrConfig


def _norm(pattern: str, target: str) -> tuple[rules.Rule, ...]:
  return (
    rules.same(rf"{pattern}\.weight", f"{target}/scale"),
    rules.same(rf"{pattern}\.bias", f"{target}/bias"),
  )


def _linear(pattern: str, target: str) -> tuple[rules.Rule, ...]:
  return (
    rules.transposed(rf"{pattern}\.weight", f"{target}/dense/kernel"),
    rules.same(rf"{pattern}\.bias", f"{target}/dense/bias"),
  )


def _attention(pattern: str, target: str) -> tuple[rules.Rule, ...]:
  def inputs(name):
    return tuple(f"{target}/{part}/{name}" for part in ("q", "k", "v"))

  return (
    rules.Rule(
      rf"{pattern}\.in_proj_weight", inputs("kernel"), "thirds_transposed"
    ),
    rules.Rule(rf"{pattern}\.in_proj_bias", inputs("bias"), "thirds"),
    rules.transposed(rf"{pattern}\.out_proj\.weight", f"{target}/out/kernel"),
    rules.same(rf"{pattern}\.out_proj\.bias", f"{target}/out/bias"),
  )


def _layer(part: str, norms: tuple[str, ...]) -> tuple[rules.Rule, ...]:
  """Returns the rules of the layers of the encoder or the decoder."""
  theirs, ours = rf"transformer\.{part}\.layers\.(\d+)", rf"params/{part}_\1"
  made = [
    *_attention(rf"{theirs}\.self_attn", f"{ours}/attention"),
    *_linear(rf"{theirs}\.linear1", f"{ours}/up"),
    *_linear(rf"{theirs}\.linear2", f"{ours}/down"),
  ]
  for number, norm in enumerate(norms, start=1):
    made += _norm(rf"{theirs}\.norm{number}", f"{ours}/{norm}")
  return tuple(made)


_POSITIONS = "txt_position_embed"
_RULES = (
  *_layer("encoder", ("attention_norm", "mlp_norm")),
  *_layer("decoder", ("attention_norm", "memory_norm", "mlp_norm")),
  *_attention(
    r"transformer\.decoder\.layers\.(\d+)\.multihead_attn",
    r"params/decoder_\1/memory_attention",
  ),
  *_norm(r"transformer\.encoder\.norm", "params/encoder_norm"),
  *_norm(r"transformer\.decoder\.norm", "params/decoder_norm"),
  *(
    rule
    for theirs, ours in (("vid", "video"), ("txt", "text"))
    for rule in (
      *_norm(
        rf"input_{theirs}_proj\.(\d+)\.LayerNorm",
        rf"params/{ours}_projection_\1/norm",
      ),
      *_linear(
        rf"input_{theirs}_proj\.(\d+)\.net\.1",
        rf"params/{ours}_projection_\1/linear",
      ),
    )
  ),
  *_linear(r"span_embed\.layers\.(\d+)", r"params/span_\1"),
  *_linear("class_embed", "params/label"),
  *_linear("saliency_proj", "params/saliency"),
  rules.same(r"query_embed\.weight", "params/codes"),
  rules.left_out(
    r"contrastive_align_projection_.*", "of a training loss alone"
  ),
)


def rules_of(config: MomentDetrConfig) -> tuple[rules.Rule, ...]:
  """Returns the rules for the checkpoints of a configuration."""
  if not config.text_positions:
    unused = rules.left_out(rf"{_POSITIONS}\..*", "use_txt_pos is false")
    return (*_RULES, unused)
  return (
    *_RULES,
    rules.same(
      rf"{_POSITIONS}\.position_embeddings\.weight",
      "params/text_position/positions",
    ),
    *_norm(rf"{_POSITIONS}\.LayerNorm", "params/text_position/norm"),
  )
