"""What others wrote is printed as it is, and nothing of it is obeyed."""

import io

import pytest
import rich.table

from clap_jax import console

TEXTS = (
  "[/a]",
  "[bold red]x[/bold red] [link=file:///etc/passwd]y[/link]",
  ":smile:",
  "\x1b[31mred\x1b]8;;http://x\x07link\x1b\\",
  "back\rspace\b\x7f\x9b31m",
  "lone \udcff surrogate",
  "turned \u202e round",
)


def printed(*renderables, **options) -> str:
  file = io.StringIO()
  terminal = console.Console(
    file=file, markup=False, emoji=False, width=200, **options
  )
  for renderable in renderables:
    terminal.print(renderable)
  return file.getvalue()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("how", ["line", "cell", "title"])
def test_nothing_is_markup_and_nothing_is_obeyed(text, how):
  renderable = text
  if how == "cell":
    renderable = rich.table.Table("a")
    renderable.add_row(text)
  elif how == "title":
    renderable = rich.table.Table("a", title=text)
    renderable.add_row("-" * 120)
  found = printed(renderable)
  assert console.printable(text) in found
  found.encode("utf-8")
  assert not {*found} & {*"\x1b\r\b\x7f\x9b\x07\u202e"}


@pytest.mark.parametrize(
  ("text", "line"),
  [
    ("a\nb\tc", "a\\nb\\tc"),
    ("\x1b[0m", "\\x1b[0m"),
    ("\udcff", "\\udcff"),
    ("Ünïcode 名", "Ünïcode 名"),
  ],
)
def test_one_line(text, line):
  assert console.one_line(text) == line


def test_the_console_of_the_commands_takes_no_markup(capsys):
  console.console.print("a [/b] :smile: \x1b[31m")
  assert "a [/b] :smile: \\x1b[31m" in capsys.readouterr().err


def test_progress_names_the_file(capsys):
  with console.Progress("predict") as progress:
    progress.name("a[/b]\n\x1b[31m.mp4")
    progress(1, 1)
  assert "predict: a[/b]\\n\\x1b[31m.mp4" in capsys.readouterr().err
