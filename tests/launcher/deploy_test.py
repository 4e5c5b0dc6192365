"""The Dockerfile and the examples of docs/deploy, run with stand-ins."""

import fnmatch
import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

from clap_jax import main
from clap_jax.commands import configs
from clap_jax.trainers import registry
from tests import conftest
from tests.launcher.hosts import locks

ROOT = conftest.REPOSITORY
DEPLOY = ROOT / "docs/deploy"
JOBSETS = ("jobset_tpu.yaml", "jobset_gpu.yaml")
ARGUMENTS = ("--config=configs/pretrain_sprites.py:full", "--workdir=/w/a b")


def check_arguments(words):
  """Whether `clap train` takes them, down to each key of the config."""
  args = main.parse(list(words))
  assert args.command == "train"
  registry.resolve(configs.read(args.config, args.overrides))
  assert os.path.isabs(args.workdir)
  return args


def instructions():
  """The Dockerfile's instructions with their arguments, in order."""
  text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
  text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
  return [line.split(None, 1) for line in text.splitlines() if line.strip()]


def ignored(path):
  """Whether .dockerignore leaves it out of the image."""
  lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
  parts = pathlib.PurePosixPath(path).parts
  for pattern in (line for line in lines if line and line[0] != "#"):
    anywhere = pattern.removeprefix("**/")
    matched = parts if anywhere != pattern else parts[:1]
    if any(fnmatch.fnmatch(part, anywhere) for part in matched):
      return True
  return False


def test_the_image_is_pinned_and_runs_as_a_user():
  found = instructions()
  named = [name for name, _ in found]
  values = dict(found)
  assert re.search(r"^PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+$", found[0][1])
  assert "ADD" not in named
  uid, _, gid = values["USER"].partition(":")
  assert int(uid) > 0 and int(gid) > 0
  assert named.index("USER") < named.index("COPY")
  assert values["ENTRYPOINT"] == '["/opt/clap_jax/launch.sh", "clap"]'


@pytest.mark.parametrize(
  ("hardware", "bucket", "added"),
  [("cpu", "", []), ("cuda", "s3", ["cuda", "s3"]), ("tpu", "", ["tpu"])],
)
def test_the_image_is_installed_from_the_locks(
  image, tmp_path, hardware, bucket, added
):
  calls, folder = image.calls, image.folder
  shutil.rmtree(folder)
  tracked = subprocess.run(
    ["git", "ls-files", "-z"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.split("\0")[:-1]
  kept = [name for name in tracked if not ignored(name)]
  assert {"launch.sh", "README.md", "clap_jax/main.py"} <= set(kept)
  assert not [name for name in kept if name.startswith(("tests/", "docs/"))]
  for name in kept:
    if name.count("/") <= 1:
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(ROOT / name, folder / name)
  (tmp_path / "fits").touch()
  *_, command = (value for name, value in instructions() if name == "RUN")
  subprocess.run(
    ["bash", "-c", command],
    cwd=folder,
    check=True,
    env=image.environment | {"HARDWARE": hardware, "BUCKET": bucket},
  )
  assert locks(calls())[2:] == [f"requirements-{name}.lock" for name in added]


def test_hadolint():
  program = conftest.developer_tool("hadolint")
  result = subprocess.run(
    [program, str(ROOT / "Dockerfile")],
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stdout


def document(name):
  return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def job_of(name):
  """A JobSet, the only replicated job in it, and its pod's container."""
  jobset = document(name)
  assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
  assert jobset["kind"] == "JobSet"
  assert set(jobset) == {"apiVersion", "kind", "metadata", "spec"}
  assert set(jobset["spec"]) == {"failurePolicy", "replicatedJobs"}
  (job,) = jobset["spec"]["replicatedJobs"]
  assert set(job) == {"name", "replicas", "template"}
  (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
  return jobset, job, container


@pytest.mark.parametrize("name", JOBSETS)
def test_jobs_of_a_jobset_are_jobs_of_kubernetes(name):
  validate = pytest.importorskip(
    "kubernetes_validate", reason='pip install "clap_jax[dev]"'
  )
  _, job, _ = job_of(name)
  validate.validate(
    {
      "apiVersion": "batch/v1",
      "kind": "Job",
      "metadata": {"name": job["name"]},
      "spec": job["template"]["spec"],
    },
    "1.33",
    strict=True,
  )


@pytest.mark.parametrize("name", JOBSETS)
def test_processes_of_a_jobset(name):
  jobset, job, container = job_of(name)
  spec = job["template"]["spec"]
  assert spec["parallelism"] == spec["completions"]
  assert spec["completionMode"] == "Indexed"  # process ids, and host names
  assert spec["backoffLimit"] == 0
  pod = spec["template"]["spec"]
  assert pod["restartPolicy"] == "Never"
  assert pod["terminationGracePeriodSeconds"] > 30
  assert pod["securityContext"]["runAsNonRoot"]
  assert container["resources"]["requests"] == container["resources"]["limits"]
  mounts = {mount["name"] for mount in container["volumeMounts"]}
  assert mounts == {volume["name"] for volume in pod["volumes"]}
  words = [
    word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in container["args"]
  ]
  args = check_arguments(words)
  ports = {port["containerPort"] for port in container["ports"]}
  if args.distributed:
    selector = pod["nodeSelector"]
    topology = selector["cloud.google.com/gke-tpu-topology"].split("x")
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert math.prod(map(int, topology)) == chips * spec["parallelism"]
  else:
    assert args.num_processes == job["replicas"] * spec["completions"]
    assert args.process_id == 1
    own = jobset["metadata"]["name"]
    host, _, port = args.coordinator.partition(":")
    assert host == f"{own}-{job['name']}-0-0.{own}"
    assert int(port) in ports


@pytest.fixture
def machine(tmp_path):
  """(run, words): runs a script beside stand-ins; what each was given."""
  tools, folder = tmp_path / "bin", tmp_path / "checkout"
  tools.mkdir()
  folder.mkdir()
  noting = '#!/bin/sh\nprintf "%s\\0" "$@" > "$NOTES/$(basename "$0")"\n'
  for name in ("xpk", "scontrol"):
    (tools / name).write_text(noting)
  (tools / "srun").write_text(f'{noting}shift\nexec "$@"\n')
  (folder / "launch.sh").write_text(noting)
  for path in (*tools.iterdir(), folder / "launch.sh"):
    path.chmod(0o755)

  def run(script, *arguments, **environment):
    return subprocess.run(
      ["bash", "-c", script, "bash", *arguments],
      cwd=folder,
      env=os.environ
      | environment
      | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "NOTES": str(tmp_path),
      },
      capture_output=True,
      text=True,
      check=False,
    )

  def words(name):
    note = tmp_path / name
    return note.read_text().split("\0")[:-1] if note.exists() else None

  return run, words


def test_xpk(machine):
  run, words = machine
  names = {"CLUSTER": "c", "PROJECT": "p", "ZONE": "z", "IMAGE": "i"}
  script = (DEPLOY / "xpk.sh").read_text(encoding="utf-8")
  result = run(script, "first", *ARGUMENTS, **names)
  assert result.returncode == 0, result.stderr
  *given, command = words("xpk")
  assert given[:2] == ["workload", "create"]
  assert {"--workload=first", "--num-slices=2", "--docker-image=i"} < set(given)
  launcher, clap, *rest = shlex.split(command.removeprefix("--command="))
  assert (launcher, clap) == ("/opt/clap_jax/launch.sh", "clap")
  assert check_arguments(rest).workdir == "/w/a b"
  assert run(script, "first", *ARGUMENTS).returncode != 0  # no cluster


def test_skypilot(machine):
  run, words = machine
  task = document("skypilot.yaml")
  assert set(task) <= {
    *("name", "resources", "num_nodes", "workdir", "file_mounts"),
    *("envs", "setup", "run"),
  }
  hardware, _, number = task["resources"]["accelerators"].partition(":")
  assert hardware and int(number)
  assert run(task["setup"]).returncode == 0
  assert words("launch.sh") == ["install", "cuda"]
  result = run(
    task["run"],
    SKYPILOT_NODE_IPS="10.0.0.2\n10.0.0.3",
    SKYPILOT_NUM_NODES="2",
    SKYPILOT_NODE_RANK="1",
  )
  assert result.returncode == 0, result.stderr
  clap, *rest = words("launch.sh")
  args = check_arguments(rest)
  assert clap == "clap"
  assert (args.num_processes, args.process_id) == (2, 1)
  assert args.coordinator == "10.0.0.2:8476"
  mount = next(iter(task["file_mounts"]))
  assert args.workdir.startswith(f"{mount}/")


def test_slurm(machine, tmp_path):
  run, words = machine
  script = (DEPLOY / "slurm.sbatch").read_text(encoding="utf-8")
  options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", script, re.M))
  assert int(options["gpus-per-node"]) % int(options["ntasks-per-node"]) == 0
  assert options["signal"].startswith("TERM@")
  assert "requeue" in options
  workdir = tmp_path / "run"
  workdir.mkdir()
  given = (ARGUMENTS[0], f"--workdir={workdir}")
  result = run(script, *given, SLURM_JOB_ID="4711")
  assert result.returncode == 0, result.stderr
  clap, *rest = words("launch.sh")
  assert clap == "clap"
  assert check_arguments(rest).distributed
  assert words("scontrol") == ["requeue", "4711"]  # it was asked to stop
  (tmp_path / "scontrol").unlink()
  (workdir / "results.json").touch()
  assert run(script, *given, SLURM_JOB_ID="4711").returncode == 0
  assert words("scontrol") is None
  for wrong in ((), ("--workdir=run",)):
    result = run(script, *wrong)
    assert result.returncode == 2
    assert "--workdir" in result.stderr


def test_shellcheck():
  program = conftest.developer_tool("shellcheck")
  scripts = [str(DEPLOY / name) for name in ("xpk.sh", "slurm.sbatch")]
  result = subprocess.run(
    [program, *scripts], capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stdout
