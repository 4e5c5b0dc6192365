"""Files that GitHub and its readers expect: workflows, forms, citation."""

import re
import tomllib

import pytest
import yaml

from tests import conftest, documents

ROOT = conftest.REPOSITORY
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted(
  path
  for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")
  if path.name != "config.yml"
)
TEST_COMMAND = "./launch.sh test"
ADDITIONS = ("dataset", "head", "tower", "metric")
CHANGES = ["Added", "Changed", "Fixed"]


def text_of(name):
  return (ROOT / name).read_text(encoding="utf-8")


def yaml_of(path):
  return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps_of(job):
  """What the steps of a job run, one string each."""
  return [step["run"].strip() for step in job["steps"] if "run" in step]


def file_name(path):
  return path.name


@pytest.mark.parametrize("path", WORKFLOWS, ids=file_name)
def test_workflows_are_bounded_and_pinned(path):
  workflow = yaml_of(path)
  assert workflow["permissions"] == {"contents": "read"}
  for job in workflow["jobs"].values():
    assert 0 < job["timeout-minutes"] <= 360
    for step in job["steps"]:
      assert ("uses" in step) != ("run" in step)
      if "uses" in step:  # a commit, or a major version
        assert re.fullmatch(r"[\w-]+/[\w-]+@([0-9a-f]{40}|v\d+)", step["uses"])


def test_ci_runs_lint_tests_and_documents():
  workflow = yaml_of(ROOT / ".github/workflows/ci.yml")
  # YAML 1.1 reads the key `on` as true.
  assert set(workflow[True]) == {"push", "pull_request"}
  jobs = workflow["jobs"]
  for command in ("ruff check .", "ruff format --check ."):
    assert f".venv/bin/{command}" in steps_of(jobs["lint"])
    assert f"`{command}`" in " ".join(text_of("CONTRIBUTING.md").split())
  assert jobs["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
  assert steps_of(jobs["tests"])[-1] == ".ci/run"
  assert steps_of(jobs["docs"])[-1] == ".venv/bin/mkdocs build --strict"
  assert "`mkdocs build --strict`" in text_of("CONTRIBUTING.md")


def test_ci_runs_the_test_command_of_the_readme():
  assert f"exec {TEST_COMMAND}\n" in text_of(".ci/run")
  (command,) = [
    command
    for command in documents.read_commands()
    if command.document == "README.md" and command.text == TEST_COMMAND
  ]
  assert command.section == "Two commands"


def test_extras_that_ci_installs_are_there():
  extras = tomllib.loads(text_of("pyproject.toml"))["project"][
    "optional-dependencies"
  ]
  for path in WORKFLOWS:
    for group in re.findall(r"\.\[([\w,-]+)\]", path.read_text("utf-8")):
      assert set(group.split(",")) <= set(extras), path.name


def test_hooks_before_a_commit_are_those_of_ci():
  (repository,) = yaml_of(ROOT / ".pre-commit-config.yaml")["repos"]
  pinned = re.search(r"^ruff==(\S+)$", text_of("constraints.txt"), re.MULTILINE)
  assert repository["rev"] == f"v{pinned[1]}"
  assert [hook["id"] for hook in repository["hooks"]] == [
    "ruff-check",
    "ruff-format",
  ]


@pytest.mark.parametrize("path", FORMS, ids=file_name)
def test_issue_forms(path):
  form = yaml_of(path)
  assert form["name"] and form["description"]
  ids = []
  for part in form["body"]:
    if part["type"] == "markdown":
      assert part["attributes"]["value"]
    else:
      assert part["type"] in ("input", "textarea", "dropdown", "checkboxes")
      assert part["attributes"]["label"]
      ids.append(part["id"])
  assert ids and len(set(ids)) == len(ids)


def test_citation():
  citation = yaml.safe_load(text_of("CITATION.cff"))
  project = tomllib.loads(text_of("pyproject.toml"))["project"]
  assert citation["cff-version"] == "1.2.0"
  assert citation["message"] and citation["authors"]
  assert citation["version"] == project["version"]
  assert citation["license"] == project["license"]["text"] == "Apache-2.0"
  (paper,) = citation["references"]
  assert paper["url"] == "https://arxiv.org/abs/2204.12293"
  assert paper["identifiers"][0]["value"] == "arXiv:2204.12293"
  readme = " ".join(text_of("README.md").split())
  assert paper["title"] in readme
  for author in paper["authors"]:
    assert f"{author['family-names']}, {author['given-names']}" in readme


@pytest.mark.parametrize("thing", ADDITIONS)
def test_contributing_shows_how_to_add(thing):
  """The steps name files and take at most ten lines."""
  sections = re.split(r"^## ", text_of("CONTRIBUTING.md"), flags=re.MULTILINE)
  (section,) = [s for s in sections if s.startswith(f"Add a {thing}\n")]
  lines = [line for line in section.splitlines()[1:] if line]
  assert 3 <= len(lines) <= 10
  assert len(re.findall(r"`[\w/]+(\.py|/)`", section)) >= 3


def test_contributing_has_every_folder():
  text = text_of("CONTRIBUTING.md")
  folders = {p.parent.name for p in (ROOT / "clap_jax").glob("*/__init__.py")}
  missing = [name for name in folders if f"`clap_jax/{name}/`" not in text]
  assert not missing


def test_changelog_is_grouped_by_release():
  releases = re.split(r"^## ", text_of("CHANGELOG.md"), flags=re.MULTILINE)[1:]
  version = tomllib.loads(text_of("pyproject.toml"))["project"]["version"]
  assert releases[0].split()[0] == version
  for release in releases:
    assert re.match(r"\d+\.\d+\.\d+ \(.+\)\n", release)
    groups = re.findall(r"^### (.*)$", release, re.MULTILINE)
    assert groups == [name for name in CHANGES if name in groups]
