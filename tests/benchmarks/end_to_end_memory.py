"""Compiled memory of an end-to-end step at 32, 128 and 512 clips per video.

    python -m tests.benchmarks.end_to_end_memory [--quick] --json OUT

Nothing is run: XLA's own account of one value-and-gradient program, for the
tower computed clip by clip with recomputation and, as a peer, for all clips at
once. What counts is the memory beside arguments and results; the clips
themselves, uint8, are arguments and grow with their number. The localizer works
on the features of all clips, as on frozen ones, and its own activations grow
with them; what the tower adds is told apart by a loss that is linear in the
features.
"""

import jax
import jax.numpy as jnp

from clap_jax import types
from clap_jax.losses import localization as losses
from clap_jax.models import dual_encoder, heads, localizer, pyramid
from clap_jax.trainers import end_to_end, localizers
from tests.benchmarks import running

_NUM_CLIPS = (32, 128, 512)
_NUM_SEGMENTS = 32
_MIB = 2**20


def make_task(num_clips: int, *, clips_per_step: int, quick: bool):
  """The demo's tower and localizer for one video of `num_clips`."""
  encoder = dual_encoder.DualEncoderConfig(
    video_size="micro" if quick else "tiny",
    text_size="micro",
    num_frames=16,
    image_size=32 if quick else 64,
    patch=(4, 16, 16),
    vocab_size=16,
    max_text_length=8,
    projection_width=16,
    num_classes=0,
    motion_gain=5.0,
    remat=True,
  )
  model = localizer.LocalizerConfig(
    num_classes=24,
    pyramid=pyramid.PyramidConfig(
      width=64, num_levels=4, num_heads=4, block="conv"
    ),
    head=heads.HeadConfig(),
  )
  return end_to_end.EndToEndTask(
    dual_encoder.DualEncoder(encoder),
    localizers.PointTask(
      model=localizer.Localizer(model),
      loss_config=losses.PointLossConfig(),
      decode_config=localizer.DecodeConfig(),
      max_length=num_clips,
      feature_width=16 if quick else 64,
    ),
    clips_per_step,
  )


def memory(
  num_clips: int, *, clips_per_step: int, quick: bool, tower_only: bool = False
):
  """(temporary bytes, bytes of the clips) of one compiled step."""
  task = make_task(num_clips, clips_per_step=clips_per_step, quick=quick)
  config = task.encoder.config
  side = config.image_size
  shape = jax.ShapeDtypeStruct
  batch = types.ClipSequenceBatch(
    clips=shape((1, num_clips, config.num_frames, side, side, 3), jnp.uint8),
    mask=shape((1, num_clips), jnp.bool_),
    segments=shape((1, _NUM_SEGMENTS, 2), jnp.float32),
    labels=shape((1, _NUM_SEGMENTS), jnp.int32),
    segment_mask=shape((1, _NUM_SEGMENTS), jnp.bool_),
    video_index=shape((1,), jnp.int32),
  )
  params = jax.eval_shape(task.init, jax.random.key(0))

  def tower_loss(params, batch, rng):
    weight = jax.random.normal(rng, (task.localizer.feature_width,))
    return (task.features(params, batch.clips) @ weight).sum(), None

  loss = tower_loss if tower_only else task.loss
  step = jax.jit(jax.value_and_grad(loss, has_aux=True))
  key = jax.eval_shape(lambda: jax.random.key(0))
  analysis = step.lower(params, batch, key).compile().memory_analysis()
  return analysis.temp_size_in_bytes, batch.clips.size


def measure(*, quick: bool) -> list[dict]:
  rows, temporary = [], {}
  for num_clips in _NUM_CLIPS:
    ours, clips = memory(num_clips, clips_per_step=8, quick=quick)
    temporary["ours", num_clips] = ours
    tower, _ = memory(num_clips, clips_per_step=8, quick=quick, tower_only=True)
    temporary["the tower alone", num_clips] = tower
    rows += [
      running.row(f"{num_clips} clips, 8 at a time", ours / _MIB, "MiB"),
      running.row(f"{num_clips} clips, the tower alone", tower / _MIB, "MiB"),
      running.row(
        f"{num_clips} clips, the clips themselves", clips / _MIB, "MiB"
      ),
    ]
    at_once, _ = memory(num_clips, clips_per_step=num_clips, quick=quick)
    temporary["at once", num_clips] = at_once
    rows.append(
      running.row(f"{num_clips} clips at once", at_once / _MIB, "MiB")
    )
  goals = {"the tower alone": 1.1, "at once": None}
  # Of the small tower of --quick the localizer takes more than the tower.
  goals["ours"] = None if quick else 1.1
  for name, goal in goals.items():
    ratio = temporary[name, 512] / temporary[name, 32]
    rows.append(
      running.row(f"512 clips / 32 clips, {name}", ratio, "x", at_most=goal)
    )
  ratio = temporary["ours", 512] / temporary["at once", 512]
  rows.append(
    running.row("ours / at once, 512 clips", ratio, "x", at_most=0.25)
  )
  return rows


if __name__ == "__main__":
  running.main(measure, __doc__)
