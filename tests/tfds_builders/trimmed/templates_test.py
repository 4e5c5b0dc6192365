"""Captions of templates: filled by attributes, the same in every run."""

import json

import pytest

from tfds_builders.trimmed import clips, templates

DOCUMENT = {
  "templates": ["{person} is {label}", "{gender} who is {label}"],
  "words": {"label": {"run": "running"}, "gender": {"F": "a woman"}},
}


def load(tmp_path, document):
  path = tmp_path / "templates.json"
  path.write_text(json.dumps(document))
  return templates.load(path)


def listed():
  found = clips.ClipList()
  for number in range(20):
    attributes = {"person": f"P{number}"}
    if number:
      attributes["gender"] = "F"
    name = f"{number}.mp4"
    found.add(clips.Clip(name, "run", name, attributes=attributes))
  return found


def test_every_clip_gets_one_of_the_templates(tmp_path):
  made = listed()
  templates.apply(load(tmp_path, DOCUMENT), made)
  captions = [clip.captions for clip in made.clips.values()]
  assert captions[0] == ["P0 is running"]  # it has no gender
  assert {len(texts) for texts in captions} == {1}
  firsts = {texts[0] for texts in captions}
  assert "a woman who is running" in firsts and len(firsts) > 5
  again = listed()
  templates.apply(load(tmp_path, DOCUMENT), again)
  assert captions == [clip.captions for clip in again.clips.values()]


def test_captions_of_the_file_are_dressed(tmp_path):
  made = listed()
  made.clips["3.mp4"].captions = ["one runs", "another runs"]
  templates.apply(load(tmp_path, {"templates": ["here {caption}"]}), made)
  assert made.clips["3.mp4"].captions == ["here one runs", "here another runs"]
  assert made.clips["4.mp4"].captions == []


@pytest.mark.parametrize(
  "document,reason",
  [
    ([], "templates"),
    ({"templates": []}, "templates"),
    ({"templates": ["a"], "word": {}}, "templates"),
    ({"templates": ["a"], "words": {"label": {"run": 1}}}, "words"),
    ({"templates": ["{person.__class__}"]}, "person"),
    ({"templates": ["{person!r}"]}, "person"),
    ({"templates": ["{}"]}, "name of an attribute"),
    ({"templates": ["{person"]}, "template"),
  ],
)
def test_files_that_are_not_templates(tmp_path, document, reason):
  with pytest.raises(ValueError, match=reason):
    load(tmp_path, document)


def test_an_attribute_that_no_clip_has_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"'view'.*person"):
    templates.apply(load(tmp_path, {"templates": ["{view}"]}), listed())
