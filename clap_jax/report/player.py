"""Writes the page of one video with playable moments.

The page is self-contained: a small video in a container that browsers play is
embedded; any other video is linked by its local address, with a note.
"""

import base64
import pathlib
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from clap_jax.report import page, palette
from clap_jax.storage import untrusted

MAX_EMBEDDED_BYTES = 24_000_000
_FOLDER = pathlib.Path(__file__).parent
_MEDIA_TYPES = {
  ".mp4": "video/mp4",
  ".m4v": "video/mp4",
  ".mov": "video/mp4",
  ".webm": "video/webm",
}


def render(entry: Mapping[str, Any], *, source: str | None = None) -> str:
  """Renders the page.

  Args:
    entry: an entry of "videos" in a predictions document.
    source: address of the video; None: the file itself, embedded or linked.
  """
  path = pathlib.Path(entry["video"])
  note = ""
  style, script = _inline("css"), _inline("js")
  if source is None:
    source, note = _source(path)
  return (
    page.environment()
    .get_template("player.html")
    .render(
      name=path.name,
      duration_sec=entry["duration_sec"],
      source=source,
      note=note,
      groups=groups(entry),
      style=Markup(style),
      script=Markup(script),
      policy=_policy(style, script),
    )
  )


def inline_hashes() -> tuple[str, str]:
  """Returns the hashes of the page's style sheet and of its script."""
  return page.source_hash(_inline("css")), page.source_hash(_inline("js"))


def _inline(suffix: str) -> str:
  return (_FOLDER / f"player.{suffix}").read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
  """Returns the policy that stops inserted text from running as code."""
  return (
    "default-src 'none'; media-src 'self' data: file:; "
    f"style-src '{page.source_hash(style)}'; "
    f"script-src '{page.source_hash(script)}'; "
    "base-uri 'none'; form-action 'none'"
  )


def groups(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Groups moments by label or query, best first; keeps empty queries.

  Each group has "name", "is_query", "absent" (None: not predicted), "hue" and
  "moments" with their place on the axis in percent.
  """
  absence = entry.get("absence") or {}
  made: dict[tuple[bool, str], list] = {(True, query): [] for query in absence}
  for found in entry["predictions"]:
    key = ("query" in found, found.get("query") or found.get("label"))
    made.setdefault(key, []).append(found)
  ordered = sorted(made, key=lambda key: (not key[0], -_top(made[key]), key[1]))
  hues = palette.label_hues([name for _, name in ordered])
  return [
    {
      "name": name,
      "is_query": is_query,
      "absent": _absent(absence.get(name)) if is_query else None,
      "hue": hues[name],
      "moments": [
        _placed(found, entry["duration_sec"], _top(made[is_query, name]))
        for found in sorted(made[is_query, name], key=lambda f: -f["score"])
      ],
    }
    for is_query, name in ordered
  ]


def _absent(absence: Any) -> bool | None:
  return absence["absent"] if isinstance(absence, Mapping) else None


def _top(found: list) -> float:
  return max((entry["score"] for entry in found), default=0.0)


def _placed(found, duration_sec: float, top: float) -> dict[str, Any]:
  scale = 100.0 / max(duration_sec, 1e-6)
  width = (found["end_sec"] - found["start_sec"]) * scale
  alpha = 0.2 + 0.8 * max(found["score"], 0.0) / top if top > 0 else 1.0
  return {
    "start_sec": found["start_sec"],
    "end_sec": found["end_sec"],
    "score": found["score"],
    "left_percent": round(found["start_sec"] * scale, 3),
    "width_percent": round(max(width, 0.3), 3),
    "alpha": round(alpha, 3),
  }


def _source(path: pathlib.Path) -> tuple[str, str]:
  """Returns (address, note for the reader)."""
  media_type = _MEDIA_TYPES.get(path.suffix.lower())
  if not path.is_file():
    return "", f"{path.name} was not found; only the moments are shown."
  if media_type is None:
    return (
      path.absolute().as_uri(),
      f"Browsers may not play {path.suffix or 'this'} files; the video is "
      "linked, not embedded.",
    )
  if path.stat().st_size > MAX_EMBEDDED_BYTES:
    return (
      path.absolute().as_uri(),
      "The video is too large to embed; the page links to its file.",
    )
  encoded = base64.b64encode(untrusted.read_bytes(path)).decode("ascii")
  return f"data:{media_type};base64,{encoded}", ""
