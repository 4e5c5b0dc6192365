"""Imports public checkpoints of heads to a directory.

The directory resembles that of a finished run: metadata and config of the head,
with weights instead of checkpoints.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from clap_jax.annotations import own_files
from clap_jax.annotations.annotation_file import AnnotationFile
from clap_jax.interchange import (
  actionformer,
  actionformer_config,
  actionformer_run,
  moment_detr,
  moment_detr_options,
  rules,
  weight_files,
  wrappers,
)
from clap_jax.storage import metadata as metadata_lib
from clap_jax.storage import text_tables
from clap_jax.trainers import (
  grounding,
  imported_heads,
  localization,
  localizers,
  registry,
)
from clap_jax.training import paths, weights
from clap_jax.training import workdir as workdir_lib


@dataclasses.dataclass(frozen=True)
class ImportedHead:
  """Result of an import: what was written, and the fate of each source key."""

  directory: pathlib.Path
  num_parameters: int
  conversion: rules.Conversion
  file: str
  unwrapped: tuple[str, ...]  # see wrappers.Unwrapped
  label_names: tuple[str, ...]
  settings: Mapping[str, Any]  # model settings
  flags: tuple[str, ...]  # flags of `clap train` to start from it


def import_actionformer(
  path: str | os.PathLike,
  *,
  config_file: str | os.PathLike,
  out: str | os.PathLike,
  labels: str | os.PathLike | None = None,
  choice: str | None = None,
) -> ImportedHead:
  """Converts a checkpoint of public ActionFormer with its configuration.

  Args:
    config_file: the .yaml of its training.
    out: the directory to write.
    labels: class names in the order of the class head, one per line, or
      annotations (.json) with "label" and "label_id"; None numbers the classes.
    choice: one of wrappers.WEIGHTS; None for the moving average if there is
      one, as in the public evaluation.

  Raises:
    ValueError: if the configuration is of another model or does not fit the
      checkpoint; all problems are listed.
    FileExistsError: if `out` already contains weights or a run.
  """
  out = pathlib.Path(out)
  _check_free(out)
  values = actionformer_config.read(config_file)
  try:
    config = registry.resolve(actionformer_run.run_config(values))
  except ValueError as error:
    raise ValueError(f"{config_file}: {error}") from None
  num_classes = actionformer_config.num_classes(values)
  names, are_stated = _label_names(labels, num_classes)
  metadata = localizers.model_metadata(
    config, names, actionformer_config.input_width(values)
  )
  metadata |= {"use_ema": False, imported_heads.NAMES_STATED: are_stated}
  file = weight_files.find(path)
  conversion, unwrapped = _converted(
    file, localizers.make_task(metadata), actionformer.RULES, choice
  )
  # Checkpoints do not contain the final running average of the normalizer.
  start = np.asarray(config.loss.normalizer_start, np.float32)
  return _written(
    out,
    "actionformer",
    config=config,
    metadata=metadata,
    model_file=localization.MODEL_FILE,
    file=file,
    conversion=conversion,
    unwrapped=unwrapped,
    others={"loss_stats/num_positives": start},
  )


def import_moment_detr(
  path: str | os.PathLike,
  *,
  out: str | os.PathLike,
  options_file: str | os.PathLike | None = None,
  choice: str | None = None,
) -> ImportedHead:
  """Converts a checkpoint of public Moment-DETR with its options.

  Args:
    out: the directory to write.
    options_file: the opt.json of its training; None for the file beside the
      checkpoint.
    choice: one of wrappers.WEIGHTS; None for the model's weights.

  Raises:
    ValueError: if the options are of another model or do not fit the
      checkpoint; all problems are listed.
    FileExistsError: if `out` already contains weights or a run.
  """
  out = pathlib.Path(out)
  _check_free(out)
  file = weight_files.find(path)
  options_file = options_file or moment_detr_options.beside(file)
  options = moment_detr_options.read(options_file)
  try:
    width = moment_detr_options.video_width(weight_files.read(file))
    config = registry.resolve(moment_detr_options.run_config(options, width))
    metadata = grounding.model_metadata(
      config, **moment_detr_options.input_sizes(options, width)
    )
  except ValueError as error:
    raise ValueError(f"{options_file}: {error}") from None
  metadata |= {"use_ema": False, "absence": None}
  conversion, unwrapped = _converted(
    file,
    grounding.make_task(metadata),
    moment_detr.rules_of(config.detr),
    choice or wrappers.MODEL,
  )
  return _written(
    out,
    "moment_detr",
    config=config,
    metadata=metadata,
    model_file=grounding.MODEL_FILE,
    file=file,
    conversion=conversion,
    unwrapped=unwrapped,
  )


def _check_free(out: pathlib.Path) -> None:
  """Raises a FileExistsError if the directory contains a head or a run."""
  for name in (weights.MANIFEST_FILE, workdir_lib.CONFIG_FILE):
    if (out / name).exists():
      raise FileExistsError(f"{out} already has {name}; use another --out.")


def _written(
  out: pathlib.Path,
  source: str,
  *,
  config: Any,
  metadata: dict[str, Any],
  model_file: str,
  file: pathlib.Path,
  conversion: rules.Conversion,
  unwrapped: tuple[str, ...],
  others: Mapping[str, np.ndarray] | None = None,
) -> ImportedHead:
  """Writes the directory of a head; `others` are arrays besides parameters."""
  settings = metadata["model" if source == "actionformer" else "detr"]
  files = config.data.files
  metadata |= metadata_lib.encoder_metadata(
    {"encoder": files.encoder, "files": dataclasses.asdict(files)}
  )
  out.mkdir(parents=True, exist_ok=True)
  metadata_lib.write(out / model_file, metadata)
  workdir_lib.write_config(out, config)
  weights.write(
    out,
    conversion.weights | dict(others or {}),
    {
      "kind": "import",
      "source": source,
      "file": file.name,
      "file_sha256": weights.sha256(file),
      "unwrapped": list(unwrapped),
      "left_out": conversion.left_out,
      "settings": settings,
    },
  )
  return ImportedHead(
    directory=out,
    num_parameters=sum(leaf.size for leaf in conversion.weights.values()),
    conversion=conversion,
    file=file.name,
    unwrapped=unwrapped,
    label_names=tuple(metadata.get("label_names", ())),
    settings=settings,
    flags=(f"--config.start.imported={out}", *imported_heads.flags(metadata)),
  )


def _converted(file, task, head_rules, choice):
  """Returns (conversion, lines on unwrapping) of the weights of a head."""
  tensors = weight_files.read(file)
  if choice is None:
    has_average = any(key.startswith("state_dict_ema.") for key in tensors)
    choice = wrappers.EMA if has_average else wrappers.MODEL
  expected = {
    name: leaf
    for name, leaf in paths.flatten(
      jax.eval_shape(task.init, jax.random.key(0))
    ).items()
    if name.startswith("params/")
  }
  try:
    unwrapped = wrappers.unwrap(
      tensors,
      is_known=lambda key: any(
        re.fullmatch(rule.pattern, key) for rule in head_rules
      ),
      weights=choice,
    )
    conversion = rules.convert(
      unwrapped.tensors,
      rules=head_rules,
      expected=expected,
      context=rules.Context(unwrapped.tensors),
    )
  except ValueError as error:
    raise ValueError(f"{file}: {error}") from error
  left_out = conversion.left_out | unwrapped.left_out
  conversion = dataclasses.replace(conversion, left_out=left_out)
  return conversion, unwrapped.removed


def _label_names(
  labels: str | os.PathLike | None, num_classes: int
) -> tuple[tuple[str, ...], bool]:
  """Returns the names of all classes, and True if they were given."""
  if labels is None:
    if num_classes == 1:
      return ("action",), True
    return imported_heads.numbered_names({}, num_classes), False
  is_json = pathlib.Path(labels).suffix.lower() == ".json"
  if is_json:
    names = _names_of_annotations(labels, num_classes)
  else:
    names = _names_of_lines(labels)
  if len(names) != num_classes or len(set(names)) != num_classes:
    raise ValueError(
      f"--labels: {labels} names {len(set(names))} classes, but the class head "
      f"has {num_classes}; list each once, in the order of the head."
    )
  return names, True


def _names_of_lines(path) -> tuple[str, ...]:
  return tuple(line for _, line in text_tables.read_lines(path))


def _names_of_annotations(path, num_classes: int) -> tuple[str, ...]:
  """Returns class names in the order of "label_id".

  A class without a name is "class i": EPIC-KITCHENS has nouns that no segment
  of the two splits has.
  """
  try:
    file = own_files.read_json(pathlib.Path(path), AnnotationFile())
    names = file.numbered_labels()
  except ValueError as error:
    raise ValueError(f"--labels: {path}: {error}") from None
  if not names or max(names) >= num_classes:
    raise ValueError(
      f"--labels: {path} has the label_ids {sorted(names)[-5:]}; expected "
      f"numbers from 0 to {num_classes - 1}, the classes of the head."
    )
  return imported_heads.numbered_names(names, num_classes)
