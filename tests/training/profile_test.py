"""A profile of some steps, as TensorBoard's profiler finds and reads it."""

import jax

from clap_jax import config as config_lib
from clap_jax.training import fit
from tests.training import tiny_run


def test_so_many_steps_are_traced_where_tensorboard_looks(tmp_path):
  loop = config_lib.LoopConfig(
    length=tiny_run.steps(20), log_every=tiny_run.steps(1), profile_steps=3
  )
  tiny_run.run(tmp_path, num_steps=20, save_every=20, loop=loop)
  # TensorBoard shows what lies in LOGDIR/plugins/profile/RUN/HOST.xplane.pb.
  logdir = tmp_path / fit.PROFILE_DIRECTORY
  (trace,) = logdir.glob("plugins/profile/*/*.xplane.pb")
  numbers = [
    dict(event.stats)["step_num"]
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes
    for line in plane.lines
    for event in line.events
    if event.name == "train"
  ]
  assert sorted(numbers) == [12, 13, 14]


def test_without_being_asked_for_there_is_none(tmp_path):
  tiny_run.run(tmp_path, num_steps=2)
  assert not (tmp_path / fit.PROFILE_DIRECTORY).exists()
