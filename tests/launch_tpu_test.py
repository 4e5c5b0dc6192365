"""`./launch.sh tpu`, with a stand-in for gcloud that records its arguments."""

import os
import shlex
import shutil
import signal
import subprocess
import time

import pytest

from tests import conftest

SCRIPT = conftest.REPOSITORY / "launch.sh"
ZONE = ("--zone", "us-central2-b")
PLACE = ["--zone", "us-central2-b"]
RECORDER = r"""#!/usr/bin/env bash
{ flock 9; printf '%s\0' "$@" >&9; printf '\36' >&9; } 9>> "$RECORD"
# A line of FAIL, of a node's name and a code, is how calls for that node end.
code="$(sed -n "s/^$5 //p" "$FAIL" 2> /dev/null)"
[[ -z "$code" ]] || exit "$code"
case "$*" in
  *describe*)
    state="$(head -n 1 "$STATES")"
    sed -i 1d "$STATES"
    printf '%s\n' "${state%% *}" ;;
  *"kill -0"*)  # answers in turn, the last one for good; a comma: a worker
    head -n 1 "$SAID" | tr , '\n'
    if [[ "$(wc -l < "$SAID")" -gt 1 ]]; then sed -i 1d "$SAID"; fi ;;
  *nohup*)
    if [[ -f "$ON_START" ]]; then bash "$ON_START"; rm "$ON_START"; fi ;;
  *" scp "*) cp -- "$5" "$SHIPPED" ;;
esac
"""


@pytest.fixture
def cloud(tmp_path):
  """(launch, calls): runs the script; what gcloud was called with."""
  folder = tmp_path / "bin"
  folder.mkdir()
  (folder / "gcloud").write_text(RECORDER)
  (folder / "gcloud").chmod(0o755)
  record = tmp_path / "record"
  environment = os.environ | {
    "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
    "RECORD": str(record),
    "STATES": str(tmp_path / "states"),
    "SAID": str(tmp_path / "said"),
    "ON_START": str(tmp_path / "on_start"),
    "SHIPPED": str(tmp_path / "shipped"),
    "FAIL": str(tmp_path / "fail"),
    "CLAP_POLL_SEC": "0",
    "SECRET_TOKEN": "hunter2",
  }
  (tmp_path / "home").mkdir()

  def launch(*arguments, timeout=300, script=SCRIPT):
    return subprocess.run(
      ["bash", str(script), "tpu", *arguments],
      capture_output=True,
      text=True,
      timeout=timeout,
      check=False,
      env=environment,
      cwd=tmp_path / "home",
      stdin=subprocess.DEVNULL,
    )

  def calls():
    if not record.exists():
      return []
    text = record.read_bytes().decode()
    return [call.split("\0")[:-1] for call in text.split("\36")[:-1]]

  return launch, calls


def tpu(group, *arguments):
  return ["compute", "tpus", group, *arguments]


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
  copies = [call for call in calls() if "scp" in call]
  assert copies == [
    tpu(
      "tpu-vm",
      "scp",
      str(tarball),
      f"run-{index}:clap_jax.tar.gz",
      "--worker=all",
      *PLACE,
    )
    for index in range(2)
  ]
  installs = [call for call in calls() if "ssh" in call]
  assert [call[4] for call in installs] == ["run-0", "run-1"]
  assert all("launch.sh install tpu" in call[6] for call in installs)
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
    '#!/bin/sh\nprintf "%s\\n" "${PYTHON-unset}" "$@" > used\n'
  )
  (tmp_path / "launch.sh").chmod(0o755)
  subprocess.run(
    ["tar", "-czf", str(tarball), "-C", str(tmp_path), "launch.sh"], check=True
  )
  more = (*option, python) if option else ()
  launched = ("setup", "--name", "run", *ZONE, "--tarball", str(tarball))
  assert launch(*launched, *more).returncode == 0
  command = calls()[-1][6].removeprefix("--command=")
  home = tmp_path / "worker"
  (home / "clap_jax/.venv").mkdir(parents=True)
  (home / "clap_jax/old").touch()
  shutil.copy(tarball, home / "clap_jax.tar.gz")
  environment = {key: os.environ[key] for key in os.environ if key != "PYTHON"}
  subprocess.run(["bash", "-c", command], cwd=home, env=environment, check=True)
  assert (home / "used").read_text() == f"{python}\ninstall\ntpu\n"
  kept = sorted(path.name for path in (home / "clap_jax").iterdir())
  assert kept == [".venv", "launch.sh"]
  assert not list(tmp_path.rglob("INJECTED"))


@pytest.mark.parametrize("verb", ["train", "sweep"])
@pytest.mark.parametrize(
  "words",
  [
    ("--workdir", "workdir/run"),
    ("--workdir=run",),
    ("--workdir=",),
    ("--work", "~/run"),
    ("--workdir", "/mnt/run", "--workdir", "$(touch INJECTED)"),
  ],
)
def test_a_relative_workdir_is_refused(cloud, tmp_path, verb, words):
  launch, calls = cloud
  result = launch(verb, "--name", "run", *ZONE, "--", *words, "--config=c.py")
  assert result.returncode == 2
  assert f"tpu {verb}: --workdir: got " in result.stderr
  assert "give an absolute path" in result.stderr
  assert calls() == []
  assert not list(tmp_path.rglob("INJECTED"))


def test_an_absolute_workdir_is_taken(cloud):
  launch, calls = cloud
  for words in (("--workdir", "/mnt/run", "c"), ("--workdir=/mnt/run", "c")):
    result = launch("train", "--name", "run", *ZONE, "--", *words)
    assert result.returncode == 0, result.stderr
  assert len(calls()) == 2


@pytest.mark.parametrize("name", ["--flags-file=x.yaml", "code.tar.gz"])
def test_a_tarball_is_no_option_of_gcloud(cloud, tmp_path, name):
  launch, calls = cloud
  (tmp_path / "home" / name).write_bytes(b"x")
  result = launch("setup", "--name", "run", *ZONE, "--tarball", name)
  assert result.returncode == 0, result.stderr
  assert calls()[0][4] == f"./{name}"


def on_worker(home, command, exits=0, log=""):
  """Runs it as a worker would, with a launch.sh that notes its arguments."""
  folder = home / "clap_jax"
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "launch.sh").write_text(
    f"#!/bin/sh\nprintf '%s\\0' \"$@\" > ~/words\necho '{log}'\nexit {exits}\n"
  )
  (folder / "launch.sh").chmod(0o755)
  return subprocess.run(
    ["bash", "-c", command],
    cwd=home,
    env=os.environ | {"HOME": str(home)},
    capture_output=True,
    text=True,
    check=True,
    timeout=300,
  ).stdout


def ended(home):
  """The exit code that is written down when the process on a worker ends."""
  deadline = time.monotonic() + 300
  while not ((code := home / "run.rc").exists() and code.read_text()):
    assert time.monotonic() < deadline, "no exit code is written"
    time.sleep(0.01)
  return code.read_text()


def remote_words(tmp_path, command):
  """What the launcher on a worker is given."""
  home = tmp_path / "worker"
  on_worker(home, command)
  assert ended(home) == "0\n"
  return (home / "words").read_text().split("\0")[:-1]


HOSTILE = [
  "$(touch INJECTED)",
  "`touch INJECTED`",
  "; touch INJECTED;",
  "a b",
  "'\"",
  "x\ny",
  "&& touch INJECTED",
  "| touch INJECTED",
  "> INJECTED",
  "*",
  "~",
  "\\",
  "!!",
  "${HOME}",
  "é ü",
  "",
  "-rf",
  "#",
]


def test_arguments_reach_clap_as_they_are(cloud, tmp_path):
  launch, calls = cloud
  arguments = [f"--config.x={text}" for text in HOSTILE] + HOSTILE
  result = launch("train", "--name", "run", *ZONE, "--", *arguments)
  assert result.returncode == 0, result.stderr
  (call,) = calls()
  assert call[:6] == tpu("tpu-vm", "ssh", "run", "--worker=all")
  command = call[6].removeprefix("--command=")
  assert remote_words(tmp_path, command) == [
    "clap",
    "train",
    "--distributed",
    *arguments,
  ]
  assert not list(tmp_path.rglob("INJECTED"))


def test_a_sweep_runs_on_one_worker(cloud, tmp_path):
  launch, calls = cloud
  arguments = ("--config", "c.py", "--workdir", "/w")
  result = launch("sweep", "--name", "run", *ZONE, "--", *arguments)
  assert result.returncode == 0, result.stderr
  (call,) = calls()
  assert call[:6] == tpu("tpu-vm", "ssh", "run", "--worker=0")
  command = call[6].removeprefix("--command=")
  assert remote_words(tmp_path, command) == ["clap", "sweep", *arguments]


@pytest.mark.parametrize("text", [*HOSTILE, "A", "../x", "a" * 99, "a_b"])
@pytest.mark.parametrize(
  "option", ["--name", "--zone", "--project", "--type", "--runtime", "--slices"]
)
def test_hostile_names_are_refused_before_gcloud(cloud, tmp_path, option, text):
  launch, calls = cloud
  good = {
    "--name": "run",
    "--zone": "us-central2-b",
    "--type": "v4-8",
    "--runtime": "tpu-ubuntu2204-base",
  }
  if option == "--runtime" and text == "a" * 99:
    pytest.skip("a runtime's name may be long")
  arguments = [
    word for pair in (good | {option: text}).items() for word in pair
  ]
  result = launch("create", *arguments)
  assert result.returncode == 2
  assert option in result.stderr
  assert calls() == []
  assert not list(tmp_path.rglob("INJECTED"))


@pytest.mark.parametrize("text", ["-x", "--output=x", "$(id)", "a b", "", ":x"])
def test_hostile_revisions_are_refused(cloud, text):
  launch, calls = cloud
  result = launch("setup", "--name", "run", *ZONE, "--rev", text)
  assert result.returncode == 2
  assert calls() == []


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((), "give a verb"),
    (("launch",), "unknown verb 'launch'"),
    (("create", "--zone", "us-central2-b"), "--name is needed"),
    (("create", "--name", "a"), "--zone is needed"),
    (("create", "--name", "a", *ZONE), "--type is needed"),
    (("create", "--name", "a", *ZONE, "--type", "v4-8"), "--runtime"),
    (("create", "--name"), "--name needs a value"),
    (("train", "--name", "a", *ZONE), "after --"),
    (("train", "--name", "a", *ZONE, "--cofnig"), "unknown option"),
    (
      (
        *("train", "--name", "a", *ZONE, "--type", "v4-8", "--runtime", "r"),
        *("--restart", "--direct", "--", "--workdir", "/w"),
      ),
      "--restart needs a queued resource",
    ),
    (
      ("sweep", "--name", "a", *ZONE, "--slices", "2", "--", "--jobs", "2"),
      "uses one host",
    ),
    (
      ("sweep", "--name", "a", *ZONE, "--restart", "--", "--jobs", "2"),
      "--restart is for train",
    ),
    (
      ("train", "--name", "a", *ZONE, "--restart", "--", "--workdir", "/w"),
      "train --restart: --type is needed",
    ),
    (
      (
        *("train", "--name", "a", *ZONE, "--restart", "--type", "v4-8"),
        *("--", "--workdir", "/w"),
      ),
      "train --restart: --runtime is needed",
    ),
    (
      (
        *("train", "--name", "a", *ZONE, "--restart", "--type", "v4-8"),
        *("--runtime", "r", "--rev", "nosuch", "--", "--workdir", "/w"),
      ),
      "no commit 'nosuch'",
    ),
    (("stop", "--name", "a", *ZONE, "--slices", "2", "--direct"), "--direct"),
    (("setup", "--name", "a", *ZONE, "--tarball", "no.tar"), "no file"),
    (("setup", "--name", "a", *ZONE, "--python", ""), "no interpreter"),
  ],
)
def test_usage(cloud, arguments, message):
  launch, calls = cloud
  result = launch(*arguments)
  assert result.returncode == 2
  assert message in result.stderr
  assert calls() == []


def test_status_logs_stop_delete(cloud, tmp_path):
  launch, calls = cloud
  (tmp_path / "states").write_text("ACTIVE\n")
  result = launch("status", "--name", "run", *ZONE)
  assert result.stdout == "ACTIVE\n"
  assert launch("logs", "--name", "run", *ZONE, "--slices", "2").returncode == 0
  assert launch("stop", "--name", "run", *ZONE).returncode == 0
  assert launch("delete", "--name", "run", *ZONE).returncode == 0
  described, tail, *followed, stopped, deleted = calls()
  assert described[2:5] == ["queued-resources", "describe", "run"]
  assert tail[6] == "--command=tail -n 1 ~/run.log"
  assert sorted(call[4] for call in followed) == ["run-0", "run-1"]
  assert all("-F ~/run.log" in call[6] for call in followed)
  assert all("--worker=all" in call for call in (tail, *followed, stopped))
  assert stopped[6] == '--command=kill -TERM "$(cat ~/run.pid)"'
  assert deleted == tpu(
    "queued-resources", "delete", "run", "--force", "--quiet", *PLACE
  )


@pytest.mark.parametrize("fail", ["run-0 4\nrun-1 7", "run-0 7", "run-2 7"])
@pytest.mark.parametrize("verb", ["logs", "stop"])
def test_all_slices_are_asked_and_the_worst_code_returned(
  cloud, tmp_path, verb, fail
):
  launch, calls = cloud
  (tmp_path / "fail").write_text(f"{fail}\n")
  result = launch(verb, "--name", "run", *ZONE, "--slices", "3")
  assert result.returncode == 7
  assert sorted(call[4] for call in calls()) == ["run-0", "run-1", "run-2"]


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
  assert launch("status", "--name", "run", *ZONE).returncode == 7
  assert len(calls()) == 1


def test_lines_of_the_log_are_passed_on_as_they_come(cloud, tmp_path):
  launch, calls = cloud
  assert launch("logs", "--name", "run", *ZONE).returncode == 0
  (call,) = calls()
  (tmp_path / "run.log").write_text("step 1\n")
  command = call[6].removeprefix("--command=")
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


def kinds(calls):
  """What each call is for."""
  marks = {"nohup": "start", "install": "install", "kill -0": "ask"}
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
  starts = [call for call in calls() if "nohup" in " ".join(call)]
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
  assert launch(*RESTART, "--", "--workdir", "/w").returncode == 0
  start, ask = (
    call[6].removeprefix("--command=") for call in calls() if call[3] == "ssh"
  )
  home = tmp_path / "worker"
  home.mkdir()
  (home / "run.log").write_text(earlier)
  on_worker(home, start, exits, log)
  assert ended(home) == f"{exits}\n"
  assert on_worker(home, ask) == answer
  (home / "run.log").write_text("")
  (home / "run.rc").unlink()  # a host that was started again
  assert on_worker(home, ask) == "ENDED none\n"


def test_a_worker_runs_until_it_is_stopped(cloud, tmp_path):
  launch, calls = cloud
  (tmp_path / "states").write_text("ACTIVE\n")
  (tmp_path / "said").write_text("ENDED 0\n")
  assert launch(*RESTART, "--", "--workdir", "/w").returncode == 0
  assert launch("stop", "--name", "run", *ZONE).returncode == 0
  start, ask, stop = (
    call[6].removeprefix("--command=") for call in calls() if call[3] == "ssh"
  )
  home = tmp_path / "worker"
  # Like clap, which finishes its step when it is asked to.
  stoppable = (
    "trap 'exit 5' TERM; touch ~/ready; "
    "for second in $(seq 300); do sleep 1; done"
  )
  on_worker(
    home, start.replace("./launch.sh clap", f"sh -c {shlex.quote(stoppable)}")
  )
  deadline = time.monotonic() + 300
  while not (home / "ready").exists():
    assert time.monotonic() < deadline, "it has not started"
    time.sleep(0.01)
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
