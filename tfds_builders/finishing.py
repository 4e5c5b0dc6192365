"""Finishes a dataset: checks shards and writes its documents."""

import concurrent.futures
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Mapping

import av
import tensorflow_datasets as tfds

from clap_jax.annotations import source_files
from clap_jax.storage import (
  locations,
  output,
  record_index,
  tfrecord,
  untrusted,
)
from tfds_builders import collection, packing, shards, transcoding

CHECKSUMS = "SHA256SUMS"
_SENT_AT_ONCE = 16
METADATA = "metadata.tfrecord"


def finish(
  builder: tfds.core.DatasetBuilder,
  jobs: dict[str, list[shards.ShardJob]],
  done: dict[str, dict],
  *,
  shards_folder: locations.Location,
  target: pathlib.Path,
  limits: transcoding.StoreLimits,
  subset: int | None,
) -> dict[str, locations.Location]:
  """Writes a dataset except its shards into the local folder `target`.

  Shards without a record are left out and the others renumbered. Fills the
  manifests of the builder's plan.

  Returns:
    The shards by their names in the dataset.

  Raises:
    NothingUsableError: no video, or no span of any, could be used.
  """
  plan, splits, indices, placed = builder.plan, [], [], {}
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
      sources = [shards_folder / job.stem for job in filled]
      indices += _describe_shards(sources, manifest, target / split)
      names = [entry["name"] for entry in manifest["shards"]]
      placed |= dict(zip(names, sources, strict=True))
      splits.append(_split_info(builder.name, split, notes, target))
    _describe_store(manifest, limits, subset)
  if not splits:
    raise collection.NothingUsableError(
      "no usable video: none of those found can be stored; reasons: "
      f"{collection.describe_losses(plan.manifests)}",
      plan.manifests,
    )
  _check_spans(plan, done)
  output.write_bytes(target / record_index.FILE, record_index.to_bytes(indices))
  builder.info.set_file_format("tfrecord")
  builder.info.set_splits(tfds.core.splits.SplitDict(splits))
  builder.info.write_to_directory(target)
  for split, manifest in plan.manifests.items():
    (target / split).mkdir(exist_ok=True)
    packing.write_json(target / split / "manifest.json", manifest)
  write_checksums(
    target,
    {
      entry["name"]: entry["sha256"]
      for manifest in plan.manifests.values()
      for entry in manifest["shards"]
    },
  )
  return placed


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


def _describe_shards(sources, manifest, folder):
  """Joins the metadata of a split, writes the `.idx` of all; their indices."""
  folder.mkdir()
  metadata, indices = folder / METADATA, []
  with output.writing(metadata) as file:
    for source, entry in zip(sources, manifest["shards"], strict=True):
      part = f"{source.name}{shards.INDEX}"
      [index] = record_index.read(source.parent, part).values()
      indices.append(dataclasses.replace(index, name=entry["name"]))
      offsets = index.records["offset"]
      packing.write_index(folder.parent / entry["name"], offsets)
      light = source.with_name(f"{source.name}{shards.METADATA}")
      file.write(untrusted.read_bytes(light))
  packing.write_index(metadata, tfrecord.ShardReader(metadata).offsets)
  return indices


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


def write_checksums(
  directory: pathlib.Path, shards: Mapping[str, str] | None = None
) -> None:
  """Writes SHA256SUMS over all files, as `sha256sum --check` reads it.

  The index is left out: it may be recreated and has its own checksums.

  Args:
    directory: folder of the files.
    shards: name -> SHA-256 of those that are elsewhere.
  """
  digests = dict(shards or {})
  for path in directory.rglob("*"):
    if path.is_file() and path.name not in (CHECKSUMS, record_index.FILE):
      name = path.relative_to(directory).as_posix()
      digests[name] = source_files.hash_file(path)
  names = sorted(digests, key=lambda name: name.split("/"))
  lines = [f"{digests[name]}  {name}\n" for name in names]
  output.write_text(directory / CHECKSUMS, "".join(lines))


def publish(
  built: pathlib.Path,
  placed: Mapping[str, locations.Location],
  final: locations.Location,
) -> None:
  """Joins documents and shards at their place; replaces an old dataset.

  A folder is renamed when it is complete. In a bucket the shards are copied
  within the store, and the object that makes it a dataset comes last.

  Args:
    built: the documents; a local `final` is on the same disk.
    placed: the shards by their names in the dataset.
    final: the dataset.
  """
  if isinstance(final, locations.ObjectPath):
    _publish_objects(built, placed, final)
    return
  for name, source in placed.items():
    output.link(source, built / name)
  final.parent.mkdir(parents=True, exist_ok=True)
  old = final.with_name(f".old-{final.name}")
  shutil.rmtree(old, ignore_errors=True)
  if final.exists():
    os.replace(final, old)
  os.replace(built, final)
  shutil.rmtree(old, ignore_errors=True)


def _publish_objects(built, placed, final):
  (final / packing.INFO_FILE).unlink(missing_ok=True)
  output.remove_tree(final)
  sources = placed | {
    path.relative_to(built).as_posix(): path
    for path in built.rglob("*")
    if path.is_file()
  }
  last = sources.pop(packing.INFO_FILE)
  with concurrent.futures.ThreadPoolExecutor(_SENT_AT_ONCE) as pool:
    targets = [final / name for name in sources]
    list(pool.map(output.link, sources.values(), targets))
  output.link(last, final / packing.INFO_FILE)
