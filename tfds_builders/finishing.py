"""Finishes a dataset: checks shards and writes its documents."""

import os
import pathlib
import shutil

import av
import tensorflow_datasets as tfds

from clap_jax.annotations import source_files
from clap_jax.storage import output, record_index, tfrecord, untrusted
from tfds_builders import collection, indexing, packing, shards, transcoding

CHECKSUMS = "SHA256SUMS"
METADATA = "metadata.tfrecord"


def finish(
  builder: tfds.core.DatasetBuilder,
  jobs: dict[str, list[shards.ShardJob]],
  done: dict[str, dict],
  *,
  shards_folder: pathlib.Path,
  target: pathlib.Path,
  limits: transcoding.StoreLimits,
  subset: int | None,
) -> None:
  """Writes `target`: shards, indices, metadata, manifests, checksums.

  Shards without a record are left out and the others numbered anew. The files
  are linked, so that a build killed here starts here again. Fills the
  manifests of the builder's plan.

  Raises:
    NothingUsableError: if no video, or no span of any, could be used.
  """
  plan = builder.plan
  shutil.rmtree(target, ignore_errors=True)
  target.mkdir()
  splits = []
  for split, group in jobs.items():
    manifest = plan.manifests.setdefault(split, packing.new_manifest(split))
    for job in group:
      for note in done[job.name]["notes"]:
        packing.add_to_manifest(manifest, note)
    filled = [job for job in group if done[job.name]["records"]]
    if filled:
      notes = [done[job.name] for job in filled]
      manifest["shards"] = [
        {
          "name": _shard_name(builder.name, split, number, len(filled)),
          **{key: note[key] for key in ("records", "bytes", "sha256")},
        }
        for number, note in enumerate(notes)
      ]
      sources = [shards_folder / job.name for job in filled]
      _place(sources, manifest, target / split)
      splits.append(_split_info(builder.name, split, notes, target))
    _describe_store(manifest, limits, subset)
  if not splits:
    raise collection.NothingUsableError(
      "no usable video: none of those found can be stored; reasons: "
      f"{collection.describe_losses(plan.manifests)}",
      plan.manifests,
    )
  _check_spans(plan, done)
  packing.write_index(target)
  indexing.index_dataset(
    target,
    [
      tfrecord.ShardReader(shard["name"], folder=target)
      for manifest in plan.manifests.values()
      for shard in manifest["shards"]
    ],
  )
  builder.info.set_file_format("tfrecord")
  builder.info.set_splits(tfds.core.splits.SplitDict(splits))
  builder.info.write_to_directory(target)
  for split, manifest in plan.manifests.items():
    (target / split).mkdir(exist_ok=True)
    packing.write_json(target / split / "manifest.json", manifest)
  write_checksums(target)


def _check_spans(plan, done):
  """Refuses a dataset whose annotated videos have lost every span."""
  length_of = {
    note["id"]: note["duration_sec"][1]
    for shard in done.values()
    for note in shard["notes"]
    if "duration_sec" in note
  }
  collection.check_unit(
    (
      (item.id, length_of.get(item.id), (*item.segments, *item.captions))
      for group in plan.items.values()
      for item in group
    ),
    plan.manifests,
  )
  manifests = plan.manifests.values()
  kept = sum(m["segments"] + m["captions"] for m in manifests)
  if not kept and any(m["rejected"] for m in manifests):
    raise collection.NothingUsableError(
      "no usable annotation: every span of the videos found is rejected; "
      f"reasons: {collection.describe_losses(plan.manifests)}",
      plan.manifests,
    )


def _shard_name(name, split, number, count):
  return f"{name}-{split}.tfrecord-{number:05d}-of-{count:05d}"


def _place(sources, manifest, folder):
  """Links the shards of a split and joins their metadata."""
  folder.mkdir()
  metadata = folder / METADATA
  with output.writing(metadata) as file:
    for source, entry in zip(sources, manifest["shards"], strict=True):
      _link(source, folder.parent / entry["name"])
      light = source.with_name(f"{source.name}.metadata")
      file.write(untrusted.read_bytes(light))
  packing.index_records(metadata)


def _link(source, target):
  try:
    os.link(source, target)
  except OSError:  # a file system without hard links
    output.copy(source, target)


def _split_info(name, split, notes, target):
  return tfds.core.SplitInfo(
    name=split,
    shard_lengths=[note["records"] for note in notes],
    num_bytes=sum(note["bytes"] for note in notes),
    filename_template=tfds.core.ShardedFileTemplate(
      data_dir=target,
      dataset_name=name,
      split=split,
      filetype_suffix="tfrecord",
    ),
  )


def _describe_store(manifest, limits, subset):
  manifest["subset"] = subset
  manifest["store"] = {
    "form": limits.store,
    "short_side_px": limits.short_side_px,
    "max_fps": limits.max_fps,
    "crf": limits.crf,
    "encoder": f"PyAV {av.__version__}",
  }


def write_checksums(directory: pathlib.Path) -> None:
  """Writes SHA256SUMS over all files, as `sha256sum --check` reads it.

  Not over the index, which may be made anew and has checksums of its own.
  """
  lines = []
  for path in sorted(directory.rglob("*")):
    if path.is_file() and path.name not in (CHECKSUMS, record_index.FILE):
      name = path.relative_to(directory).as_posix()
      lines.append(f"{source_files.hash_file(path)}  {name}")
  target = directory / CHECKSUMS
  output.write_text(target, "\n".join(lines) + "\n")


def publish(built: pathlib.Path, final: pathlib.Path) -> None:
  """Renames a complete dataset into place; an old one steps aside first."""
  final.parent.mkdir(parents=True, exist_ok=True)
  old = final.with_name(f".old-{final.name}")
  shutil.rmtree(old, ignore_errors=True)
  if final.exists():
    os.replace(final, old)
  os.replace(built, final)
  shutil.rmtree(old, ignore_errors=True)
