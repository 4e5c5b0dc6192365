"""Prints to the terminal: messages, tables and progress bars.

File names, queries and error messages come from others. They are printed as
they are: brackets are no markup, and what would move the cursor, change colours
or turn the direction of the text is escaped.
"""

import re

import rich.console
import rich.progress

_UNPRINTABLE = re.compile(
  "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 but tab and line feed
  "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction of the text
  "\u2028\u2029\ud800-\udfff]"  # line ends of Unicode; lone surrogates
)


def printable(text: str) -> str:
  """Escapes what a terminal would obey; tabs and line feeds stay."""
  return _UNPRINTABLE.sub(lambda found: _escaped(found[0]), text)


def one_line(text: object) -> str:
  """A name on one line: as `printable`, tabs and line feeds escaped too."""
  return re.sub(
    r"[\t\n]", lambda found: _escaped(found[0]), printable(str(text))
  )


def _escaped(character: str) -> str:
  return ascii(character)[1:-1]


class Console(rich.console.Console):
  """Prints every text, in tables too, as `printable` has it."""

  def render_str(self, text: str, **options):
    return super().render_str(printable(text), **options)


console = Console(stderr=True, markup=False, emoji=False)


class Progress:
  """A bar on a terminal, a line at every tenth of the way elsewhere."""

  def __init__(self, title: str):
    self._title = title
    self._tenths = 0
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("{task.description}", markup=False),
      rich.progress.BarColumn(),
      rich.progress.MofNCompleteColumn(),
      rich.progress.TimeElapsedColumn(),
      rich.progress.TimeRemainingColumn(),
      console=console,
      disable=not console.is_terminal,
    )
    self._task = self._bar.add_task(one_line(title), total=None)

  def __enter__(self):
    self._bar.start()
    return self

  def __exit__(self, *_):
    self._bar.stop()

  def name(self, current: object) -> None:
    """Shows which file is being worked on."""
    text = f"{self._title}: {one_line(current)}"
    self._bar.update(self._task, description=text)
    if not console.is_terminal:
      console.print(f"  {text}", soft_wrap=True)

  def __call__(self, done: int, total: int) -> None:
    self._bar.update(self._task, completed=done, total=total)
    tenths = 10 * done // max(total, 1)
    if not console.is_terminal and tenths > self._tenths:
      self._tenths = tenths
      console.print(f"  {self._title}: {done} of {total}")
