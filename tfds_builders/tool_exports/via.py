"""Reads projects of VIA 3: temporal segments of videos."""

import urllib.parse

from clap_jax.annotations import annotation_tables
from clap_jax.storage import text_tables, untrusted
from tfds_builders.tool_exports.export import MAX_BYTES, Export

_LABEL_NAMES = {
  text_tables.fold(name)
  for name in ("label", *annotation_tables.COLUMNS["label"])
}


def read(export: Export) -> None:
  """Reads a project saved as JSON.

  Raises:
    ValueError: the file is not one.
  """
  path = export.request.path
  document = untrusted.read_json(path, max_bytes=MAX_BYTES)
  parts = document if isinstance(document, dict) else {}
  if "_via_img_metadata" in parts:
    raise ValueError(
      f"{path} is a project of VIA 2, which has only images; expected VIA 3"
    )
  if not all(isinstance(parts.get(k), dict) for k in ("file", "metadata")):
    raise ValueError(
      f'{path} is not a project of VIA 3: expected "file" and "metadata" with '
      "objects"
    )
  attributes = _dict(parts.get("attribute"))
  for key, entry in parts["metadata"].items():
    where = f"metadata.{key[:60]}"
    if not isinstance(entry, dict):
      export.reject("?", "not an object", where=where)
      continue
    video, reason = _video(parts, str(entry.get("vid")))
    if reason:
      export.reject(video, reason, where=where)
      continue
    times = entry.get("z")
    if not isinstance(times, list) or len(times) != 2:
      export.reject(
        video,
        f"z is {str(times)[:40]}, no temporal segment [start, end]",
        where=where,
      )
      continue
    labels, reason = _labels(_dict(entry.get("av")), attributes)
    if reason:
      export.reject(video, reason, where=where)
    for label in labels:
      export.add(video, *times, label, where=where)


def _dict(value):
  return value if isinstance(value, dict) else {}


def _video(parts, view: str) -> tuple[str, str | None]:
  """Returns (name, reason if there is none) of the file in a view."""
  shown = _dict(_dict(parts.get("view")).get(view)).get("fid_list")
  files = shown if isinstance(shown, list) else [view]
  if len(files) != 1:
    return "?", f"the view {view!r} shows {len(files)} files, not one"
  entry = _dict(parts["file"].get(str(files[0])))
  name = entry.get("fname") or entry.get("src")
  if not isinstance(name, str) or not name:
    return "?", f"no file {files[0]!r} among the project's files"
  return urllib.parse.unquote(name) if "://" in name else name, None


def _labels(values, attributes) -> tuple[list[str], str | None]:
  """Returns (labels, reason if there are none) of a segment's attributes.

  The label is the only attribute with a value, or else the one named label,
  class, action or similar. Selected options are returned by name.
  """
  given = {str(k): v for k, v in values.items() if v not in (None, "")}
  if len(given) > 1:
    named = {
      key: value
      for key, value in given.items()
      if text_tables.fold(str(_dict(attributes.get(key)).get("aname", "")))
      in _LABEL_NAMES
    }
    if len(named) != 1:
      names = [
        str(_dict(attributes.get(key)).get("aname", key)) for key in given
      ]
      return [], (
        f"several attributes {names}; call the one that is the label 'label'"
      )
    given = named
  if not given:
    return [], "no attribute has a value"
  ((key, value),) = given.items()
  options = _dict(_dict(attributes.get(key)).get("options"))
  values = [value]
  if options and isinstance(value, str):  # several boxes: "0,2"
    parts = [part.strip() for part in value.split(",")]
    if all(part in options for part in parts):
      values = [options[part] for part in parts]
  elif isinstance(value, dict):  # boxes by option
    values = [options.get(k, k) for k, chosen in value.items() if chosen]
  return [v if isinstance(v, str) else str(v) for v in values], None
