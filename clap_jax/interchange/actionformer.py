"""Maps names and layouts of ActionFormer's public checkpoints."""

from clap_jax.interchange import rules

_ATTENTION = {"query": "q", "key": "k", "value": "v"}


def _norm(pattern: str, target: str) -> tuple[rules.Rule, ...]:
  return (
    rules.Rule(rf"{pattern}\.weight", (f"{target}/scale",), "flat"),
    rules.Rule(rf"{pattern}\.bias", (f"{target}/bias",), "flat"),
  )


def _convolution(pattern: str, target: str) -> tuple[rules.Rule, ...]:
  return (
    rules.Rule(rf"{pattern}\.weight", (f"{target}/kernel",), "convolution_1d"),
    rules.same(rf"{pattern}\.bias", f"{target}/bias"),
  )


def _block_rules(part: str, target: str) -> tuple[rules.Rule, ...]:
  """Returns the rules of the blocks of one part of the backbone."""
  block, ours = rf"backbone\.{part}\.(\d+)\.", rf"params/{target}_\1"
  made = [
    *_norm(rf"{block}ln1", f"{ours}/attention_norm"),
    *_norm(rf"{block}ln2", f"{ours}/mlp_norm"),
    *_convolution(rf"{block}attn\.proj", f"{ours}/attention/out"),
    *_convolution(rf"{block}mlp\.0", f"{ours}/mlp/up"),
    *_convolution(rf"{block}mlp\.3", f"{ours}/mlp/down"),
    rules.Rule(
      rf"{block}attn\.rel_pe",
      (f"{ours}/attention/distance_bias",),
      "last_two_axes",
    ),
    rules.Rule(
      rf"{block}drop_path_attn\.scale",
      (f"{ours}/attention_path/scale",),
      "flat",
    ),
    rules.Rule(
      rf"{block}drop_path_mlp\.scale", (f"{ours}/mlp_path/scale",), "flat"
    ),
  ]
  for theirs, name in _ATTENTION.items():
    made += [
      rules.Rule(
        rf"{block}attn\.{theirs}_conv\.conv\.weight",
        (f"{ours}/attention/{name}_conv/kernel",),
        "depthwise_convolution_1d",
      ),
      *_norm(rf"{block}attn\.{theirs}_norm", f"{ours}/attention/{name}_norm"),
      *_convolution(rf"{block}attn\.{theirs}", f"{ours}/attention/{name}"),
    ]
  return tuple(made)


def _head_rules(theirs: str, ours: str, last: str) -> tuple[rules.Rule, ...]:
  return (
    *_convolution(
      rf"{theirs}\.head\.(\d+)\.conv", rf"params/{ours}/conv_\1/dense"
    ),
    *_norm(rf"{theirs}\.norm\.(\d+)", rf"params/{ours}/norm_\1"),
    *_convolution(rf"{theirs}\.{last}\.conv", f"params/{ours}/out/dense"),
  )


RULES = (
  *_convolution(r"backbone\.proj\.(\d+)\.conv", r"params/project_\1"),
  *_convolution(r"backbone\.embd\.(\d+)\.conv", r"params/stem_\1/dense"),
  *_norm(r"backbone\.embd_norm\.(\d+)", r"params/stem_norm_\1"),
  *_block_rules("stem", "stem_block"),
  *_block_rules("branch", "down_block"),
  *_norm(r"neck\.fpn_norms\.(\d+)", r"params/level_norm_\1"),
  *_head_rules("cls_head", "class_head", "cls_head"),
  *_head_rules("reg_head", "offset_head", "offset_head"),
  rules.same(r"reg_head\.scale\.(\d+)\.scale", r"params/offset_scale[\1]"),
  rules.left_out(r"backbone\.pos_embd", "fixed sines"),
  rules.left_out(r"point_generator\..*", "places of the points"),
)
