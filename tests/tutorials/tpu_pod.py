"""Tutorial: pre-training on a TPU pod, every command shown, none run.

  python -m tests.tutorials.tpu_pod

prints what `./launch.sh tpu` would call; take `--dry-run` away to run it, with
`gcloud` signed in. Data and workdir must lie where all hosts see them: a file
system that they mount, or a bucket through gcsfuse.
"""

import pathlib
import subprocess

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "launch.sh"
NAME, ZONE = "run", "us-west4-a"
STEPS = (
  # 1. Does it fit? On any CPU, before anything costs money:
  #    clap compile --config configs/pretrain_sprites.py:full \
  #      --topology v5e:4x4
  # 2. Ask for the slice; --spot is cheaper and may be taken away.
  ("create", "--type", "v5litepod-16", "--runtime", "v2-alpha-tpuv5-lite",
   "--spot"),
  # 3. Ship the committed code to every host and install it.
  ("setup",),
  # 4. Train: the same command on all hosts, joined by --distributed. Asked to
  #    stop, all of them save the same step and leave.
  ("train", "--", "--config", "configs/pretrain_sprites.py:full",
   "--workdir", "/mnt/shared/run"),
  # 5. Look, and give the slice back.
  ("logs",),
  ("delete",),
)  # fmt: skip


def tutorial() -> list[str]:
  """What each step would run."""
  printed = []
  for verb, *rest in STEPS:
    place = ["--name", NAME, "--zone", ZONE, "--dry-run"]
    result = subprocess.run(
      ["bash", str(SCRIPT), "tpu", verb, *place, *rest],
      capture_output=True,
      text=True,
      check=True,
      stdin=subprocess.DEVNULL,
    )
    printed.append(result.stdout + result.stderr)
  return printed


if __name__ == "__main__":
  print("\n".join(tutorial()))
