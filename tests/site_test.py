"""The documentation site: its pages, its hooks, and its strict build."""

import contextlib
import importlib.util
import io
import re
import subprocess
import sys

import pytest
import yaml

from clap_jax import main
from tests import conftest

ROOT = conftest.REPOSITORY
HOOKS = ROOT / "docs/hooks/pages.py"
BUILDER = ("mkdocs", "material", "mkdocstrings")


@pytest.fixture(scope="module")
def site():
  return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def hooks():
  spec = importlib.util.spec_from_file_location("pages", HOOKS)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def pages_of(nav):
  """Files that a navigation lists, at any depth."""
  if isinstance(nav, str):
    yield nav
  else:
    for entry in nav.values() if isinstance(nav, dict) else nav:
      yield from pages_of(entry)


def test_the_navigation_lists_every_page_once(site):
  docs = ROOT / "docs"
  written = {p.relative_to(docs).as_posix() for p in docs.rglob("*.md")}
  listed = list(pages_of(site["nav"]))
  assert sorted(listed) == sorted(written)


def test_the_hooks_of_the_site_are_these(site):
  assert [ROOT / path for path in site["hooks"]] == [HOOKS]


@pytest.mark.parametrize(
  ("page", "marker"),
  [
    ("cli.md", "<!-- options of every command -->"),
    ("python_api.md", "<!-- reference: clap_jax.api -->"),
  ],
)
def test_generated_parts_have_a_place(page, marker):
  text = (ROOT / "docs" / page).read_text(encoding="utf-8")
  assert text.count(marker) == 1


def test_the_command_page_has_every_option(hooks):
  text = hooks.command_options()
  with (
    pytest.raises(SystemExit),
    contextlib.redirect_stdout(io.StringIO()) as out,
  ):
    main.parse(["--help"])
  names = re.search(r"\{([\w,]+)\}", out.getvalue())[1].split(",")
  assert re.findall(r"^## clap (\w+)$", text, re.MULTILINE) == names
  for option in ("--max_duration_sec", "--topology", "--stride_sec"):
    assert option in text
  assert text.count("```") == 2 * len(names)


@pytest.mark.parametrize(
  ("page", "repository", "text", "expected"),
  [
    ("a.md", None, "[b](b.md#c)", "[b](b.md#c)"),
    ("deploy/a.md", None, "[b](../b.md)", "[b](../b.md)"),
    ("deploy/a.md", None, "[b](c.md)", "[b](c.md)"),
    ("a.md", None, "[b](../LICENSE)", "b (`LICENSE`)"),
    ("deploy/a.md", None, "[b](../../LICENSE)", "b (`LICENSE`)"),
    ("a.md", None, "[LICENSE](../LICENSE)", "`LICENSE`"),
    ("a.md", None, "[`x/y.md`](../x/y.md)", "`x/y.md`"),
    (
      "a.md",
      "https://example.com/r/",
      "[b](../x/y.md#z)",
      "[b](https://example.com/r/blob/main/x/y.md#z)",
    ),
    ("a.md", None, "![b](../b.png)", "![b](../b.png)"),
    ("a.md", None, "[b](https://example.com/a)", "[b](https://example.com/a)"),
    ("../CONTRIBUTING.md", None, "[b](docs/b.md#c)", "[b](b.md#c)"),
    ("../CONTRIBUTING.md", None, "[b](SECURITY.md)", "b (`SECURITY.md`)"),
  ],
)
def test_links_out_of_the_site(hooks, page, repository, text, expected):
  assert hooks.with_outside_links(text, page, repository) == expected


def test_strict_build(tmp_path):
  missing = [name for name in BUILDER if not importlib.util.find_spec(name)]
  if missing:
    pytest.skip(f'{missing} not installed: pip install "clap_jax[docs]"')
  done = subprocess.run(
    [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", tmp_path],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  assert "--max_duration_sec" in (tmp_path / "cli/index.html").read_text()
  assert "VideoPredictions" in (tmp_path / "python_api/index.html").read_text()
