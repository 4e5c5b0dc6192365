"""`./launch.sh tpu`: what it asks gcloud for, and what it refuses."""

import os
import shlex
import shutil
import signal
import subprocess

import pytest

from tests.launcher.hosts import (
  CREATE,
  EVERYWHERE,
  HOSTILE,
  PLACE,
  ZONE,
  command_of,
  ended,
  on_worker,
  tpu,
)


def test_create(cloud):
  launch, calls = cloud
  common = ("--type", "v5litepod-16", "--runtime", "v2-alpha-tpuv5-lite")
  for extra in ((), ("--spot", "--project", "my-lab"), ("--slices", "4")):
    result = launch("create", "--name", "run", *ZONE, *common, *extra)
    assert result.returncode == 0, result.stderr
  result = launch("create", "--name", "run", *ZONE, *common, "--direct")
  assert result.returncode == 0
  how = ["--accelerator-type=v5litepod-16"]
  queued = [*how, "--runtime-version=v2-alpha-tpuv5-lite"]
  create = tpu("queued-resources", "create", "run", *queued)
  assert calls() == [
    [*create, "--node-id=run", *PLACE],
    [*create, "--spot", "--node-id=run", *PLACE, "--project", "my-lab"],
    [*create, "--node-prefix=run", "--node-count=4", *PLACE],
    tpu(
      "tpu-vm",
      "create",
      "run",
      *how,
      "--version=v2-alpha-tpuv5-lite",
      *PLACE,
    ),
  ]


def test_setup_ships_a_commit_or_a_tarball_to_every_slice(cloud, tmp_path):
  launch, calls = cloud
  tarball = tmp_path / "a b;c.tar.gz"
  tarball.write_bytes(b"x")
  arguments = ("setup", "--name", "run", *ZONE, "--slices", "2")
  assert launch(*arguments, "--tarball", str(tarball)).returncode == 0
  copy, install = calls()
  assert copy == tpu(
    "queued-resources",
    "scp",
    str(tarball),
    "run:clap_jax.tar.gz",
    *EVERYWHERE,
    *PLACE,
  )
  assert install[2:5] == ["queued-resources", "ssh", "run"]
  assert install[6:] == [*EVERYWHERE, *PLACE]
  assert "launch.sh install tpu gcs" in command_of(install)
  result = launch("setup", "--name", "run", *ZONE, "--rev", "no-such-branch")
  assert result.returncode == 2
  assert "no commit" in result.stderr


@pytest.mark.parametrize(
  ("python", "option"),
  [
    ("unset", ()),
    ("/opt/my python/$(touch INJECTED)", ("--python",)),
    ("python3.11; touch INJECTED", ("--python",)),
  ],
)
def test_setup_installs_with_the_python_named(cloud, tmp_path, python, option):
  launch, calls = cloud
  tarball = tmp_path / "code.tar"
  (tmp_path / "launch.sh").write_text(
    '#!/bin/sh\nprintf "%s\\n" "${PYTHON-unset}" "$A" "$@" > used\n'
  )
  (tmp_path / "launch.sh").chmod(0o755)
  subprocess.run(
    ["tar", "-czf", str(tarball), "-C", str(tmp_path), "launch.sh"], check=True
  )
  more = (*option, python) if option else ()
  launched = ("setup", "--name", "run", *ZONE, "--tarball", str(tarball))
  more = (*more, "--env", "A=$(touch INJECTED) 'b\"")
  assert launch(*launched, *more).returncode == 0
  command = command_of(calls()[-1])
  home = tmp_path / "worker"
  (home / "clap_jax/.venv").mkdir(parents=True)
  (home / "clap_jax/old").touch()
  shutil.copy(tarball, home / "clap_jax.tar.gz")
  environment = {key: os.environ[key] for key in os.environ if key != "PYTHON"}
  subprocess.run(["bash", "-c", command], cwd=home, env=environment, check=True)
  assert (home / "used").read_text() == (
    f"{python}\n$(touch INJECTED) 'b\"\ninstall\ntpu\ngcs\n"
  )
  kept = sorted(path.name for path in (home / "clap_jax").iterdir())
  assert kept == [".venv", "launch.sh"]
  assert not list(tmp_path.rglob("INJECTED"))


def test_an_absolute_workdir_is_taken(cloud):
  launch, calls = cloud
  taken = (
    ("--workdir", "/mnt/run", "c"),
    ("--workdir=/mnt/run", "c"),
    ("--workdir", "gs://bucket/run"),
  )
  for words in taken:
    result = launch("train", "--name", "run", *ZONE, "--", *words)
    assert result.returncode == 0, result.stderr
  assert len(calls()) == len(taken)


@pytest.mark.parametrize("name", ["--flags-file=x.yaml", "code.tar.gz"])
def test_gcloud_takes_no_tarball_option(cloud, tmp_path, name):
  launch, calls = cloud
  (tmp_path / "home" / name).write_bytes(b"x")
  result = launch("setup", "--name", "run", *ZONE, "--tarball", name)
  assert result.returncode == 0, result.stderr
  assert calls()[0][4] == f"./{name}"


def remote_words(tmp_path, command):
  """What the launcher on a worker is given, and its environment."""
  home = tmp_path / "worker"
  on_worker(home, command)
  assert ended(home) == "0\n"
  words, environment = (
    (home / name).read_text().split("\0")[:-1]
    for name in ("words", "environment")
  )
  return words, dict(word.split("=", 1) for word in environment)


def test_arguments_and_variables_reach_clap_as_they_are(cloud, tmp_path):
  launch, calls = cloud
  arguments = [f"--config.x={text}" for text in HOSTILE] + HOSTILE
  variables = {f"CASE_{index}": text for index, text in enumerate(HOSTILE)}
  options = [
    word for pair in variables.items() for word in ("--env", "=".join(pair))
  ]
  result = launch("train", "--name", "run", *ZONE, *options, "--", *arguments)
  assert result.returncode == 0, result.stderr
  (call,) = calls()
  assert call[:5] == tpu("queued-resources", "ssh", "run")
  words, environment = remote_words(tmp_path, command_of(call))
  assert words == ["clap", "train", "--distributed", *arguments]
  assert variables.items() <= environment.items()
  assert not list(tmp_path.rglob("INJECTED"))


def test_all_slices_start_in_one_call(cloud):
  launch, calls = cloud
  words = ("train", "--name", "run", *ZONE, "--slices", "16", "--env", "A=b")
  result = launch(*words, "--dry-run", "--", "--workdir", "/w")
  assert result.returncode == 0, result.stderr
  (line,) = result.stdout.splitlines()
  call = shlex.split(line)
  assert call[:6] == ["gcloud", *tpu("queued-resources", "ssh", "run")]
  assert set(EVERYWHERE) < set(call)
  assert "A=b" in shlex.split(command_of(call))
  assert calls() == []


def test_a_slice_without_a_queued_resource(cloud):
  launch, calls = cloud
  words = ("train", "--name", "run", *ZONE, "--direct", "--", "--workdir=/w")
  assert launch(*words).returncode == 0
  (call,) = calls()
  assert call[:5] == tpu("tpu-vm", "ssh", "run")
  assert call[6:] == ["--worker=all", *PLACE]


def test_a_sweep_runs_on_one_worker(cloud, tmp_path):
  launch, calls = cloud
  arguments = ("--config", "c.py", "--workdir", str(tmp_path / "run"))
  result = launch("sweep", "--name", "run", *ZONE, "--", *arguments)
  assert result.returncode == 0, result.stderr
  (call,) = calls()
  assert "--worker=0" in call
  words, _ = remote_words(tmp_path, command_of(call))
  assert words == ["clap", "sweep", *arguments]


@pytest.mark.parametrize(
  ("options", "passed"),
  [
    (("--reserved",), ["--reserved"]),
    (
      ("--reservation-project", "our-org"),
      ["--reservation-host-project=our-org"],
    ),
    (
      ("--service-account", "a-b@c.iam.gserviceaccount.com"),
      ["--service-account=a-b@c.iam.gserviceaccount.com"],
    ),
    (
      ("--network", "projects/p/global/networks/n", "--subnetwork", "s-1"),
      ["--network=projects/p/global/networks/n", "--subnetwork=s-1"],
    ),
    (("--internal-ips",), ["--internal-ips"]),
    (("--labels", "team=video,run=a_1"), ["--labels=team=video,run=a_1"]),
  ],
)
def test_create_passes_on(cloud, options, passed):
  launch, calls = cloud
  result = launch(*CREATE, *options)
  assert result.returncode == 0, result.stderr
  (call,) = calls()
  assert set(passed) < set(call)


@pytest.mark.parametrize(
  ("options", "how"),
  [
    ((), []),
    (("--internal-ips",), ["--internal-ip"]),
    (("--internal-ips", "--iap"), ["--tunnel-through-iap"]),
  ],
)
def test_workers_without_external_addresses_are_reached(cloud, options, how):
  launch, calls = cloud
  assert launch("stop", "--name", "run", *ZONE, *options).returncode == 0
  (call,) = calls()
  assert call[6:] == [*EVERYWHERE, *how, *PLACE]


def test_status_logs_stop_delete(cloud, tmp_path):
  launch, calls = cloud
  (tmp_path / "states").write_text("ACTIVE\n")
  result = launch("status", "--name", "run", *ZONE)
  assert result.stdout == "ACTIVE\n"
  assert launch("logs", "--name", "run", *ZONE, "--slices", "2").returncode == 0
  assert launch("stop", "--name", "run", *ZONE).returncode == 0
  assert launch("delete", "--name", "run", *ZONE).returncode == 0
  described, tail, followed, stopped, deleted = calls()
  assert described[2:5] == ["queued-resources", "describe", "run"]
  assert command_of(tail) == "tail -n 1 ~/run.log"
  assert "-F ~/run.log" in command_of(followed)
  assert "--batch-size=all" in followed  # none of the connections ends
  for call in (tail, followed, stopped):
    assert {"--node=all", "--worker=all"} < set(call)
  assert command_of(stopped) == 'kill -TERM "$(cat ~/run.pid)"'
  assert deleted == tpu(
    "queued-resources", "delete", "run", "--force", "--quiet", *PLACE
  )


@pytest.mark.parametrize(
  ("state", "more", "asked"),
  [
    ("ACTIVE", (), 1),
    ("READY", ("--direct",), 1),
    ("WAITING_FOR_RESOURCES", (), 0),
    ("SUSPENDED", (), 0),
    ("CREATING", ("--direct",), 0),
  ],
)
def test_status_asks_only_a_slice_that_is_there(
  cloud, tmp_path, state, more, asked
):
  launch, calls = cloud
  (tmp_path / "states").write_text(f"{state}\n")
  result = launch("status", "--name", "run", *ZONE, *more)
  assert result.returncode == 0, result.stderr
  assert result.stdout == f"{state}\n"
  assert [call[3] for call in calls()] == ["describe"] + ["ssh"] * asked


def test_status_returns_what_failed(cloud, tmp_path):
  launch, calls = cloud
  (tmp_path / "fail").write_text("run 7\n")
  for verb in ("status", "logs", "stop"):
    assert launch(verb, "--name", "run", *ZONE).returncode == 7
  assert len(calls()) == 3


def test_lines_of_the_log_are_passed_on_as_they_come(cloud, tmp_path):
  launch, calls = cloud
  assert launch("logs", "--name", "run", *ZONE).returncode == 0
  (call,) = calls()
  (tmp_path / "run.log").write_text("step 1\n")
  command = command_of(call)
  with subprocess.Popen(
    ["bash", "-c", f"exec timeout 300 bash -c {shlex.quote(command)}"],
    env=os.environ | {"HOME": str(tmp_path)},
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
  ) as process:
    try:  # tail goes on, so what a pipe holds back would not come
      assert process.stdout.readline().endswith(": step 1\n")
    finally:
      os.killpg(process.pid, signal.SIGKILL)
