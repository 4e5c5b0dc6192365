"""`./launch.sh tpu`: what is refused before gcloud is asked."""

import pytest

from tests.launcher.hosts import CREATE, HOSTILE, ZONE


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


@pytest.mark.parametrize("text", [*HOSTILE, "A", "=b", "1A=b", "A-B=c"])
def test_a_variable_without_a_name_is_refused(cloud, text):
  launch, calls = cloud
  words = ("train", "--name", "run", *ZONE, "--env", text, "--", "--workdir=/w")
  result = launch(*words)
  assert result.returncode == 2
  assert "--env" in result.stderr
  assert calls() == []


@pytest.mark.parametrize("text", [*HOSTILE, "A", "../x", "a" * 99, "a_b"])
@pytest.mark.parametrize(
  "option",
  [
    *("--name", "--zone", "--project", "--type", "--runtime", "--slices"),
    *("--service-account", "--network", "--subnetwork", "--labels"),
    "--reservation-project",
  ],
)
def test_hostile_names_are_refused_before_gcloud(cloud, tmp_path, option, text):
  launch, calls = cloud
  good = {
    "--name": "run",
    "--zone": "us-central2-b",
    "--type": "v4-8",
    "--runtime": "tpu-ubuntu2204-base",
  }
  if option in ("--runtime", "--network", "--subnetwork") and text == "a" * 99:
    pytest.skip("such a name may be long")
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
    ((*CREATE, "--spot", "--reserved"), "one of --spot"),
    ((*CREATE, "--spot", "--reservation-project", "p"), "one of --spot"),
    ((*CREATE, "--direct", "--reservation-project", "p"), "queued resource"),
    (("stop", "--name", "a", *ZONE, "--direct", "--iap"), "queued resource"),
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
