"""An encoder and heads as they are before any training."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np

from clap_jax.data import clip_reader
from clap_jax.data import tokenizer as tokenizer_lib
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import model_directory
from clap_jax.losses import grounding as grounding_losses
from clap_jax.models import (
  dual_encoder,
  fusion,
  heads,
  localizer,
  pyramid,
  two_d_tan,
)
from clap_jax.trainers import grounding, localizers, pretrain_task
from clap_jax.training import paths, weights
from tests.data import built_dataset

MAX_LENGTH = 16  # snippets
STRIDE_SEC = 1.0


def make_encoder(
  directory: pathlib.Path,
  *,
  seed=0,
  clip_sec=2.0,
  num_frames=4,
  image_size=16,
  video_size="micro",
):
  texts = [f"the square {name}" for name in built_dataset.LABEL_NAMES]
  tokenizer = tokenizer_lib.train(
    texts, vocab_size=40, path=directory / "tokenizer.model"
  )
  config = dual_encoder.DualEncoderConfig(
    video_size=video_size,
    text_size="micro",
    num_frames=num_frames,
    image_size=image_size,
    patch=(2, 8, 8),
    vocab_size=tokenizer.vocab_size,
    max_text_length=8,
    projection_width=8,
    num_classes=0,
  )
  return encoder_lib.Encoder(
    name="clap",
    seed=seed,
    directory=directory,
    clip=clip_reader.ClipShape(
      clip_sec=clip_sec, num_frames=num_frames, image_size=image_size
    ),
    config=config,
    params=jax.device_get(
      jax.jit(
        functools.partial(pretrain_task.init, dual_encoder.DualEncoder(config))
      )(jax.random.key(seed))
    ),
    tokenizer=tokenizer,
    training={},
  )


def write_imported(directory: pathlib.Path, encoder) -> pathlib.Path:
  """Writes an encoder as imported weights of both towers."""
  settings = dataclasses.asdict(encoder.config)
  settings.pop("num_classes")
  (directory / "tokenizer").write_bytes(encoder.tokenizer.model)
  weights.write(
    directory,
    {k: np.asarray(v) for k, v in paths.flatten(encoder.params).items()},
    {
      "kind": "import",
      "source": "clip",
      "settings": settings,
      "clip": dataclasses.asdict(encoder.clip),
    },
  )
  return directory


def make_model(encoder) -> model_directory.Model:
  shared = {
    "max_length": MAX_LENGTH,
    "length": "pad",
    "feature_width": encoder.feature_width,
    "pyramid": dataclasses.asdict(
      pyramid.PyramidConfig(width=16, num_levels=2, num_heads=2)
    ),
    "head": dataclasses.asdict(heads.HeadConfig()),
    "decode": dataclasses.asdict(
      localizer.DecodeConfig(num_kept=6, num_candidates=20, min_score=0.0)
    ),
  }
  by_class = shared | {
    "localizer": "points",
    "label_names": list(built_dataset.LABEL_NAMES),
    "standardization": None,
  }
  by_text = shared | {
    "kind": "pyramid",
    "fusion": dataclasses.asdict(fusion.FusionConfig(num_heads=2)),
    "map": dataclasses.asdict(two_d_tan.TwoDTanConfig()),
    "absence": {"slope": 2.0, "offset": 0.1, "threshold": 0.4},
    "query_length": encoder.config.max_text_length,
    "query_width": 16,
  }
  return model_directory.Model(
    encoder=encoder,
    stride_sec=STRIDE_SEC,
    localizer=_initial(localizers.make_task(by_class), by_class),
    grounder=_initial(
      grounding.make_task(
        by_text, loss_config=grounding_losses.GroundingLossConfig()
      ),
      by_text,
    ),
  )


def _initial(task, facts):
  params = jax.device_get(jax.jit(task.init)(jax.random.key(1)))
  return task, facts, params
