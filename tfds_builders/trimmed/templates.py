"""Fills caption templates: "a {gender} {label} while {locomotion}"."""

import dataclasses
import os
import string

from clap_jax.annotations import source_files
from tfds_builders import collection
from tfds_builders.trimmed.clips import Clip, ClipList


@dataclasses.dataclass(frozen=True)
class Templates:
  """Sentences with names of attributes, and words for their values."""

  name: str  # name of the file
  texts: tuple[str, ...]
  words: dict[str, dict[str, str]]

  def caption(self, clip: Clip) -> list[str]:
    """Returns captions of a clip from a template chosen by its name.

    There is one for each caption of the clip, which templates may use as
    {caption}; none if it lacks an attribute of every template.
    """
    values = clip.values()
    values = {k: self.words.get(k, {}).get(v, v) for k, v in values.items()}
    made = []
    for caption in clip.captions or [""]:
      own = values | ({"caption": caption} if caption else {})
      usable = [text for text in self.texts if _fields(text) <= own.keys()]
      if usable:
        place = collection.record_order(clip.name, caption) % len(usable)
        made.append(usable[place].format_map(own))
    return list(dict.fromkeys(made))


def _fields(template: str) -> set[str]:
  """Returns the names between braces.

  Raises:
    ValueError: there is something other than a name.
  """
  fields = set()
  for _, field, form, conversion in string.Formatter().parse(template):
    if field is None:
      continue
    # Dots and brackets would access Python objects.
    if not field or form or conversion or set(field) & set(".[]"):
      raise ValueError(f"{{{field}}} is not a name of an attribute")
    fields.add(field)
  return fields


def load(path: str | os.PathLike) -> Templates:
  """Reads {"templates": ["..."], "words": {attribute: {value: word}}}.

  Raises:
    ValueError: the file is malformed.
  """
  document = source_files.load_json(path)
  if not isinstance(document, dict):
    document = {}
  texts, words = document.get("templates"), document.get("words", {})
  if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
    texts = []
  is_words = isinstance(words, dict) and all(
    isinstance(table, dict) and all(isinstance(w, str) for w in table.values())
    for table in words.values()
  )
  if not texts or not is_words or set(document) - {"templates", "words"}:
    raise ValueError(
      f'{path}: expected {{"templates": ["{{person}} is {{label}}", ...]}} '
      'and optionally "words": {attribute: {value: word}}'
    )
  for text in texts:
    try:
      _fields(text)
    except ValueError as error:
      raise ValueError(f"{path}: template {text!r}: {error}") from error
  return Templates(os.fspath(path), tuple(texts), words)


def apply(templates: Templates, listed: ClipList) -> None:
  """Replaces the captions of all clips.

  Raises:
    ValueError: no clip has an attribute that a template names.
  """
  clips = listed.clips.values()
  known = {key for clip in clips for key in clip.values()}
  if any(clip.captions for clip in clips):
    known.add("caption")
  for text in templates.texts:
    missing = sorted(_fields(text) - known)
    if missing:
      raise ValueError(
        f"{templates.name}: template {text!r}: no clip has {missing[0]!r}; "
        f"they have {', '.join(sorted(known))}"
      )
  for clip in clips:
    clip.captions = templates.caption(clip)
