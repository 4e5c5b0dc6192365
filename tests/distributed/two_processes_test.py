"""What two processes compute together equals what one does alone.

The loss, value and gradient, and the outputs of an evaluation, of which each
process loads its share.
"""

import os
import pathlib
import socket
import subprocess
import sys
import types

import numpy as np
import pytest

from clap_jax.losses import contrastive
from tests.losses import contrastive_oracle

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
NUM_PROCESSES, DEVICES_PER_PROCESS = 2, 2
BATCH, WIDTH, SCALE = 16, 8, 100.0
TIMEOUT_SEC = 240
IMPLEMENTATIONS = ("gathered", "tiled", "ring")


def example():
  rng = np.random.default_rng(7)
  embeddings = contrastive_oracle.random_embeddings(rng, BATCH, WIDTH)
  pairs = contrastive_oracle.random_pairs(rng, BATCH, uneven=True)
  return *embeddings, pairs


def run_process(process: int, port: int, directory: pathlib.Path) -> None:
  """What each process does; its results go to one file per process."""
  import jax  # noqa: PLC0415  (after the environment of this process)
  import jax.numpy as jnp  # noqa: PLC0415
  from jax.experimental import multihost_utils  # noqa: PLC0415
  from jax.sharding import (  # noqa: PLC0415
    AxisType,
    NamedSharding,
    PartitionSpec,
  )

  from clap_jax.losses import contrastive_sharded  # noqa: PLC0415

  jax.config.update("jax_num_cpu_devices", DEVICES_PER_PROCESS)
  jax.distributed.initialize(
    f"localhost:{port}",
    NUM_PROCESSES,
    process,
    initialization_timeout=240,
    heartbeat_timeout_seconds=120,
    shutdown_timeout_seconds=120,
  )
  mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  share = BATCH // NUM_PROCESSES
  own = slice(process * share, (process + 1) * share)
  video, text, pairs = jax.tree.map(
    lambda leaf: jax.make_array_from_process_local_data(
      sharding, leaf[own], global_shape=leaf.shape
    ),
    example(),
  )
  results = {}
  for implementation in IMPLEMENTATIONS:

    def loss(video, text, scale, pairs, implementation=implementation):
      return contrastive_sharded.contrastive_loss(
        video,
        text,
        pairs,
        scale,
        rules=contrastive.PRESETS["captions"],
        implementation=implementation,
        tile_size=3,
      )[0]

    function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    with jax.set_mesh(mesh):
      value, gradients = function(video, text, jnp.float32(SCALE), pairs)
    gathered = [
      multihost_utils.process_allgather(leaf, tiled=True)
      for leaf in (value, *gradients)
    ]
    names = ("loss", "by_video", "by_text", "by_scale")
    for name, leaf in zip(names, gathered, strict=True):
      results[f"{implementation}/{name}"] = leaf
  results["evaluation/output"], results["evaluation/loaded"] = evaluated()
  results |= {f"clips/{k}": v for k, v in encoded_clips().items()}
  np.savez(directory / f"{process}.npz", **results)
  jax.distributed.shutdown()


class Numbers:
  """Seven examples that count how often they are loaded."""

  def __init__(self):
    self.loaded = np.zeros(7, np.int32)

  def __len__(self):
    return len(self.loaded)

  def __getitem__(self, index):
    self.loaded[index] += 1
    return float(index)

  def collate(self, examples, *, batch_size):
    padded = [*examples, *[-1.0] * (batch_size - len(examples))]
    return {"x": np.array(padded, np.float32)}


def evaluated():
  """The squares of all numbers, and what this process loaded of them."""
  from clap_jax import config as config_lib  # noqa: PLC0415
  from clap_jax.data import pipeline  # noqa: PLC0415
  from clap_jax.evaluation import predictor as predictor_lib  # noqa: PLC0415
  from clap_jax.training import mesh as mesh_lib  # noqa: PLC0415

  source = Numbers()
  predictor = predictor_lib.Predictor(
    lambda _, batch: batch["x"] ** 2,
    mesh=mesh_lib.make_mesh(config_lib.MeshConfig()),
    batch_size=4,
  )
  with pipeline.evaluation_batches(
    source, batch_size=4, rows=predictor.rows
  ) as batches:
    outputs = [predictor.of_rows({}, batch) for batch in batches]
  return np.concatenate(outputs)[: len(source)], source.loaded


CLIPS = {"a": 3, "b": 7, "c": 4, "d": 1, "e": 6}  # of each video
BAD = "c"  # fails after two of its clips


class ClipVideos:
  """Videos of clips whose pixels are all their number, counted as decoded."""

  clip_shape = (1, 2, 2, 3)
  grid = None

  def __init__(self):
    from clap_jax.data import clip_source  # noqa: PLC0415

    self.examples = [types.SimpleNamespace(id=name) for name in CLIPS]
    self.bad_videos = clip_source.BadRecords()
    self.decoded = []

  def stream(self, info):
    from clap_jax.media import errors  # noqa: PLC0415

    self.decoded.append(info.id)
    for number in range(CLIPS[info.id]):
      if info.id == BAD and number == 2:
        raise errors.VideoError("broken")
      yield np.full(self.clip_shape, 10 * ord(info.id) % 200 + number, np.uint8)

  def leave_out(self, info, error):
    self.bad_videos.add(info.id, str(error))


def encoded_clips():
  """The features of all videos, and which of them this process decoded."""
  from clap_jax import config as config_lib  # noqa: PLC0415
  from clap_jax.evaluation import end_to_end as evaluation  # noqa: PLC0415
  from clap_jax.evaluation import predictor as predictor_lib  # noqa: PLC0415
  from clap_jax.training import mesh as mesh_lib  # noqa: PLC0415

  source = ClipVideos()
  predictor = predictor_lib.Predictor(
    lambda scale, batch: {
      "features": scale * batch["clips"].mean((1, 2, 3))[:, :1],
      "video": batch["video"],
    },
    mesh=mesh_lib.make_mesh(config_lib.MeshConfig()),
    batch_size=8,
  )
  found = evaluation.encode_all(source, predictor, np.float32(2.0))
  assert list(source.bad_videos.reasons) == [BAD]
  return {name: video.features for name, video in found.items()} | {
    "decoded": np.array([name in source.decoded for name in CLIPS], np.int32)
  }


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return probe.getsockname()[1]


@pytest.fixture(scope="module")
def process_results(tmp_path_factory):
  directory = tmp_path_factory.mktemp("two_processes")
  environment = {
    key: value for key, value in os.environ.items() if key != "XLA_FLAGS"
  }
  environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)}
  command = [sys.executable, "-m", __name__]
  port = str(free_port())
  processes = [
    subprocess.Popen(
      [*command, str(process), port, str(directory)],
      cwd=REPOSITORY,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for process in range(NUM_PROCESSES)
  ]
  try:
    outputs = [
      process.communicate(timeout=TIMEOUT_SEC)[0] for process in processes
    ]
  finally:
    for process in processes:
      process.kill()
  for process, output in zip(processes, outputs, strict=True):
    assert process.returncode == 0, output[-4000:]
  return [
    dict(np.load(directory / f"{process}.npz"))
    for process in range(NUM_PROCESSES)
  ]


def test_each_process_loads_its_share_of_an_evaluation(process_results):
  for result in process_results:
    np.testing.assert_array_equal(
      result["evaluation/output"], np.arange(7.0) ** 2
    )
  loaded = [result["evaluation/loaded"] for result in process_results]
  np.testing.assert_array_equal(sum(loaded), np.ones(7))
  assert all(one.any() for one in loaded)


def check_clips(found):
  names = [key for key in found if key != "decoded"]
  assert sorted(names) == sorted({*CLIPS} - {BAD})
  for name in names:
    expected = 2.0 * (10 * ord(name) % 200 + np.arange(CLIPS[name]))
    np.testing.assert_array_equal(found[name][:, 0], expected)


def test_each_process_decodes_its_share_of_the_videos(process_results):
  decoded = []
  for result in process_results:
    found = {
      key.removeprefix("clips/"): value
      for key, value in result.items()
      if key.startswith("clips/")
    }
    check_clips(found)
    decoded.append(found["decoded"])
  np.testing.assert_array_equal(sum(decoded), np.ones(len(CLIPS)))
  assert all(one.any() for one in decoded)


def test_one_process_decodes_all_videos():
  found = encoded_clips()
  check_clips(found)
  assert found["decoded"].all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_two_processes_agree_with_float64_loops(
  process_results, implementation
):
  expected = contrastive_oracle.oracle(
    *example(),
    scale=SCALE,
    bias=0.0,
    rules=contrastive.PRESETS["captions"],
    objective="softmax",
  )
  for results in process_results:
    for name in ("loss", "by_video", "by_text", "by_scale"):
      value = getattr(expected, name)
      actual = results[f"{implementation}/{name}"]
      error = np.max(np.abs(actual - value))
      assert error <= 1e-5 * np.max(np.abs(value)), name


if __name__ == "__main__":
  run_process(int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3]))
