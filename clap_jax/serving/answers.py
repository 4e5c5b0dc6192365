"""Encodes the server's responses and removes paths from texts.

Undecodable bytes in file names and labels become replacement characters.
"""

import json
import pathlib
import re
from typing import Any

from starlette import responses

_MAX_NAME_CHARACTERS = 120
# Control characters and lone surrogates.
_UNSHOWN = re.compile(
  "[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)


def json_answer(content: Any, status: int = 200) -> responses.Response:
  """Returns a JSON response in ASCII."""
  text = json.dumps(content, ensure_ascii=True, allow_nan=False)
  return responses.Response(text, status, media_type="application/json")


def text_answer(text: str, *, media_type: str) -> responses.Response:
  """Returns a text response in UTF-8."""
  body = text.encode("utf-8", "replace")
  return responses.Response(body, media_type=media_type)


def shown_name(path: str) -> str:
  """Returns the last part of a path, safe to display."""
  name = pathlib.PurePath(path).name[:_MAX_NAME_CHARACTERS]
  return _UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", name) or "video"


def without_paths(error: object, *paths: pathlib.Path) -> str:
  """Returns the text of an error without the given paths."""
  text = str(error)
  for path in paths:
    for part in (str(path), str(path.parent), path.name):
      text = text.replace(part, "the file")
  return _UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", text)
