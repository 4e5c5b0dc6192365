import pytest

from clap_jax.inference import encoder as encoder_lib
from clap_jax.interchange import import_weights
from clap_jax.interchange import source as source_lib
from tests.inference import toy_model
from tests.public_weights import stand_ins


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
  return toy_model.make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def image_encoder(tmp_path_factory):
  """CLIP of random weights, on one frame per second."""
  folder = tmp_path_factory.mktemp("clip")
  stand_ins.write_open_clip(folder / "in", "micro")
  import_weights.import_weights(
    folder / "in",
    source="open_clip",
    out=folder / "out",
    options=source_lib.Options(num_heads=2, num_frames=1, tubelet_frames=1),
    metadata={"clip": {"clip_sec": 0.04}, "stride_sec": 1.0},
  )
  return encoder_lib.load_encoder(folder / "out")
