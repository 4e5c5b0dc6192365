"""Builds a dataset by name: TFRecord shards, their index and manifests.

All files are written into `.building-...` under the data folder and moved to
their place when complete, so that finished datasets are whole. A killed build
resumes with its unfinished shards. Inputs and the data folder may be in
buckets; nothing is ever downloaded from a site.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable

from clap_jax.annotations import source_files
from clap_jax.media import guard
from clap_jax.media.errors import VideoError
from clap_jax.storage import leases, locations, output, untrusted
from tfds_builders import collection, names, packing, transcoding
from tfds_builders.motion_sprites import sizes
from tfds_builders.trimmed.settings import MIN_CLIP_SEC, TrimmedSettings

_NUM_PROBED = 8  # videos whose length is read before the work

Progress = Callable[[str, int, int], None]  # stage, videos done, total

VERSION = "1.0.0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Request:
  """The arguments of a build."""

  name: str  # as it was given
  base: str
  config: str
  data_dir: locations.Location
  videos: locations.Location | None
  annotations: locations.Location | None
  manual_dir: locations.Location | None
  subset: int | None
  selection_percent: int
  encoding: str | None
  trimmed: TrimmedSettings
  limits: transcoding.StoreLimits
  workers: int
  on_progress: Progress

  @property
  def directory(self) -> locations.Location:
    return self.data_dir / self.base / self.config / VERSION


def _parse_name(name):
  base, _, config = name.partition("/")
  if base == "motion_sprites" and config.partition("-")[0] in sizes.CONFIGS:
    return base, sizes.get_config(config).name
  if base in names.OWN and (not config or packing.ID_PATTERN.fullmatch(config)):
    return base, config or "default"
  if base in names.ANNOTATED and (
    not config or config in names.ANNOTATED[base]
  ):
    return base, config or names.ANNOTATED[base][0]
  raise ValueError(
    f"unknown dataset {name!r}; choose one of {', '.join(names.NAMES)}"
  )


@contextlib.contextmanager
def _only_one_build(work: locations.Location):
  """Holds a lock that a killed build cannot leave behind; yields its check."""
  output.check_writable(output.make_folder(work) / "manifest.json")
  if links := [path for path in work.rglob("*") if path.is_symlink()]:
    raise output.OutputError(
      f"{links[0]} is a symbolic link; expected a build's folder; remove {work}"
    )
  with contextlib.ExitStack() as stack:
    try:
      check = stack.enter_context(
        leases.locked(work.with_name(f"{work.name}.lock"))
      )
    except leases.LeaseHeldError as error:
      raise FileExistsError(
        f"another build ({error.holder}) is writing {work}; wait for it to end"
      ) from error
    yield check


def _check_on_disk(what: str, *folders: locations.Location | None) -> None:
  for folder in folders:
    if locations.is_object(folder):
      raise locations.AddressError(
        f"{folder}: {what}, which takes folders on a disk"
      )


def _plan_sprites(request):
  """Plans the rendered videos of motion_sprites, packed as they are."""
  from tfds_builders.motion_sprites import render  # noqa: PLC0415  scipy

  rendered = request.manual_dir or (
    request.data_dir / "rendered" / "motion_sprites" / request.config
  )
  _check_on_disk("motion_sprites is rendered into --manual_dir", rendered)
  document = render.render(
    sizes.get_config(request.config),
    rendered,
    limit=request.subset,
    on_progress=lambda done, total: request.on_progress("render", done, total),
  )
  return names.builder_module("motion_sprites").make_plan(document, rendered)


# Errors of reading a document with a list instead of an object.
_OTHER_FORM = (AttributeError, IndexError, KeyError, TypeError, RecursionError)


def _plan_videos(request):
  """Plans the user's videos and annotations."""
  module = names.builder_module(request.base)
  files = source_files.SourceFiles(
    request.annotations,
    known=published_files(request.base),
    encoding=request.encoding,
  )
  try:
    file = module.read(files, request.config)
  except _OTHER_FORM as error:
    used = ", ".join(source["file"] for source in files.used)
    raise ValueError(
      f"{used or request.annotations}: not in the form of {request.base} "
      f"({type(error).__name__}: {str(error)[:200]}); see "
      f"tfds_builders/{request.base}/README.md for the expected form"
    ) from error
  file.sources = files.used
  is_folder = request.base == "folder"
  return collection.make_plan(
    file,
    collection.VideoFiles(request.videos, any_case=is_folder),
    subset=request.subset,
    selection_percent=request.selection_percent,
    make_id=packing.id_from_name if is_folder else packing.id_from_key,
  )


def _plan_trimmed(request):
  """Plans clips of one action each, unchanged or joined into recordings."""
  files = None
  if request.trimmed.join:
    folders = request.videos, request.data_dir
    _check_on_disk("--join writes recordings", *folders)
  if request.annotations is not None:
    files = source_files.SourceFiles(
      request.annotations, encoding=request.encoding
    )
  return names.builder_module("trimmed").make_plan(
    request.videos,
    files,
    request.trimmed,
    joined_folder=request.data_dir / "joined" / "trimmed" / request.config,
    limits=request.limits,
    workers=request.workers,
    subset=request.subset,
    selection_percent=request.selection_percent,
    on_progress=lambda done, total: request.on_progress("join", done, total),
  )


_PLANNERS = {"motion_sprites": _plan_sprites, "trimmed": _plan_trimmed}


def _check_first_lengths(plan, limits) -> None:
  """Checks the unit of times on a few videos, before all are decoded.

  Raises:
    NothingUsableError: no video has times in seconds.
  """
  items = [item for group in plan.items.values() for item in group]
  stride = -(-len(items) // _NUM_PROBED)
  lengths = []
  for item in items[::stride]:
    # Errors are noted when it is packed.
    with contextlib.suppress(VideoError, OSError, untrusted.UntrustedFileError):
      with untrusted.open_file(item.path, max_bytes=limits.max_bytes) as file:
        length = guard.probe(file, limits=limits).duration_sec
      lengths.append((item.id, length, (*item.segments, *item.captions)))
  collection.check_unit(lengths, plan.manifests)


def published_files(base: str) -> dict[str, str]:
  """Returns names of a dataset's known annotation files by SHA-256."""
  path = pathlib.Path(__file__).with_name(base) / "checksums.tsv"
  if not path.exists():
    return {}
  rows = [line.split("\t") for line in path.read_text("utf-8").splitlines()]
  return {digest: name for name, _, digest in rows}


def _resolve_inputs(request):
  """Sets `videos` and `annotations` from `manual_dir`.

  Raises:
    ValueError: an input is missing, or the dataset does not take it.
  """
  given = request.videos, request.annotations
  if request.base == "motion_sprites":
    if any(given) or request.selection_percent:
      raise ValueError(
        f"{request.name} makes its own videos and splits: leave out `videos`, "
        "`annotations` and `selection_percent`, or build `folder`"
      )
    return request
  videos, annotations = given
  if request.manual_dir is not None:
    videos = videos or _inside(request.manual_dir, "videos")
    if request.base not in names.OWN:
      annotations = annotations or _inside(request.manual_dir, "annotations")
  if request.base == "trimmed" and videos:
    return dataclasses.replace(request, videos=videos)
  if request.base == "folder" and not (videos and annotations):
    raise ValueError(
      f"{request.name} needs both `videos` (a folder) and "
      "`annotations` (a .json, .jsonl, .csv or .tsv file)"
    )
  if not (videos and annotations):
    raise ValueError(
      f"{request.name} needs the videos and annotation files that you "
      "downloaded: give `manual_dir` (--manual_dir), or `videos` and "
      f"`annotations`; see tfds_builders/{request.base}/README.md"
    )
  return dataclasses.replace(request, videos=videos, annotations=annotations)


def _inside(manual_dir, name):
  """Returns manual_dir/<name> if it exists, else manual_dir."""
  folder = manual_dir / name
  return folder if folder.is_dir() else manual_dir


def _check_numbers(subset, workers, runner):
  if subset is not None and subset < 1:
    raise ValueError(
      f"subset must be at least 1, got {subset}; leave it out "
      "to build everything"
    )
  if workers is not None and workers < 1:
    raise ValueError(f"workers must be at least 1, got {workers}")
  if runner not in names.RUNNERS:
    raise ValueError(f"unknown runner {runner!r}; choose from {names.RUNNERS}")


def build(
  name: str,
  *,
  data_dir: locations.PathLike,
  videos: locations.PathLike | None = None,
  annotations: locations.PathLike | None = None,
  manual_dir: locations.PathLike | None = None,
  subset: int | None = None,
  selection_percent: int = 0,
  encoding: str | None = None,
  trimmed: TrimmedSettings | None = None,
  overwrite: bool = False,
  limits: transcoding.StoreLimits = transcoding.StoreLimits(),
  workers: int | None = None,
  runner: str = "threads",
  runner_options: tuple[str, ...] = (),
  on_start: Callable[[str], None] | None = None,
  on_progress: Progress | None = None,
) -> dict:
  """Builds a dataset under `data_dir`/<name>/<config>/<version>.

  Args:
    name: one of NAMES.
    videos: folder of videos; by default `manual_dir`/videos, or `manual_dir`.
    annotations: annotation file, or folder of such; by default
      `manual_dir`/annotations, or `manual_dir`.
    manual_dir: folder of manually downloaded files; for motion_sprites the
      rendered folder, by default `data_dir`/rendered/<name>.
    subset: maximum number of videos per split.
    selection_percent: percentage of the videos of `train` to move to a split
      `selection`, for datasets without one.
    encoding: encoding of an annotation table that is neither UTF-8 nor UTF-16.
    trimmed: splits, captions and recordings of the dataset `trimmed`.
    overwrite: whether to replace a finished dataset of that name.
    limits: form of the stored videos, and limits on the sources.
    workers: number of shards to write at a time; by default one per processor.
    runner: "threads" of this process, or "beam".
    runner_options: options of Beam's pipeline, e.g. --runner=FlinkRunner.
    on_start: called with the path of a video before it is processed, from
      several threads.
    on_progress: called with (stage, videos done, total).

  Returns:
    {"name", "directory": path, "manifests": {split: manifest}, "unlisted":
    [video files of the folder that the annotations do not name], "altered":
    [annotation files that differ from the published ones of their name],
    "losses": [a text for every span and video that is left out],
    "classes_not_in_train": {split: [classes]}}.

  Raises:
    ValueError: the name is unknown, or inputs cannot be used.
    FileExistsError: the dataset exists and `overwrite` is off, or another
      process is building it.
    FileNotFoundError: an input is missing.
  """
  base, config = _parse_name(name)
  _check_numbers(subset, workers, runner)
  if base == "trimmed":
    limits = dataclasses.replace(limits, min_duration_sec=MIN_CLIP_SEC)
  elif trimmed is not None:
    raise ValueError(
      f"{name} takes none of --join, --constant, --background, --captions, "
      "--split_by, --splits and --fold: they are for the dataset `trimmed`"
    )
  request = _resolve_inputs(
    _Request(
      name=name,
      base=base,
      config=config,
      data_dir=locations.at(data_dir).absolute(),
      videos=locations.at(videos) if videos else None,
      annotations=locations.at(annotations) if annotations else None,
      manual_dir=locations.at(manual_dir) if manual_dir else None,
      subset=subset,
      selection_percent=selection_percent,
      encoding=encoding,
      trimmed=trimmed or TrimmedSettings(),
      limits=limits,
      workers=workers or len(os.sched_getaffinity(0)),
      on_progress=on_progress or (lambda stage, done, total: None),
    )
  )
  final = request.directory
  output.check_links(final, request.data_dir)
  # In a bucket it is the last object that makes it a dataset.
  is_object = isinstance(final, locations.ObjectPath)
  whole = final / packing.INFO_FILE if is_object else final
  if whole.exists() and not overwrite:
    raise FileExistsError(
      f"{final} already exists; use it, or pass overwrite=True (--overwrite) "
      "to replace it"
    )
  work = (
    request.data_dir / f".building-{'-'.join(filter(None, _parse_name(name)))}"
  )
  with _only_one_build(work) as check:
    settings = {
      "limits": limits,
      "workers": request.workers,
      "runner": runner,
      "runner_options": runner_options,
      "on_start": on_start or (lambda path: None),
      "check": check,
    }
    try:
      plan = _PLANNERS.get(base, _plan_videos)(request)
      if base == "folder":
        _check_first_lengths(plan, limits.source)
      _build_shards(plan, request, work, **settings)
    except collection.NothingUsableError as error:
      path = work / "manifest.json"
      packing.write_json(path, error.manifests)
      given = request.annotations or request.videos
      raise ValueError(
        f"{given}: {error}; every reason is in {path}"
      ) from error
    with contextlib.suppress(OSError):
      output.remove_tree(work)
  return {
    "name": "/".join(filter(None, (base, config))),
    "directory": str(final),
    "manifests": plan.manifests,
    "unlisted": plan.unlisted,
    "altered": _altered(base, plan.manifests),
    "losses": collection.list_losses(plan.manifests),
    "classes_not_in_train": collection.classes_not_in_train(plan.manifests),
  }


def _altered(base, manifests) -> list[str]:
  """Returns annotation files with a published one's name but another hash."""
  published = published_files(base)
  altered = set()
  for manifest in manifests.values():
    for source in manifest["sources"].get("annotations", ()):
      name = pathlib.PurePosixPath(source["file"]).name
      if name in published.values() and published.get(source["sha256"]) != name:
        altered.add(source["file"])
  return sorted(altered)


def _build_shards(
  plan,
  request,
  work,
  *,
  limits,
  workers,
  runner,
  runner_options,
  on_start,
  check,
):
  """Writes the dataset to its place; fills the plan's manifests."""
  import tensorflow_datasets as tfds  # noqa: PLC0415  0.5 s

  from tfds_builders import finishing, shards  # noqa: PLC0415

  folder = work / "shards"
  folder.mkdir(exist_ok=True)
  jobs = shards.make_jobs(plan, limits=limits)
  in_order = [job for group in jobs.values() for job in group]
  if runner == "beam":
    from tfds_builders import beam_runner  # noqa: PLC0415  an extra

    done = beam_runner.build_all(in_order, folder, options=runner_options)
  else:
    done = shards.build_all(
      in_order,
      folder,
      workers=workers,
      on_start=on_start,
      on_progress=request.on_progress,
    )
  logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS on its conventions
  maker = names.builder_module(request.base).Builder
  config = request.config or None
  if config and config not in {c.name for c in maker.BUILDER_CONFIGS}:
    config = tfds.core.BuilderConfig(name=config)
  with output.scratch_folder(work) as scratch:
    builder = maker(config=config, data_dir=str(scratch / "tfds"), plan=plan)
    documents = output.make_folder(scratch / "dataset")
    placed = finishing.finish(
      builder,
      jobs,
      dict(zip((job.name for job in in_order), done, strict=True)),
      shards_folder=folder,
      target=documents,
      limits=limits,
      subset=request.subset,
    )
    check()
    finishing.publish(documents, placed, request.directory)
