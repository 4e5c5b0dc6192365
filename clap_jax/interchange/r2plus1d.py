"""Imports R(2+1)D weights of torchvision, IG-65M and TSP.

All three use the weight names of torchvision's VideoResNet; TSP wraps them in a
checkpoint with two heads, optimizer and arguments.
"""

from clap_jax.interchange import rules
from clap_jax.interchange import source as source_lib
from clap_jax.models import variants

_PREFIX = r"(?:model\.|state_dict\.)?(?:module\.)?(?:features\.|backbone\.)?"
_BLOCK = rf"{_PREFIX}layer(\d)\.(\d+)\."
_OURS = r"layer\1_block\2"


def _convolution(pattern: str, name: str) -> rules.Rule:
  target = f"params/video_tower/{name}/kernel"
  return rules.Rule(rf"{pattern}\.weight", (target,), "convolution")


def _norm(pattern: str, name: str) -> tuple[rules.Rule, ...]:
  params, stats = (
    f"params/video_tower/{name}",
    f"batch_stats/video_tower/{name}",
  )
  return (
    rules.same(rf"{pattern}\.weight", f"{params}/scale"),
    rules.same(rf"{pattern}\.bias", f"{params}/bias"),
    rules.same(rf"{pattern}\.running_mean", f"{stats}/mean"),
    rules.same(rf"{pattern}\.running_var", f"{stats}/var"),
  )


RULES = (
  _convolution(rf"{_PREFIX}stem\.0", "stem/spatial"),
  *_norm(rf"{_PREFIX}stem\.1", "stem/spatial_norm"),
  _convolution(rf"{_PREFIX}stem\.3", "stem/temporal"),
  *_norm(rf"{_PREFIX}stem\.4", "stem/temporal_norm"),
  _convolution(rf"{_BLOCK}conv(\d)\.0\.0", rf"{_OURS}/conv\3/spatial"),
  *_norm(rf"{_BLOCK}conv(\d)\.0\.1", rf"{_OURS}/conv\3/spatial_norm"),
  _convolution(rf"{_BLOCK}conv(\d)\.0\.3", rf"{_OURS}/conv\3/temporal"),
  *_norm(rf"{_BLOCK}conv(\d)\.1", rf"{_OURS}/norm\3"),
  _convolution(rf"{_BLOCK}downsample\.0", rf"{_OURS}/shortcut"),
  *_norm(rf"{_BLOCK}downsample\.1", rf"{_OURS}/shortcut_norm"),
  rules.left_out(r".*\.num_batches_tracked", "a counter that nothing reads"),
  rules.left_out(rf"{_PREFIX}fc\d?\..*", "a classifier of other classes"),
  rules.left_out(r"(optimizer|lr_scheduler)\..*", "state of the training"),
)


def _settings(tensors, options) -> dict:
  del options
  depths = []
  while True:
    layer = rf"{_PREFIX}layer{len(depths) + 1}\.(\d+)\..*"
    depth = source_lib.count(tensors, layer)
    if not depth:
      break
    depths.append(depth)
  for name, size in variants.R2PLUS1D_SIZES.items():
    if size.depths == tuple(depths):
      return {"video_tower": name, "motion_gain": 0.0}
  raise ValueError(
    f"No R(2+1)D here has {depths} blocks per layer; there are "
    f"{', '.join(variants.R2PLUS1D_SIZES)}."
  )


SOURCE = source_lib.Source(
  name="r2plus1d",
  rules=RULES,
  covers=r"(params|batch_stats)/video_tower/",
  settings=_settings,
  # torchvision's recipe, which IG-65M and TSP share; a clip of TSP is 16/15 s.
  clips={"clip.image_size": 112, "clip.resize": "tsp"},
)
