"""Cards say what the files say, and nothing else."""

import json
import re

import pytest

from clap_jax.data import records
from clap_jax.inference import cards, model_directory
from clap_jax.report import card_files
from clap_jax.trainers import metadata as metadata_lib
from clap_jax.trainers import results
from tests.data import built_dataset

LOSS = {"contrastive_weight": 0.5, "preset": "captions"}


def write_run(directory, task, *, value=0.25):
  directory.mkdir(parents=True)
  results.write(
    directory,
    results.rows_of(
      {"average_map": value},
      encoder="clap",
      seed=3,
      dataset="motion_sprites/demo",
      split="validation",
      task=task,
      card={
        "num_evaluated": 80,
        "protocol": "p|q",
        "split_hash": "abc123",
        "notes": ["a <note>"],
      },
    ),
  )


@pytest.fixture
def model(tmp_path):
  write_run(tmp_path / "pretrain", "retrieval")
  write_run(tmp_path / "localization", "localization", value=float("nan"))
  metadata_lib.write(
    tmp_path / "pretrain" / "encoder.json",
    {
      "encoder": "clap",
      "seed": 3,
      "clip": {"clip_sec": 2.0, "num_frames": 16, "image_size": 64},
      "model": {
        "video_tower": "transformer",
        "video_size": "tiny",
        "text_tower": "bert",
        "text_size": "minilm",
        "projection_width": 128,
        "vocab_size": 228,
      },
      "training": {
        "dataset": "motion_sprites/demo",
        "split": "train",
        "loss": LOSS,
        "seen_classes": ["spins", "hops"],
      },
    },
  )
  (tmp_path / "localization" / "localizer.json").write_text(
    json.dumps(
      dict.fromkeys(metadata_lib.FORMATS["localizer.json"].keys)
      | {"label_names": ["spins", "hops", "darts"]}
    )
  )
  model_directory.write_model(
    tmp_path,
    encoder="pretrain",
    stride_sec=0.5,
    localization_dir="localization",
    grounding_dir=None,
  )
  return tmp_path


def test_a_model_card(model):
  text = cards.write_model_card(model).read_text()
  assert text.startswith("# Model card: clap, seed 3\n")
  for fact in (
    "transformer, tiny",
    "bert, minilm",
    "16 frames of 64 px over 2 s, one every 0.5 s",
    "spins, hops, darts",
    "Classes seen in pre-training: spins, hops.",
    "| contrastive_weight | 0.5 |",
    "| average mAP | 0.250 |",
    "| average mAP | undefined |",
    "protocol p\\|q, split hash abc123",
    "a &lt;note>",
    "say nothing about real footage",
  ):
    assert fact in text, fact
  assert "--query" not in text  # it has no grounder
  assert not re.search(r"\{[{%]", text)
  check_tables(text)


def check_tables(text):
  """Every row of a table has as many cells as its head."""
  width = None
  for line in text.splitlines():
    if not line.startswith("|"):
      width = None
      continue
    count = len(re.findall(r"(?<!\\)\|", line))
    assert width in (None, count), line
    width = count


def test_a_model_without_a_card(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"model\.json"):
    cards.write_model_card(tmp_path)


def test_a_data_card(tmp_path):
  built_dataset.write_dataset(tmp_path)
  dataset = records.open_dataset(tmp_path, "toy/small")
  text = cards.write_data_card(dataset).read_text()
  infos = dataset.split("train").metadata(on_corrupt="skip").examples
  segments = sum(len(info.labels) for info in infos)
  hours = sum(info.duration_sec for info in infos) / 3600
  assert f"| train | {len(infos)} | {hours:.2f} | {segments} |" in text
  for label in dataset.label_names:
    assert label in text
  check_tables(text)


def test_texts_cannot_break_out():
  assert card_files.cell("a|b\n<script>") == "a\\|b &lt;script>"
