"""Tutorial: find an action from five examples, without training.

  python -m tests.tutorials.few_shot MODEL FOLDER

MODEL is a model directory, as `clap demo` writes them. The five examples are
trimmed clips of one class; nothing is trained, the nearest prototype of the
encoder's features is taken. A few-shot head (configs/fewshot_sprites.py) finds
more, see docs/fewshot.md.
"""

import json
import pathlib
import sys

from clap_jax import main
from tfds_builders import encoding
from tfds_builders.motion_sprites import render, scene, sizes

CLASS = "spins"
NUM_EXAMPLES = 5


def make_support(folder: pathlib.Path) -> None:
  """Step 1: one folder per class, in it one clip per example.

  Here the clips are cut out of rendered videos; any mp4 will do. Untrimmed
  videos go with a segments.csv (video,start,end,label) instead.
  """
  (folder / CLASS).mkdir(parents=True)
  size = sizes.get_config("tiny")
  made, index = 0, 0
  while made < NUM_EXAMPLES:
    one = scene.make_scene(2, "examples", index=index, config=size)
    index += 1
    for action in one.actions:
      if action.verb == CLASS and made < NUM_EXAMPLES:
        encoding.write_mp4(
          scene.draw(one, slice(action.start, action.end)),
          folder / CLASS / f"example_{made}.mp4",
          fps=one.fps,
        )
        made += 1


def tutorial(model: pathlib.Path, root: pathlib.Path) -> dict:
  """Predictions on a new video, with the support below `root`."""
  make_support(root / "examples")
  video = root / "new.mp4"
  render.render_video(
    2, "new", index=0, config=sizes.get_config("tiny"), path=video
  )

  # 2. Ask. The answer says how it was matched and with how many examples.
  found = root / "found.json"
  command = ["predict", str(video), "--model", str(model)]
  command += ["--support", str(root / "examples"), "--json", str(found)]
  if main.main(command) != 0:
    raise SystemExit("clap predict failed")
  return json.loads(found.read_text())


if __name__ == "__main__":
  tutorial(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
