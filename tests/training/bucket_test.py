"""Runs in a bucket end as local ones do, bit for bit, whatever happens."""

import signal
import subprocess
import sys
import time

import pytest

from clap_jax.storage import leases, line_parts, locations, output, untrusted
from clap_jax.training import checkpoint, manifest, preemption, writer
from clap_jax.training import workdir as workdir_lib
from tests import conftest
from tests.training import fit_test, tiny_run


@pytest.fixture
def workdir(bucket):
  return locations.at(bucket.url, "run")


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch):
  monkeypatch.setattr(leases, "DURATION_SEC", 8.0)


def losses(workdir):
  return [line["train/loss"] for line in writer.read_metrics(workdir)]


def test_a_run_is_that_of_a_local_directory(workdir, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  whole = tiny_run.run(tmp_path / "whole", num_steps=4, save_every=2)
  remote = tiny_run.run(workdir, num_steps=4, save_every=2)
  fit_test.assert_same_bits(whole, remote)
  assert losses(workdir) == losses(tmp_path / "whole")
  assert [path.name for path in tmp_path.iterdir()] == ["whole"]
  local, _ = checkpoint.restore_params(tmp_path / "whole")
  params, _ = checkpoint.restore_params(workdir)
  fit_test.assert_same_bits(local, params)
  assert any((workdir / writer.TENSORBOARD_DIRECTORY).iterdir())
  # A finished run is restored and nothing more.
  again = tiny_run.run(workdir, num_steps=4, batches_from=fit_test.no_batches)
  fit_test.assert_same_bits(whole, again)


@pytest.mark.faults
def test_sigterm_and_a_resume_through_a_faulty_network(
  bucket, workdir, tmp_path
):
  whole = tiny_run.run(tmp_path, num_steps=4, save_every=4)
  with bucket.failing(share_of_503=0.05, share_cut=0.05, delay_sec=0.005):
    with pytest.raises(preemption.Preempted) as stopped:
      tiny_run.run(
        workdir,
        num_steps=4,
        save_every=4,
        batches_from=tiny_run.signalling_batches(2, signal.SIGTERM),
      )
    assert stopped.value.step == 2
    parts = tiny_run.run(workdir, num_steps=4, save_every=4)
  fit_test.assert_same_bits(whole, parts)
  assert losses(workdir) == losses(tmp_path)


def test_a_killed_run_is_taken_over_when_its_lease_ends(workdir, tmp_path):
  command = [sys.executable, "-m", "tests.training.tiny_run", str(workdir)]
  killed = subprocess.run(
    [*command, "--steps=6", "--kill-at=5", "--lease-sec=8"],
    cwd=conftest.REPOSITORY,
    timeout=120,
    capture_output=True,
    text=True,
    check=False,
  )
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert not list((tmp_path).iterdir())
  evaluate = {"evaluate": lambda params, step: {"eval/weight": 0.0}}
  resumed = tiny_run.run(workdir, num_steps=6, **evaluate)
  fit_test.assert_same_bits(
    resumed, tiny_run.run(tmp_path / "w", num_steps=6, **evaluate)
  )
  steps = [line["step"] for line in writer.read_metrics(workdir)]
  assert sorted(set(steps)) == [1, 2, 3, 4, 5, 6]


def test_a_second_trainer_is_refused_and_the_first_left_alone(workdir):
  with workdir_lib.locked(workdir) as check:
    with (
      pytest.raises(workdir_lib.WorkdirBusyError, match="process"),
      workdir_lib.locked(workdir),
    ):
      pass
    check()
  with workdir_lib.locked(workdir) as check:  # at once, after its end
    check()


def test_a_process_without_the_lease_saves_nothing(workdir):
  with workdir_lib.locked(workdir) as check:
    newest = max((workdir / workdir_lib.LEASE_FOLDER).iterdir())
    other = newest.with_name(f"{int(newest.stem) + 1:08d}.json")
    output.write_json(other, {"owner": "another", "nonce": "x", "expires": 4e9})
    with pytest.raises(leases.LeaseLostError):
      _wait_until_lost(check)
  with (
    pytest.raises(leases.LeaseHeldError),
    pytest.MonkeyPatch.context() as patch,
  ):
    patch.setattr(leases.time, "sleep", lambda _: _renew(other))
    with leases.held(workdir / workdir_lib.LEASE_FOLDER):
      pass


def _renew(path):
  output.write_json(path, {"owner": "another", "nonce": "x", "expires": 5e9})


def _wait_until_lost(check):
  for _ in range(100):
    check()
    time.sleep(0.1)


def test_a_damaged_step_is_put_aside(workdir):
  tiny_run.run(workdir, num_steps=4, save_every=2)
  steps = workdir / checkpoint.CHECKPOINT_DIRECTORY
  step = steps / "4"
  infos = step.infos_below()
  data = next(name for name in infos if "/d/" in name)
  content = untrusted.read_bytes(step / data)
  output.write_bytes(step / "other", b"x")
  with pytest.raises(manifest.DamagedCheckpointError, match="foreign"):
    manifest.verify(step)
  (step / "other").unlink()
  (step / data).unlink()
  with pytest.raises(manifest.DamagedCheckpointError, match="missing"):
    manifest.verify(step)
  output.write_bytes(step / data, content)
  assert manifest.verify(step)["files"].keys() == infos.keys() - {
    manifest.MANIFEST_FILE
  }
  output.write_bytes(step / data, b"x" * len(content))
  checkpoint.restore_params(workdir)  # the one before; touches nothing
  assert step.is_dir()
  resumed = tiny_run.run(workdir, num_steps=4, save_every=2)
  assert int(resumed.step) == 4
  damaged = steps.with_name("checkpoints.damaged")
  assert [path.name for path in damaged.iterdir()] == ["4-0"]
  assert untrusted.read_bytes(damaged / "4-0" / data) == b"x" * len(content)
  assert checkpoint.complete_steps(steps) == [2, 4]


def test_a_checkpoint_that_was_copied_is_still_verified(workdir, tmp_path):
  tiny_run.run(workdir, num_steps=2)
  for name in workdir.infos_below():
    target = tmp_path / name
    target.parent.mkdir(parents=True, exist_ok=True)
    output.copy(workdir / name, target)
  local, _ = checkpoint.restore_params(tmp_path)
  fit_test.assert_same_bits(local, checkpoint.restore_params(workdir)[0])
  step = tmp_path / "checkpoints" / "2"
  data = next(path for path in step.rglob("d/*") if path.is_file())
  data.write_bytes(b"x" * data.stat().st_size)
  with pytest.raises(checkpoint.CheckpointError, match="md5"):
    checkpoint.restore_params(tmp_path)


def test_every_step_is_recorded_once_in_few_objects(bucket, workdir):
  log = writer.MetricsWriter(workdir, step=0)
  with bucket.counted() as requests:
    for step in range(1, 701):
      log.write(step, {"a": step})
    log.sync()
  assert len([r for r in requests if r.method in ("POST", "PUT")]) <= 3
  for step in range(701, 1001):
    log.write(step, {"a": step})
  del log  # killed: what was not flushed is lost with it
  log = writer.MetricsWriter(workdir, step=600)
  for step in range(601, 1001):
    log.write(step, {"a": step})
  log.close()
  steps = [line["step"] for line in writer.read_metrics(workdir)]
  assert steps == list(range(1, 1001))


def test_parts_are_joined_and_never_counted_twice(workdir, monkeypatch):
  monkeypatch.setattr(line_parts, "_MAX_PARTS", 3)
  monkeypatch.setattr(line_parts, "FLUSH_SEC", 0.0)
  log = writer.MetricsWriter(workdir, step=0)
  folder = workdir / writer.PARTS_FOLDER
  for step in range(1, 11):
    log.write(step, {"a": step})
    assert len(list(folder.iterdir())) <= 4
  output.write_bytes(folder / "00000001-00000001.txt", b'{"step": 1}\n')
  steps = [line["step"] for line in writer.read_metrics(workdir)]
  assert steps == list(range(1, 11))
