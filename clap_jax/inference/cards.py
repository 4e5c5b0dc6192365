"""Writes MODEL_CARD.md of a model and DATA_CARD.md of a dataset.

Nothing in them is written by hand: what a run, a manifest or a result does not
say is left out.
"""

import pathlib

from clap_jax.data import records, statistics, verification
from clap_jax.report import card_files, files, metric_names
from clap_jax.storage import locations, untrusted
from clap_jax.trainers import metadata as metadata_lib
from clap_jax.trainers import results
from clap_jax.training import workdir as workdir_lib

MODEL_CARD = "MODEL_CARD.md"
_HEADS = ("localization", "fewshot", "grounding")
_PROCEDURAL = "motion_sprites"


def write_model_card(directory: str | pathlib.Path) -> pathlib.Path:
  """Writes DIR/MODEL_CARD.md beside DIR/model.json.

  Raises:
    FileNotFoundError: there is no such file, or its encoder is not finished.
  """
  directory = locations.at(directory)
  parts = metadata_lib.read(directory, "model.json")
  encoder_dir = directory / parts["encoder"]
  encoder = metadata_lib.read(encoder_dir, "encoder.json")
  heads = {task: directory / parts[task] for task in _HEADS if parts.get(task)}
  localizer = heads.get("localization")
  labels = ()
  if localizer is not None:
    facts = metadata_lib.read(localizer, "localizer.json")
    labels = facts.get("class_names") or facts["label_names"]
  training = encoder["training"]
  text = card_files.model_card(
    {
      "name": f"{encoder['encoder']}, seed {encoder['seed']}",
      "summary": _summary(encoder, heads),
      "facts": _architecture(encoder, parts),
      "directory": directory.name,
      "label_names": labels,
      "takes_queries": "grounding" in heads,
      "training": training,
      "seen": _seen(training),
      "losses": sorted(training["loss"].items()),
      "schedule": _schedule(_json(encoder_dir / workdir_lib.CONFIG_FILE)),
      "tables": [
        _table(task, path)
        for task, path in {"retrieval": encoder_dir, **heads}.items()
        if results.read(path)
      ],
      "limits": _limits(training["dataset"]),
      "environment": _environment(
        _json(encoder_dir / workdir_lib.ENVIRONMENT_FILE)
      ),
    }
  )
  return _write(directory / MODEL_CARD, text)


def write_data_card(dataset: records.Dataset) -> pathlib.Path:
  """Writes DATA_CARD.md into the folder of a built dataset."""
  splits = {
    split: statistics.split_statistics(dataset, split)
    for split in dataset.splits
  }
  info = _json(dataset.directory / "dataset_info.json")
  sums = dataset.directory / "SHA256SUMS"
  base = dataset.name.partition("/")[0]
  text = card_files.data_card(
    {
      "name": dataset.name,
      "build_name": dataset.name,
      "description": info.get("description", ""),
      "splits": splits,
      "sizes": _joined(n["size_px"] for n in splits.values()),
      "rates": _joined(n["fps"] for n in splits.values()),
      "label_names": dataset.label_names,
      "absent": {
        split: n["classes_without_segment"]
        for split, n in splits.items()
        if n["classes_without_segment"]
      },
      "digest": untrusted.hash_file(sums) if sums.is_file() else "unknown",
      "purpose": _purpose(base),
    }
  )
  return _write(dataset.directory / verification.DATA_CARD, text)


def _json(path: pathlib.Path) -> dict:
  return untrusted.read_json(path) if path.is_file() else {}


def _write(path: pathlib.Path, text: str) -> pathlib.Path:
  """Writes a file atomically; a file of the same content stays."""
  if path.is_file() and untrusted.read_text(path) == text:
    return path
  files.write_text(path, text)
  return path


def _summary(encoder: dict, heads: dict) -> str:
  tasks = " and ".join(metric_names.TASK_TITLES[task].lower() for task in heads)
  return (
    f"A video and a text tower pre-trained as {encoder['encoder']!r} on "
    f"{encoder['training']['dataset']}"
    + (f", with heads for {tasks} on their frozen features." if tasks else ".")
  )


def _architecture(encoder: dict, parts: dict) -> list[tuple[str, str]]:
  model, clip = encoder["model"], encoder["clip"]
  return [
    ("video tower", f"{model['video_tower']}, {model['video_size']}"),
    ("text tower", f"{model['text_tower']}, {model['text_size']}"),
    ("width of the shared space", str(model["projection_width"])),
    ("vocabulary", f"{model['vocab_size']} pieces"),
    (
      "clip",
      f"{clip['num_frames']} frames of {clip['image_size']} px over "
      f"{clip['clip_sec']:g} s, one every {parts['stride_sec']:g} s",
    ),
  ]


def _seen(training: dict) -> str:
  seen = training["seen_classes"]
  if seen is None:
    return "Which classes its starting weights have seen is unknown."
  if not seen:
    return "It has seen no class: the towers are untrained."
  return f"Classes seen in pre-training: {', '.join(seen)}."


def _schedule(config: dict) -> str:
  if not config:
    return ""
  loop, optimizer = config["loop"], config["optimizer"]
  length = f"{loop['steps']} steps" if "steps" in loop else (
    f"{loop['epochs']} epochs"
  )  # fmt: skip
  started = config["start"]["workdir"] or config["start"].get("imported")
  return (
    f"{length} of {config['data']['batch_size']} clips, "
    f"{optimizer['name']} at a peak rate of {optimizer['learning_rate']:g}, "
    f"weight decay {optimizer['weight_decay']:g}, "
    + ("from another run's weights." if started else "from random weights.")
  )


def _table(task: str, directory: pathlib.Path) -> dict:
  rows = results.read(directory)
  card = rows[0]["card"]
  return {
    "title": metric_names.TASK_TITLES[task],
    "where": f"{rows[0]['dataset']}, split {rows[0]['split']}, "
    f"{card['num_evaluated']} videos, protocol {card['protocol']}, split hash "
    f"{card['split_hash']}",
    "rows": [
      (
        metric_names.describe(row["metric"]).text,
        "undefined"
        if row["value"] is None
        else metric_names.format_value(row["value"]),
      )
      for row in rows
    ],
    "notes": card["notes"],
  }


def _limits(dataset: str) -> list[str]:
  if dataset.startswith(_PROCEDURAL):
    return [
      "motion_sprites is procedural: the numbers compare encoders and say "
      "nothing about real footage."
    ]
  return []


def _environment(facts: dict) -> list[tuple[str, str]]:
  packages = facts.get("packages", {})
  rows = [("Python", facts.get("python", "")), *sorted(packages.items())]
  rows.append(("on", facts.get("device_kind", "")))
  return [(key, value) for key, value in rows if value]


def _joined(counts) -> str:
  return ", ".join(dict.fromkeys(key for count in counts for key in count))


def _purpose(base: str) -> str:
  if base == _PROCEDURAL:
    return (
      "Rendered from random numbers: it shows no person and downloads nothing. "
      "For comparing encoders and testing code; what works here need not work "
      "on real footage."
    )
  return (
    "The videos belong to whoever recorded them; the annotations' licence is "
    f"named in tfds_builders/{base}/README.md, where there is one."
  )
