"""Renders motion_sprites as real mp4 files with their annotations.

  python -m tfds_builders.motion_sprites.render --size demo --out DIR

writes DIR/<split>/<id>.mp4 and DIR/annotations.json. A second run of the same
command keeps complete files and renders the others.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import pathlib
import sys
from collections.abc import Callable

from rich import progress

from clap_jax.storage import untrusted
from tfds_builders import encoding, packing
from tfds_builders.motion_sprites import scene, sizes

ANNOTATIONS_NAME = "annotations.json"
FINGERPRINT_NAME = "rendered_with.json"

Progress = Callable[[int, int], None]  # videos done, total


def render_video(
  seed: int,
  split: str,
  *,
  index: int,
  config: sizes.SpritesConfig,
  path: pathlib.Path,
) -> dict:
  """Renders a video to `path`; returns its annotations (scene.annotate).

  Any split name works: `unseen`, for example, gives videos of no named split.
  """
  made = scene.make_scene(seed, split, index=index, config=config)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  encoding.write_mp4(scene.draw(made), path, fps=made.fps)
  return scene.annotate(made)


def _render_one(job) -> dict:
  config, split, index, path = job
  if path.exists():
    annotations = scene.annotate(
      scene.make_scene(config.seed, split, index=index, config=config)
    )
    if encoding.count_frames(path) == annotations["num_frames"]:
      return annotations
  return render_video(config.seed, split, index=index, config=config, path=path)


def _fingerprint(config):
  """Returns a fingerprint of the rendered bytes, except the video count."""
  return {
    "dataset": "motion_sprites",
    "scene_version": scene.SCENE_VERSION,
    "size": config.name,
    "seed": config.seed,
    "duration_sec": list(config.duration_sec),
    "fps": list(config.fps),
    "gap_sec": list(config.gap_sec),
    "size_px": list(config.size_px),
  }


def _claim_folder(out, config):
  """Refuses a folder with another rendering; marks it as this one."""
  marker, mine = out / FINGERPRINT_NAME, _fingerprint(config)
  if marker.exists():
    other = untrusted.read_json(marker)
    if other != mine:
      raise ValueError(
        f"{out} holds another rendering: got {other}, expected {mine}. "
        "Delete the folder or choose another one."
      )
  elif out.exists() and any(out.iterdir()):
    raise ValueError(
      f"{out} is not empty and was not written by this "
      "renderer; choose an empty or a new folder."
    )
  out.mkdir(parents=True, exist_ok=True)
  packing.write_json(marker, mine)


def render(
  config: sizes.SpritesConfig,
  out: pathlib.Path,
  *,
  num_workers: int | None = None,
  limit: int | None = None,
  on_progress: Progress | None = None,
) -> dict:
  """Renders every video of a size, in a pool of processes.

  Args:
    config: the size; see `sizes.CONFIGS`.
    out: folder for <split>/<id>.mp4 and annotations.json.
    num_workers: number of processes; by default one per usable core.
    limit: maximum number of videos per split.
    on_progress: called with (videos done, total).

  Returns:
    The content of annotations.json: {"classes": [...], "class_splits": {...},
    "database": {id: annotations}}.

  Raises:
    ValueError: `out` has other content.
  """
  out = pathlib.Path(out)
  _claim_folder(out, config)
  jobs = []
  for split, count in config.num_videos.items():
    (out / split).mkdir(exist_ok=True)
    jobs += [
      (config, split, i, out / split / f"{split}_{i:06d}.mp4")
      for i in range(min(count, limit or count))
    ]
  database = {}
  for done, annotations in enumerate(_run(jobs, num_workers), 1):
    database[annotations["id"]] = annotations
    if on_progress:
      on_progress(done, len(jobs))
  names = scene.class_names(config)
  document = {
    "dataset": f"motion_sprites/{config.name}",
    "classes": list(names),
    "class_splits": {
      part: [name for name in members if name in names]
      for part, members in scene.CLASS_SPLITS.items()
    },
    "database": {key: database[key] for key in sorted(database)},
  }
  packing.write_json(out / ANNOTATIONS_NAME, document)
  return document


def _run(jobs, num_workers):
  workers = num_workers or len(os.sched_getaffinity(0))
  if workers == 1 or len(jobs) < 32:
    yield from map(_render_one, jobs)
    return
  # Not fork: the parent may have threads (TensorFlow, JAX).
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(
    workers, mp_context=context
  ) as pool:
    yield from pool.map(_render_one, jobs, chunksize=4)


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m tfds_builders.motion_sprites.render",
    description=__doc__.splitlines()[0],
  )
  parser.add_argument(
    "--size", default="demo", help="tiny, demo, full or a variant, see sizes.py"
  )
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--workers", type=int, default=None)
  parser.add_argument(
    "--limit", type=int, default=None, help="at most that many videos per split"
  )
  args = parser.parse_args(argv)
  with progress.Progress() as bar:
    task = bar.add_task(f"rendering {args.size}", total=None)
    try:
      render(
        sizes.get_config(args.size),
        args.out,
        num_workers=args.workers,
        limit=args.limit,
        on_progress=lambda done, total: bar.update(
          task, completed=done, total=total
        ),
      )
    except ValueError as error:
      print(f"render: {error}", file=sys.stderr)
      return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
