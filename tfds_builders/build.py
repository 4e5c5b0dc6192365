"""Builds a dataset by name: TFRecord shards, their index and manifests.

Everything is written into `.building-...` under the data folder and renamed
when it is complete, so that a finished dataset is a whole one. Nothing is ever
downloaded.
"""

import contextlib
import fcntl
import logging
import os
import pathlib
import shutil
from collections.abc import Callable

from tfds_builders import packing
from tfds_builders.motion_sprites import sizes

Progress = Callable[[str, int, int], None]  # stage, videos done, in all

NAMES = (
  *(f"motion_sprites/{size}" for size in sizes.CONFIGS),
  "folder",
  "folder/<your name for it>",
)
VERSION = "1.0.0"
# TFDS makes one shard of anything below 64 MiB and fails if a split has fewer
# videos than shards are asked for.
_SMALL_SHARDS = 4
_SMALL_VIDEOS = 2_000


def _quiet_tensorflow():
  """Before the first import of TensorFlow: no log lines, no accelerator."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  os.environ.setdefault("NO_GCE_CHECK", "true")


@contextlib.contextmanager
def _quiet_absl():
  """Keeps TFDS's warnings about its own conventions to itself."""
  import tensorflow_datasets as _  # noqa: F401, PLC0415  makes absl's logger

  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)


def _parse_name(name):
  base, _, config = name.partition("/")
  if base == "motion_sprites" and config in sizes.CONFIGS:
    return base, config
  if base == "folder" and (not config or packing.ID_PATTERN.fullmatch(config)):
    return base, config or "default"
  raise ValueError(
    f"unknown dataset {name!r}; choose one of {', '.join(NAMES)}"
  )


@contextlib.contextmanager
def _only_one_build(work: pathlib.Path):
  """Holds a lock that a killed build cannot leave behind."""
  work.mkdir(parents=True, exist_ok=True)
  lock = work.with_name(work.name + ".lock")
  with lock.open("w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise FileExistsError(
        f"another build is writing {work}; wait for it to end"
      ) from error
    yield


def _prepare(builder, *, num_shards):
  """Lets TFDS write the shards, quietly."""
  import tensorflow_datasets as tfds  # noqa: PLC0415  after _quiet_tensorflow

  tfds.disable_progress_bar()
  builder.download_and_prepare(
    file_format="tfrecord",
    download_config=tfds.download.DownloadConfig(
      num_shards=num_shards, try_download_gcs=False
    ),
  )


def _make_canonical(directory):
  """Rewrites the shards so that the same records give the same bytes.

  Protocol buffers write the entries of a map in an order that changes from
  process to process unless they are told not to; TFDS does not tell them.
  """
  import tensorflow as tf  # noqa: PLC0415  after _quiet_tensorflow

  for shard in sorted(directory.glob("*.tfrecord-*-of-*")):
    partial = shard.with_name(f".{shard.name}.tmp")
    with tf.io.TFRecordWriter(str(partial)) as writer:
      for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
        example = tf.train.Example.FromString(record)
        writer.write(example.SerializeToString(deterministic=True))
    os.replace(partial, shard)


def _choose_shards(counts):
  """Shards per split of that many videos each; None leaves it to TFDS."""
  if sum(counts) > _SMALL_VIDEOS:
    return None
  return min(_SMALL_SHARDS, *counts)


def _sprites_builder(config, work, data_dir, options):
  """The TFDS builder, and how many shards a split is to have."""
  from tfds_builders.motion_sprites import (  # noqa: PLC0415  imports tfds
    motion_sprites_dataset_builder as module,
  )

  source = options["manual_dir"] or (
    data_dir / "rendered" / "motion_sprites" / config
  )
  counts = sizes.CONFIGS[config].num_videos.values()
  counts = [min(n, options["subset"] or n) for n in counts]
  return module.Builder(
    config=config,
    data_dir=str(work),
    rendered_dir=str(source),
    subset=options["subset"],
    on_progress=options["on_progress"],
  ), _choose_shards(counts)


def _folder_builder(config, work, data_dir, options):
  """The same for a folder of videos, which are transcoded first."""
  del data_dir
  import tensorflow_datasets as tfds  # noqa: PLC0415  after _quiet_tensorflow

  from tfds_builders import transcoding  # noqa: PLC0415
  from tfds_builders.folder import (  # noqa: PLC0415
    collection,
    folder_dataset_builder,
  )

  collected = collection.collect(
    pathlib.Path(options["videos"]),
    pathlib.Path(options["annotations"]),
    cache=work / "transcoded",
    limits=transcoding.StoreLimits(),
    subset=options["subset"],
    on_progress=options["on_progress"] or (lambda stage, done, total: None),
  )
  counts = [len(v) for v in collected.videos.values()]
  return folder_dataset_builder.Builder(
    config=tfds.core.BuilderConfig(name=config),
    data_dir=str(work),
    collected=collected,
    on_progress=options["on_progress"],
  ), _choose_shards(counts)


_MAKERS = {"motion_sprites": _sprites_builder, "folder": _folder_builder}


def _check_inputs(base, name, options):
  given = bool(options["videos"]), bool(options["annotations"])
  if base == "motion_sprites" and any(given):
    raise ValueError(
      f"{name} makes its own videos: leave out `videos` and "
      "`annotations`, or build `folder`"
    )
  if base == "folder" and not all(given):
    raise ValueError(
      f"{name} needs both `videos` (a folder) and "
      "`annotations` (a .json or .csv file)"
    )
  subset = options["subset"]
  if subset is not None and subset < 1:
    raise ValueError(
      f"subset must be at least 1, got {subset}; leave it out "
      "to build everything"
    )


def build(
  name: str,
  *,
  data_dir: str | os.PathLike,
  videos: str | os.PathLike | None = None,
  annotations: str | os.PathLike | None = None,
  manual_dir: str | os.PathLike | None = None,
  subset: int | None = None,
  overwrite: bool = False,
  on_progress: Progress | None = None,
) -> dict:
  """Builds a dataset under `data_dir`/<name>/<config>/<version>.

  Args:
    name: one of NAMES.
    data_dir: root of the datasets.
    videos: folder of videos; `folder` only, required there.
    annotations: their annotation file; `folder` only, required there.
    manual_dir: what somebody put on this machine by hand; for motion_sprites
      the rendered folder, by default `data_dir`/rendered/<name>; for folder
      another way to say `videos`.
    subset: at most that many videos per split.
    overwrite: replace a finished dataset of that name.
    on_progress: called with (stage, videos done, videos in all).

  Returns:
    {"directory": path, "manifests": {split: manifest}, "unlisted": [video
    files of the folder that the annotations do not name]}.

  Raises:
    ValueError: for unknown names and inputs that cannot be used.
    FileExistsError: if the dataset is there and `overwrite` is off, or if
      another process is building it.
    FileNotFoundError: if an input is not there.
  """
  base, config = _parse_name(name)
  options = {
    "videos": videos or manual_dir,
    "annotations": annotations,
    "manual_dir": manual_dir,
    "subset": subset,
    "on_progress": on_progress,
  }
  if base == "motion_sprites":
    options["videos"] = videos
  _check_inputs(base, name, options)
  data_dir = pathlib.Path(data_dir).absolute()
  final = data_dir / base / config / VERSION
  if final.exists() and not overwrite:
    raise FileExistsError(
      f"{final} is finished already; use it as it is, or pass overwrite=True "
      "(--overwrite) to replace it"
    )
  _quiet_tensorflow()
  work = data_dir / f".building-{base}-{config}"
  with _only_one_build(work), _quiet_absl():
    shutil.rmtree(work / base, ignore_errors=True)
    builder, num_shards = _MAKERS[base](config, work, data_dir, options)
    _prepare(builder, num_shards=num_shards)
    built = work / base / config / VERSION
    _make_canonical(built)
    packing.write_index(built)
    for split, manifest in builder.manifests.items():
      (built / split).mkdir(exist_ok=True)
      packing.write_json(built / split / "manifest.json", manifest)
    _publish(built, final)
    shutil.rmtree(work, ignore_errors=True)
  return {
    "directory": str(final),
    "manifests": builder.manifests,
    "unlisted": builder.unlisted,
  }


def _publish(built, final):
  """Renames a complete dataset into place; an old one steps aside first."""
  final.parent.mkdir(parents=True, exist_ok=True)
  old = final.with_name(f".old-{final.name}")
  shutil.rmtree(old, ignore_errors=True)
  if final.exists():
    os.replace(final, old)
  os.replace(built, final)
  shutil.rmtree(old, ignore_errors=True)
