"""Six datasets of the field from their published forms: read and converted."""

import json

import pytest

from clap_jax import main
from clap_jax.annotations import annotation_file, source_files
from clap_jax.data import annotated_videos as own_annotations
from tests.tfds_builders import published_forms
from tfds_builders import names

# Name -> (writer, classes, {split: spans}, rejected reasons).
FORMS = {
  "fineaction": (
    published_forms.fineaction,
    ["jump", "put_on_shoes"],
    {
      "train": {
        "v_00000001": [(0.5, 2.04, "put_on_shoes"), (3.0, 7.5, "jump")]
      },
      "validation": {"v_00000002": [(1.0, 2.5, "jump")]},
      "test": {"v_00000003": []},
    },
    ["no length"],
  ),
  "ego4d/mq": (
    published_forms.ego4d_mq,
    ["use_phone", "wash_dishes"],
    {
      "train": {
        "c-1": [(0.5, 4.25, "wash_dishes"), (0.75, 4.0, "wash_dishes")]
      },
      "validation": {"c-2": [(1.0, 2.0, "use_phone")]},
      "test": {"c-3": []},
    },
    [],
  ),
  "ego4d/nlq": (
    published_forms.ego4d_nlq,
    [],
    {
      "train": {"c-1": [(1.0, 3.5, "Where was the cup before I washed it?")]},
      "validation": {"c-2": [(2.0, 5.0, "Where is the knife?")]},
      "test": {"c-3": []},
    },
    ["no label or caption", "no length"],
  ),
  "epic_sounds": (
    published_forms.epic_sounds,
    ["water", "rustle"],  # by class_id
    {
      "train": {
        "P01_01": [
          (2.466, 5.315, "rustle"),
          (0.5, 1.25, "water"),
          (2.466, 5.315, "paper rustle"),
          (0.5, 1.25, "tap"),
        ]
      },
      "validation": {"P02_03": [(1.0, 3.0, "water"), (1.0, 3.0, "tap on")]},
    },
    ["another class's"],
  ),
  "didemo": (
    published_forms.didemo,
    [],
    {
      "train": {"1@N02_135.mov": [(0.0, 5.0, "a dog runs to the left 0")]},
      "validation": {
        "2@N02_136.mpg": [(5.0, 10.0, "a dog runs to the left 1")]
      },
      "test": {"3.3gp": [(0.0, 5.0, "a dog runs to the left 2")]},
    },
    [],
  ),
  "youcook2": (
    published_forms.youcook2,
    [],
    {
      "train": {
        "xHr8X2Wpmno": [
          (1.0, 3.0, "pick the ends off the verdalago"),
          (4.0, 6.0, "combine lemon juice sumac garlic salt and oil in a bowl"),
        ]
      },
      "validation": {"V53XmPeyjIU": [(2.0, 7.0, "add oil to the pan")]},
    },
    ["no length"],
  ),
}


def read(name, folder) -> annotation_file.AnnotationFile:
  base, _, config = name.partition("/")
  module = names.builder_module(base)
  return module.read(source_files.SourceFiles(folder), config)


@pytest.mark.parametrize("name", FORMS)
def test_published_form(name, tmp_path):
  write, classes, expected, reasons = FORMS[name]
  write(tmp_path)
  file = read(name, tmp_path)
  assert file.labels() == classes
  found: dict = {}
  for entry in file.entries.values():
    spans = (*entry.segments, *entry.captions)
    found.setdefault(entry.subset, {})[entry.name] = [
      (span.start_sec, span.end_sec, span.text) for span in spans
    ]
  assert found == expected
  assert len(file.rejected) == len(reasons)
  for note, reason in zip(file.rejected, reasons, strict=True):
    assert reason in note["reason"] and note["split"] == "train"


@pytest.mark.parametrize("name", FORMS)
def test_length_of_clips(name, tmp_path):
  FORMS[name][0](tmp_path)
  lengths = {
    entry.expected_duration_sec
    for entry in read(name, tmp_path).entries.values()
    if entry.subset == "train"
  }
  (length_sec,) = lengths
  assert length_sec == (None if name == "didemo" else pytest.approx(8.0))


@pytest.mark.parametrize("name", FORMS)
def test_converted_annotations_are_what_training_reads(name, tmp_path, capsys):
  write, classes, expected, _ = FORMS[name]
  (tmp_path / "source").mkdir()
  write(tmp_path / "source")
  path, durations = tmp_path / "out.json", ()
  argv = ["convert", "annotations", str(tmp_path / "source"), "--from", name]
  assert main.main([*argv, "--out", str(path)]) == 0
  assert ("data.durations" in capsys.readouterr().err) == (name == "didemo")
  if name == "didemo":
    lengths = tmp_path / "lengths.csv"
    names = [video for own in expected.values() for video in own]
    rows = "".join(f"{video},30\n" for video in names)
    lengths.write_text(f"id,length\n{rows}")
    durations = (str(lengths),)
  videos = own_annotations.AnnotatedVideos(path, duration_files=durations)
  assert sorted(videos.label_names) == sorted(classes)
  for split, own in expected.items():
    if not any(own.values()):
      continue  # videos without annotations are left out
    for info in videos.examples(split):
      spans = [
        (*span, videos.label_names[code])
        for span, code in zip(info.segments.tolist(), info.labels, strict=True)
      ]
      spans = [(a, b, text) for a, b, text in spans]
      assert [*spans, *info.captions] == own[info.id]


def test_what_is_not_a_published_form(tmp_path):
  for name, file, content in (
    ("ego4d/mq", "moments_train.json", {"videos": {}}),
    ("didemo", "train_data.json", {}),
    ("youcook2", "youcookii_annotations_trainval.json", {"database": []}),
  ):
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=file):
      read(name, tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError):
      read(name, tmp_path)


def test_options_of_exports_are_refused(tmp_path, capsys):
  published_forms.youcook2(tmp_path)
  argv = ["convert", "annotations", str(tmp_path), "--from", "youcook2"]
  assert main.main([*argv, "--fps", "30", "--out", str(tmp_path / "o")]) == 2
  assert "--fps" in capsys.readouterr().err
