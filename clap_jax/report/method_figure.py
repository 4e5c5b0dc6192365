"""Draws the method: two towers and a masked contrastive matrix."""

import pathlib

from markupsafe import Markup

_WIDTH, _HEIGHT = 960, 452
_DESCRIPTION = (
  "Clips of actions and of background are cut from untrimmed videos and pass"
  " through the video tower; captions pass through the text tower. A matrix"
  " compares every clip with every caption: matching pairs attract, trusted"
  " negatives repel, pairs that may also be true are masked, and a background"
  " clip without a caption only serves as a negative."
)
_STYLE_PATH = pathlib.Path(__file__).with_name("method_figure.css")
# A clip's colour and caption; without a caption its column stays empty.
_CLIPS = (
  ("one", "the small red triangle zigzags"),
  ("back", "two sprites rest while the camera pans"),
  ("two", "a blue square spins"),
  ("back", None),
  ("one", "a green circle zigzags upwards"),
)
_MASKED = {(0, 4), (4, 0)}  # two clips of one class
_VIDEOS = (  # (colour, width, number of the clip cut from it)
  (
    ("back", 26, 0),
    ("one", 58, 1),
    ("back", 48, 2),
    ("two", 46, 3),
    ("back", 42, 4),
  ),
  (("back", 22, 0), ("one", 44, 5), ("back", 20, 0)),
)
_KINDS = (("one", "action"), ("two", "another action"), ("back", "background"))
_BOLD = "ink strong"
_CELL = 44
_MATRIX_LEFT, _MATRIX_TOP = 664, 122


def method_figure_svg(*, standalone: bool = True) -> str:
  """The figure as SVG text.

  Args:
    standalone: True for a file of its own (namespace and paper behind it),
      False for an element inside an HTML page.
  """
  namespace = Markup(' xmlns="http://www.w3.org/2000/svg"')
  paper = Markup('<rect class="paper" width="{}" height="{}" rx="8"/>').format(
    _WIDTH, _HEIGHT
  )
  body = [_pattern(), _captions(), _videos(), _towers(), _matrix(), _legend()]
  return str(
    Markup(
      '<svg class="mf"{} viewBox="0 0 {} {}" role="img" aria-label="{}">'
      "<style>{}</style>{}{}</svg>"
    ).format(
      namespace if standalone else "",
      _WIDTH,
      _HEIGHT,
      _DESCRIPTION,
      Markup(_STYLE_PATH.read_text(encoding="utf-8")),
      paper if standalone else "",
      Markup("").join(body),
    )
  )


def _pattern() -> Markup:
  return Markup(
    '<defs><pattern id="mf-hatch" width="7" height="7"'
    ' patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<line class="hatch" x1="0" x2="0" y1="0" y2="7"/></pattern></defs>'
  )


def _text(
  x: float, y: float, text: str, *, css: str = "ink", anchor: str = "start"
) -> Markup:
  return Markup(
    '<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>'
  ).format(css, x, y, anchor, text)


def _rect(
  x: float, y: float, width: float, height: float, *, css: str, radius: int = 4
) -> Markup:
  return Markup(
    '<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="{}"/>'
  ).format(css, x, y, width, height, radius)


def _arrow(left: float, right: float, *, y: float) -> Markup:
  return Markup(
    '<path class="wire" d="M{left} {y}H{right}"/>'
    '<path class="tip" d="M{right} {top}l8 4.5l-8 4.5z"/>'
  ).format(left=left, right=right, y=y, top=y - 4.5)


def _captions() -> Markup:
  parts = [_text(24, 40, "Captions, of actions and of background", css=_BOLD)]
  lines = [(i, text) for i, (_, text) in enumerate(_CLIPS) if text]
  for row, (index, text) in enumerate(lines):
    y = 66 + row * 25
    parts.append(_rect(24, y - 14, 20, 19, css=_CLIPS[index][0], radius=3))
    parts.append(_text(34, y, f"{index + 1}", css=_BOLD, anchor="middle"))
    parts.append(_text(54, y, f"“{text}”", css="ink quote"))
  return Markup("").join(parts)


def _videos() -> Markup:
  """Clips on top, and below them the untrimmed videos they are cut from."""
  parts = [_text(24, 200, "Clips, a few seconds each", css=_BOLD)]
  left = 24
  for video in _VIDEOS:
    for kind, width, clip in video:
      parts.append(_rect(left, 312, width - 2, 30, css=kind, radius=3))
      if clip:
        parts.append(
          Markup('<path class="cut" d="M{} 309L{} 257"/>').format(
            left + width / 2 - 1, 46 + (clip - 1) * 62
          )
        )
      left += width
    left += 16
  for index, (kind, _) in enumerate(_CLIPS):
    left = 24 + index * 62
    for shift in (8, 4, 0):  # a clip is a stack of frames
      css = f"{kind} frame"
      parts.append(_rect(left + shift, 220 - shift, 44, 34, css=css))
    parts.append(
      _text(left + 22, 242, f"{index + 1}", css=_BOLD, anchor="middle")
    )
  parts.append(_text(24, 366, "Untrimmed videos", css=_BOLD))
  left = 24
  for kind, name in _KINDS:
    parts.append(_rect(left, 382, 13, 13, css=kind, radius=2))
    parts.append(_text(left + 19, 393, name, css="soft small"))
    left += 34 + 7 * len(name)
  return Markup("").join(parts)


def _towers() -> Markup:
  bottom = _MATRIX_TOP + _CELL * len(_CLIPS) / 2
  parts = []
  for middle, name, detail, end in (
    (_MATRIX_TOP - 21, "Text tower", "transformer", _MATRIX_LEFT - 4),
    (bottom, "Video tower", "space-time transformer", _MATRIX_LEFT - 48),
  ):
    parts.append(_rect(392, middle - 36, 164, 72, css="tower", radius=8))
    parts.append(_text(474, middle - 2, name, css=_BOLD, anchor="middle"))
    parts.append(
      _text(474, middle + 17, detail, css="soft small", anchor="middle")
    )
    parts.append(_arrow(346, 382, y=middle))
    parts.append(_arrow(556, end, y=middle))
  return Markup("").join(parts)


def _matrix() -> Markup:
  parts = []
  for index, (kind, caption) in enumerate(_CLIPS):
    x = _MATRIX_LEFT + index * _CELL
    y = _MATRIX_TOP + index * _CELL
    parts.append(_rect(_MATRIX_LEFT - 34, y + 9, 26, 26, css=kind))
    parts.append(
      _text(
        _MATRIX_LEFT - 21,
        y + 27,
        f"{index + 1}",
        css="ink strong",
        anchor="middle",
      )
    )
    head = kind if caption else "void"
    parts.append(_rect(x + 9, _MATRIX_TOP - 34, 26, 26, css=head))
    parts.append(
      _text(
        x + 22,
        _MATRIX_TOP - 16.5,
        f"{index + 1}",
        css="ink strong" if caption else "soft",
        anchor="middle",
      )
    )
    for column in range(len(_CLIPS)):
      parts.append(_cell(index, column))
  return Markup("").join(parts)


def _cell(row: int, column: int) -> Markup:
  x = _MATRIX_LEFT + column * _CELL + 1.5
  y = _MATRIX_TOP + row * _CELL + 1.5
  side = _CELL - 3
  if _CLIPS[column][1] is None:
    return _rect(x, y, side, side, css="void")
  if row == column:
    plus = _text(
      x + side / 2, y + side / 2 + 6, "+", css="onpull strong", anchor="middle"
    )
    return _rect(x, y, side, side, css="pull") + plus
  if (row, column) in _MASKED:
    return Markup(
      '<rect fill="url(#mf-hatch)" x="{}" y="{}" width="{}" height="{}"'
      ' rx="4"/>'
    ).format(x, y, side, side)
  minus = _text(
    x + side / 2, y + side / 2 + 5, "−", css="sign", anchor="middle"
  )
  return _rect(x, y, side, side, css="push") + minus


def _legend() -> Markup:
  """Draws the legend of the matrix, below it."""
  top = _MATRIX_TOP + _CELL * len(_CLIPS) + 26
  parts = []
  entries = (
    ("pull", "a clip and its caption attract"),
    ("push", "trusted negative: they repel"),
    ("", "masked: may be true as well, so left out"),
    ("void", "no caption; the clip is still a negative for all"),
  )
  for index, (css, text) in enumerate(entries):
    y = top + index * 21
    if css:
      parts.append(_rect(630, y - 11, 14, 14, css=css, radius=2))
    else:
      parts.append(
        Markup(
          '<rect fill="url(#mf-hatch)" x="630" y="{}" width="14" height="14"'
          ' rx="2"/>'
        ).format(y - 11)
      )
    parts.append(_text(654, y, text, css="ink"))
  return Markup("").join(parts)
