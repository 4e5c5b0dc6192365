"""`./launch.sh tpu train --restart`, and the processes on the workers."""

import os
import re
import shlex
import shutil
import subprocess
import time

import pytest

from tests.launcher.hosts import (
  LAUNCHER,
  SCRIPT,
  ZONE,
  commands,
  ended,
  on_worker,
  wait_for,
)


def kinds(calls):
  """What each call is for."""
  marks = {
    "worker.sh start": "start",
    "install": "install",
    "worker.sh state": "ask",
  }
  return [
    next((kind for mark, kind in marks.items() if mark in text), call[3])
    for call, text in ((call, " ".join(call)) for call in calls)
  ]


RESTART = (
  *("train", "--name", "run", *ZONE, "--type", "v4-16", "--spot"),
  *("--runtime", "tpu-ubuntu2204-base", "--restart"),
)


def test_after_a_preemption_everything_starts_again(cloud, tmp_path):
  launch, calls = cloud
  tarball = tmp_path / "code.tar.gz"
  tarball.write_bytes(b"x")
  states = ["ACTIVE", "SUSPENDING", "PROVISIONING", "ACTIVE", "ACTIVE"]
  (tmp_path / "states").write_text("\n".join(states))
  arguments = [*RESTART, "--tarball", str(tarball), "--", "--workdir", "/w"]
  # The last ACTIVE finds the run ended.
  (tmp_path / "said").write_text("RUNNING\nENDED 0\n")
  result = launch(*arguments)
  assert result.returncode == 0, result.stderr
  assert "run is SUSPENDING; making it again" in result.stderr
  assert "run has ended" in result.stderr
  assert kinds(calls()) == [
    "start",
    "describe",
    "ask",
    "describe",
    "delete",
    "create",
    "describe",
    "describe",
    "scp",
    "install",
    "start",
    "describe",
    "ask",
  ]
  starts = [call for call in calls() if "worker.sh start" in " ".join(call)]
  assert starts[0] == starts[1]


def test_one_stopped_worker_says_that_the_slice_waits_to_be_taken(
  cloud, tmp_path
):
  launch, calls = cloud
  states = ["ACTIVE"] * 3 + ["SUSPENDED", "ACTIVE", "ACTIVE"]
  (tmp_path / "states").write_text("\n".join(states))
  # Process 0 alone logs that it was asked to stop.
  (tmp_path / "said").write_text(
    "RUNNING,RUNNING\nSTOPPED,ENDED 0\nENDED 0,STOPPED\nENDED 0,ENDED 0\n"
  )
  result = launch(*RESTART, "--", "--workdir", "/w")
  assert result.returncode == 0, result.stderr
  assert "run is SUSPENDED; making it again" in result.stderr
  done = kinds(calls())
  assert done.count("ask") == 4
  assert done.count("start") == 2


@pytest.mark.parametrize(
  ("said", "code"),
  [("ENDED 3,ENDED 0", 3), ("ENDED 0,ENDED 3", 3), ("ENDED none", 1)],
)
def test_a_run_that_failed_is_said_and_returned(cloud, tmp_path, said, code):
  launch, calls = cloud
  (tmp_path / "states").write_text("ACTIVE\n" * 3)
  (tmp_path / "said").write_text(f"RUNNING\n{said}\n")
  result = launch(*RESTART, "--", "--workdir", "/w")
  assert result.returncode == code
  assert f"run has failed with exit code {code}" in result.stderr
  assert kinds(calls()).count("start") == 1


def test_a_run_that_was_stopped_on_a_slice_that_stays_is_left(cloud, tmp_path):
  launch, calls = cloud
  (tmp_path / "states").write_text("ACTIVE\n" * 30)
  (tmp_path / "said").write_text("STOPPED\nRUNNING\nSTOPPED,ENDED 0\n")
  result = launch(*RESTART, "--", "--workdir", "/w")
  assert result.returncode == 0, result.stderr
  assert "asked to stop and has saved" in result.stderr
  assert kinds(calls()).count("ask") == 2 + 10


@pytest.mark.parametrize(
  ("exits", "log", "answer"),
  [
    (0, "done", "ENDED 0\n"),
    (3, "it failed", "ENDED 3\n"),
    (0, "asked to stop: saved at step 7", "STOPPED\n"),
    (2, "asked to stop: saved at step 7", "ENDED 2\n"),
  ],
)
@pytest.mark.parametrize("earlier", ["", "asked to stop: saved at step 3\n"])
def test_a_worker_says_how_its_process_ended(
  cloud, tmp_path, *, exits, log, answer, earlier
):
  launch, calls = cloud
  (tmp_path / "states").write_text("ACTIVE\n")
  (tmp_path / "said").write_text("ENDED 0\n")
  assert (
    launch(*RESTART, "--", "--workdir", str(tmp_path / "run")).returncode == 0
  )
  start, ask = commands(calls())
  home = tmp_path / "worker"
  home.mkdir()
  (home / "run.log").write_text(earlier)
  on_worker(home, start, exits=exits, log=log)
  assert ended(home) == f"{exits}\n"
  assert on_worker(home, ask) == answer
  (home / "run.log").write_text("")
  for name in ("run.rc", "run.keeper"):  # a host that was started again
    (home / name).unlink()
  assert on_worker(home, ask) == "ENDED none\n"


def test_a_worker_runs_until_it_is_stopped(cloud, tmp_path):
  launch, calls = cloud
  (tmp_path / "states").write_text("ACTIVE\n")
  (tmp_path / "said").write_text("ENDED 0\n")
  assert (
    launch(*RESTART, "--", "--workdir", str(tmp_path / "run")).returncode == 0
  )
  assert launch("stop", "--name", "run", *ZONE).returncode == 0
  start, ask, stop = commands(calls())
  home = tmp_path / "worker"
  # Like clap, which finishes its step when it is asked to.
  stoppable = (
    "trap 'exit 5' TERM; touch ~/ready; "
    "for second in $(seq 300); do sleep 1; done"
  )
  on_worker(home, start, clap=f"exec bash -c {shlex.quote(stoppable)}")
  wait_for((home / "ready").exists, "it has not started")
  assert on_worker(home, ask) == "RUNNING\n"
  on_worker(home, stop)
  assert ended(home) == "5\n"
  assert on_worker(home, ask) == "ENDED 5\n"


def test_a_restart_ships_the_commit_of_the_start(cloud, tmp_path):
  launch, calls = cloud
  repository = tmp_path / "repository"
  repository.mkdir()
  script = repository / "launch.sh"
  shutil.copy(SCRIPT, script)
  (repository / LAUNCHER).mkdir(parents=True)
  shutil.copy(SCRIPT.parent / LAUNCHER / "tpu.sh", repository / LAUNCHER)
  (repository / "version").write_text("first")
  git = ["git", "-C", str(repository), "-c", "user.name=a"]
  git += ["-c", "user.email=a@b"]
  for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
    subprocess.run([*git, *arguments], check=True)
  # While the run runs, the branch goes on.
  (tmp_path / "on_start").write_text(
    f"cd {shlex.quote(str(repository))} && echo second > version &&\n"
    f"{shlex.join([*git, 'commit', '-qam', 'second'])}\n"
  )
  (tmp_path / "states").write_text("SUSPENDED\nACTIVE\nACTIVE\n")
  (tmp_path / "said").write_text("ENDED 0\n")
  result = launch(*RESTART, "--", "--workdir", "/w", script=script)
  assert result.returncode == 0, result.stderr
  assert (repository / "version").read_text() == "second\n"
  (created,) = (call for call in calls() if call[3] == "create")
  assert "--spot" in created
  shipped = subprocess.run(
    ["tar", "-xzOf", str(tmp_path / "shipped"), "version"],
    capture_output=True,
    check=True,
  )
  assert shipped.stdout == b"first"


def test_a_dry_run_prints_all_and_runs_nothing(cloud):
  launch, calls = cloud
  for verb in ("create", "setup", "status", "logs", "stop", "delete"):
    result = launch(
      verb,
      *("--name", "run", *ZONE, "--type", "v4-8", "--slices", "2"),
      *("--runtime", "tpu-ubuntu2204-base", "--dry-run"),
    )
    assert result.returncode == 0, result.stderr
    words = [shlex.split(line) for line in result.stdout.splitlines()]
    assert words
  result = launch(
    *(*RESTART, "--dry-run"),
    *("--", "--workdir", "/$(id)"),
  )
  assert result.returncode == 0
  assert "queued-resources describe" in result.stdout
  assert calls() == []
  assert "hunter2" not in result.stdout + result.stderr


def start_on(home, cloud, *, workdir, options=(), **settings):
  """Starts a run on one worker."""
  launch, calls = cloud
  words = ("train", "--name", "run", *ZONE, *options)
  result = launch(*words, "--", "--workdir", str(workdir))
  assert result.returncode == 0, result.stderr
  on_worker(home, commands(calls())[-1], **settings)


def environment_of(home):
  words = (home / "environment").read_text().split("\0")[:-1]
  return dict(word.split("=", 1) for word in words)


def test_the_log_of_each_start_is_kept_in_the_workdir(cloud, tmp_path):
  home, workdir = tmp_path / "worker", tmp_path / "run dir"
  running = {
    "clap": "echo step 1; sleep 300",
    "environment": {"CLAP_COPY_SEC": "0.1"},
  }
  start_on(home, cloud, workdir=workdir, **running)
  wait_for(lambda: list(workdir.glob("logs/*.log")), "nothing is copied")
  (copy,) = workdir.glob("logs/*.log")
  assert copy.read_text() == "step 1\n"  # and no earlier line
  subprocess.run(["bash", "-c", 'kill "$(cat run.pid)"'], cwd=home, check=True)
  assert ended(home) == "143\n"
  (home / "run.log").write_text("x\n" * 3)
  wait_for(lambda: not same_second(copy), "a second has passed")
  start_on(home, cloud, workdir=workdir, log="the last line")
  assert ended(home) == "0\n"
  texts = sorted(path.read_text() for path in workdir.glob("logs/*"))
  assert texts == ["step 1\n", "the last line\n"]


def same_second(copy):
  return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) in copy.name


def test_a_workdir_that_cannot_be_written_stops_no_run(cloud, tmp_path):
  home, workdir = tmp_path / "worker", tmp_path / "run"
  workdir.write_text("no folder")
  start_on(
    home,
    cloud,
    workdir=workdir,
    environment={"CLAP_COPY_SEC": "0.1"},
    clap="sleep 1",
  )
  assert ended(home) == "0\n"
  log = (home / "run.log").read_text()
  assert log.count("the log cannot be copied") == 1


def test_nothing_is_written_through_links_of_the_workdir(cloud, tmp_path):
  home, workdir, other = (tmp_path / n for n in ("worker", "run", "other"))
  workdir.mkdir()
  other.mkdir()
  for name in ("logs", "compiled"):
    (workdir / name).symlink_to(other)
  start_on(home, cloud, workdir=workdir)
  assert ended(home) == "0\n"
  assert list(other.iterdir()) == []
  assert "JAX_COMPILATION_CACHE_DIR" not in environment_of(home)


def test_a_log_is_put_into_a_bucket(cloud, tmp_path):
  home, tools = tmp_path / "worker", tmp_path / "tools"
  tools.mkdir()
  (tools / "gcloud").write_text(
    '#!/bin/sh\necho "$1 $2 $5" > ~/asked\ncp "$4" ~/uploaded\n'
  )
  (tools / "gcloud").chmod(0o755)
  start_on(
    home,
    cloud,
    workdir="gs://bucket/run",
    environment={"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
    log="step 1",
  )
  assert ended(home) == "0\n"
  asked = (home / "asked").read_text()
  assert re.fullmatch(r"storage cp gs://bucket/run/logs/\S+\.log\n", asked)
  assert (home / "uploaded").read_text() == "step 1\n"
  folder = environment_of(home)["JAX_COMPILATION_CACHE_DIR"]
  assert folder.startswith("gs://bucket/run/compiled/")
  assert not list(tmp_path.rglob("gs:*"))


def test_programs_are_kept_under_a_name_that_none_can_guess(cloud, tmp_path):
  home, workdir = tmp_path / "worker", tmp_path / "run"
  start_on(home, cloud, workdir=workdir)
  assert ended(home) == "0\n"
  first = environment_of(home)["JAX_COMPILATION_CACHE_DIR"]
  key = (tmp_path / "config/clap_jax/cache_key").read_text()
  assert re.fullmatch(r"[0-9a-f]{32}", key)
  assert first == f"{workdir}/compiled/{key}"
  assert (workdir / "compiled" / key).stat().st_mode & 0o777 == 0o700
  (home / "run.rc").unlink()
  start_on(home, cloud, workdir=workdir)
  assert ended(home) == "0\n"
  assert environment_of(home)["JAX_COMPILATION_CACHE_DIR"] == first
  (home / "run.rc").unlink()
  chosen = ("--env", "JAX_COMPILATION_CACHE_DIR=/mine")
  start_on(home, cloud, workdir=workdir, options=chosen)
  assert ended(home) == "0\n"
  assert environment_of(home)["JAX_COMPILATION_CACHE_DIR"] == "/mine"
