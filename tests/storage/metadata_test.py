"""Files of other revisions are refused by name, with what to do."""

import json

import pytest

from clap_jax import main
from clap_jax.storage import metadata
from clap_jax.trainers import encoders, grounding, localizers

ENCODER = {
  "encoder": "clap",
  "seed": 0,
  "clip": {"clip_sec": 2.0, "num_frames": 4, "image_size": 16},
  "model": {
    "video_size": "micro",
    "text_size": "micro",
    "num_frames": 4,
    "image_size": 16,
    "patch": [2, 8, 8],
    "vocab_size": 20,
    "max_text_length": 6,
    "projection_width": 8,
    "num_classes": 0,
  },
  "training": {},
}


def write_plain(path, values):
  """As an earlier revision did, or something else."""
  path.write_text(json.dumps(values))
  return path


def test_what_is_written_is_read(tmp_path):
  metadata.write(tmp_path / "encoder.json", ENCODER)
  written = json.loads((tmp_path / "encoder.json").read_text())
  assert written == {"format": 1} | ENCODER
  read, (clip, towers) = metadata.load(
    tmp_path, "encoder.json", encoders.described
  )
  assert read == ENCODER
  assert (clip.num_frames, towers.patch) == (4, (2, 8, 8))


def test_a_file_without_a_format_is_of_the_first(tmp_path):
  write_plain(tmp_path / "encoder.json", ENCODER)
  assert metadata.read(tmp_path, "encoder.json") == ENCODER


def test_an_unfinished_run(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no finished run.*model\.json"):
    metadata.read(tmp_path, "model.json")


@pytest.mark.parametrize("name", metadata.FORMATS)
@pytest.mark.parametrize(
  ("text", "message"),
  [
    ('{"format": 99}', "has format 99, expected 1"),
    ('{"format": "1"}', "has format '1', expected 1"),
    ('{"seed": 0}', r"has seed, but lacks \w+.*earlier revision"),
    ("[1]", "holds a list, expected an object"),
    ("{", "is not JSON"),
  ],
)
def test_other_files(tmp_path, name, text, message):
  (tmp_path / name).write_text(text)
  with pytest.raises(metadata.FormatError, match=message) as error:
    metadata.read(tmp_path, name)
  assert str(tmp_path / name) in str(error.value)
  assert metadata.FORMATS[name].remake in str(error.value)


@pytest.mark.parametrize(
  ("name", "make"),
  [
    ("grounder.json", grounding.make_task),
    ("localizer.json", localizers.make_task),
  ],
)
def test_a_head_of_another_kind(tmp_path, name, make):
  """Every key is there, with values that mean nothing to this revision."""
  values = {key: {"width": 1} for key in metadata.FORMATS[name].keys}
  write_plain(tmp_path / name, values | {"standardization": None})
  with pytest.raises(metadata.FormatError, match=r"cannot build \(") as error:
    metadata.load(tmp_path, name, make)
  assert str(tmp_path / name) in str(error.value)


def test_the_config_of_a_run_describes_the_model_of_its_head(tmp_path):
  path = tmp_path / "localizer.json"
  own = {"label_names": ["a"], "feature_width": 4, "standardization": None}
  whole = own | {"use_ema": False, "decode": {"sigma": 0.1}}
  config = {
    "localizer": "points",
    "decode": {"sigma": 0.5},
    "loop": {"steps": 9},
    "data": {"max_length": 8, "batch_size": 2},
  }
  metadata.write(path, whole)  # of an earlier revision, or of no run
  write_plain(tmp_path / "config.json", config)
  read = {"localizer": "points", "max_length": 8, "length": "pad"}
  assert metadata.read(tmp_path, path.name) == whole | read
  metadata.write(path, whole)
  assert "decode" not in json.loads(path.read_text())
  read["decode"] = {"sigma": 0.5}
  assert metadata.read(tmp_path, path.name) == whole | read


def test_a_section_with_a_key_of_another_revision(tmp_path):
  model = ENCODER["model"] | {"dropout": 0.1}
  write_plain(tmp_path / "encoder.json", ENCODER | {"model": model})
  with pytest.raises(metadata.FormatError, match="dropout"):
    metadata.load(tmp_path, "encoder.json", encoders.described)


def test_the_command_names_the_file(tmp_path, capsys):
  write_plain(
    tmp_path / "model.json", {"encoder": "pretrain", "stride_sec": 0.5}
  )
  (tmp_path / "pretrain").mkdir()
  old = {key: ENCODER[key] for key in ("encoder", "clip", "model")}
  path = write_plain(tmp_path / "pretrain" / "encoder.json", old)
  arguments = ["predict", "v.mp4", f"--model={tmp_path}", "--json=x.json"]
  assert main.main(arguments) == 2
  said = capsys.readouterr().err
  assert f"{path} has clip, encoder, model, but lacks seed, training" in said
  assert "clap train" in said
