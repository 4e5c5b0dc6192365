"""The calls of `./launch.sh tpu`, read by gcloud itself where it is installed.

Without an account gcloud reads all options, then asks for one: nothing is made.
"""

import os
import shutil
import subprocess

import pytest

from tests.launcher.hosts import CREATE, ZONE

PLACE = ("--name", "run", *ZONE, "--project", "my-lab")
CALLS = (
  (
    *(*CREATE, "--project", "my-lab", "--slices", "4"),
    *("--reservation-project", "my-org", "--labels", "a=b,c=d"),
    *("--network", "n", "--subnetwork", "s", "--internal-ips"),
    *("--service-account", "a@b.iam.gserviceaccount.com"),
  ),
  (*CREATE, "--project", "my-lab", "--direct", "--reserved"),
  ("setup", *PLACE, "--iap"),
  ("train", *PLACE, "--env", "A=b", "--", "--workdir", "/w"),
  ("logs", *PLACE, "--internal-ips"),
  ("stop", *PLACE, "--direct"),
  ("status", *PLACE),
  ("delete", *PLACE),
)
_ACCOUNT = "do not currently have an active account"


@pytest.mark.slow
def test_gcloud_takes_every_call(cloud, tmp_path):
  if shutil.which("gcloud") is None:
    pytest.skip("gcloud is not installed")
  launch, noted = cloud
  (tmp_path / "states").write_text("CREATING\n")
  for arguments in CALLS:
    result = launch(*arguments)
    assert result.returncode == 0, result.stderr
  environment = os.environ | {
    "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    "CLOUDSDK_CORE_CHECK_GCE_METADATA": "0",
  }
  environment.pop("GOOGLE_APPLICATION_CREDENTIALS", None)
  calls = [["gcloud", *call] for call in noted()]
  assert len(calls) == len(CALLS) + 1  # setup copies and installs
  calls.append([*calls[0], "--no-such-option"])
  processes = [
    subprocess.Popen(
      call,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      stdin=subprocess.DEVNULL,
      text=True,
      # Each with a folder of its own: gcloud's caches are not for sharing.
      env=environment | {"CLOUDSDK_CONFIG": str(tmp_path / str(index))},
    )
    for index, call in enumerate(calls)
  ]
  errors = [process.communicate(timeout=300)[1] for process in processes]
  for call, error in zip(calls[:-1], errors[:-1], strict=True):
    assert _ACCOUNT in error, (call, error)
  assert "unrecognized arguments" in errors[-1]
