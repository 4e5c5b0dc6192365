"""Hooks of MkDocs: parts of pages that come from the code or the repository.

* The page cli.md gets the `--help` of every command.
* The page contributing.md is CONTRIBUTING.md.
* A comment `<!-- reference: MODULE -->` becomes the reference of a module.
* Links to files outside docs/ become links to the repository, or their paths
  where mkdocs.yml names no repository (`repo_url`).

See https://www.mkdocs.org/user-guide/configuration/#hooks.
"""

import contextlib
import io
import os
import pathlib
import posixpath
import re

from clap_jax import main

ROOT = pathlib.Path(__file__).parents[2]
OPTIONS = "<!-- options of every command -->"
_REFERENCE = re.compile(r"<!-- reference: ([\w.]+) -->")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^):#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown, page, config, files):
  """Fills in a page before it is rendered; called by MkDocs."""
  path = page.file.src_uri
  if path == "contributing.md":
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return with_outside_links(text, "../CONTRIBUTING.md", config["repo_url"])
  if path == "cli.md":
    markdown = markdown.replace(OPTIONS, command_options())
  markdown = _REFERENCE.sub(r"::: \1", markdown)
  return with_outside_links(markdown, path, config["repo_url"])


def command_options() -> str:
  """The `--help` of every command as Markdown sections."""
  # The first {a,b,...} in the usage of the program lists the commands.
  names = re.search(r"\{([\w,]+)\}", help_of())[1].split(",")
  sections = [
    f"## clap {name}\n\n```text\n{help_of(name)}```" for name in names
  ]
  return "\n\n".join(sections)


def help_of(*command: str) -> str:
  """What `clap COMMAND --help` prints, 80 columns wide, without colours."""
  output = io.StringIO()
  os.environ |= {"COLUMNS": "80", "NO_COLOR": "1"}
  with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
    main.parse([*command, "--help"])
  return output.getvalue()


def with_outside_links(markdown: str, path: str, repository: str | None) -> str:
  """Rewrites links of a page that lead out of docs/, or into it from outside.

  Args:
    markdown: the page.
    path: of its file, relative to docs/.
    repository: address of the repository, if it has one.
  """

  def rewrite(match: re.Match) -> str:
    text, link, anchor = match[1], match[2], match[3] or ""
    # Relative to docs/, as the pages of the site are.
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    if not target.startswith("../"):
      return f"[{text}]({link_between(path, target)}{anchor})"
    file = target.removeprefix("../")
    if file.startswith("docs/"):
      return f"[{text}]({file.removeprefix('docs/')}{anchor})"
    if repository:
      return f"[{text}]({repository.rstrip('/')}/blob/main/{file}{anchor})"
    return f"`{file}`" if text.strip("`") == file else f"{text} (`{file}`)"

  return _LINK.sub(rewrite, markdown)


def link_between(path: str, target: str) -> str:
  """A link from one page to another; CONTRIBUTING.md is a page of docs/."""
  folder = "" if path.startswith("../") else posixpath.dirname(path)
  return posixpath.relpath(target, folder or ".")
