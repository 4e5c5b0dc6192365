"""Every command in the documents is one that the programs take."""

import contextlib
import dataclasses
import functools
import io
import pathlib
import re

import ml_collections
import pytest

from clap_jax import main
from clap_jax.commands import completing, configs
from clap_jax.media import limits
from clap_jax.trainers import registry
from tests import documents
from tfds_builders import names

ROOT = documents.ROOT
_PLACEHOLDER = "..."  # in a command that leaves the obvious out
COMMANDS = list(documents.read_commands())
CLAP = [command for command in COMMANDS if command.words[0] == "clap"]
LAUNCH = [command for command in COMMANDS if command.words[0] == "./launch.sh"]


def name(command):
  return f"{command.document}: {command.text[:60]}"


def test_there_are_commands():
  assert len(CLAP) > 20
  assert len(LAUNCH) > 5


@pytest.mark.parametrize("case", CLAP, ids=name)
def test_clap_takes_it(case):
  args = main.parse(list(case.words[1:]))  # exits where it does not
  if getattr(args, "config", None) in (None, _PLACEHOLDER):
    return
  config = configs.read(args.config, args.overrides)
  if args.command in ("train", "sweep", "compile"):
    registry.resolve(config)


@pytest.mark.parametrize("case", LAUNCH, ids=name)
def test_launch_takes_it(case):
  arguments = case.words[1:]
  script, tpu = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("launch.sh", "clap_jax/launcher/tpu.sh")
  )
  words = [word for word in arguments if word[0] != "/"]
  (known,) = re.findall(r"unknown command .*?; choose ([^.]*)\.", script, re.S)
  assert arguments[0] in re.findall(r"\w+", known)
  own = words[: words.index("--")] if "--" in words else words
  for flag in (word for word in own if word.startswith("--")):
    if arguments[0] == "tpu":
      assert re.search(rf"{flag}[) ]", tpu), flag
    else:
      assert flag in help_of(arguments[0]), flag


def help_of(command: str) -> str:
  output = io.StringIO()
  with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as stop:
    main.parse([command, "--help"])
  assert stop.value.code == 0, command
  return output.getvalue()


def test_commands_in_the_text_and_their_flags_are_there():
  found = [
    (path, code)
    for path, code in documents.inline()
    if code.startswith("clap ")
  ]
  assert len(found) > 20
  for path, code in found:
    _, command, *rest = code.split()
    if command in ("import", "export") and not rest:
      continue
    shown = help_of(command)
    for flag in re.findall(r"--[a-z_]+", " ".join(rest)):
      if not flag.startswith("--config"):
        assert flag in shown, f"{path}: {code}"


def test_modules_that_are_run_are_there():
  texts = [path.read_text(encoding="utf-8") for path in documents.DOCUMENTS]
  modules = {
    module
    for text in texts
    for module in re.findall(
      r"python -m\s+((?:tests|tfds_builders)[\w.]+)", text
    )
  }
  assert modules
  for module in modules:
    path = ROOT / pathlib.Path(*module.strip("`").split("."))
    if path.name == "NAME":
      continue
    assert path.with_suffix(".py").is_file(), module


def test_paths_that_are_named_are_there():
  for path, code in documents.inline():
    is_path = re.fullmatch(
      r"(clap_jax|configs|tests|tfds_builders|docs)/\S+", code
    )
    if is_path and not set("*{<[") & set(code) and "NAME" not in code:
      assert (ROOT / code.partition(":")[0]).exists(), f"{path}: {code}"


def test_configs_that_are_named_are_there():
  for path, code in documents.inline():
    if re.fullmatch(r"\w+\.py(:\S*)?", code):
      file = code.partition(":")[0]
      assert list(ROOT.glob(f"**/{file}")), f"{path}: {code}"


CONFIGS = sorted(
  f"configs/{path.name}"
  for path in (ROOT / "configs").glob("*.py")
  if path.stem != "__init__"
)


@functools.cache
def config_of(file):
  config = configs.load(file)
  if "trainer" in config:
    completing.complete(config, registry.config_class(config))
  return config.unlock()


def has_key(file, key):
  """Whether --config.KEY can be set on a config file."""
  config = config_of(file).copy_and_resolve_references()
  if "trainer" in config:
    completing.complete(config, registry.config_class(config), keys=[key])
  section = config
  for part in key.split("."):
    if not isinstance(section, ml_collections.ConfigDict) or (
      part not in section
    ):
      return False
    section = section[part]
  return True


def keys_in(codes):
  """Keys of configs that a paragraph names, with or without --config."""
  sections = {name for file in CONFIGS for name in config_of(file)}
  for code in codes:
    for word in code.split():
      flag = re.match(r"--config\.([\w.]+)", word)
      if flag and not flag[1].isupper():
        yield flag[1]
    bare = re.fullmatch(r"([a-z_]+)\.([a-z_.]+)(=.*)?", code)
    ending = bare and bare[2].rpartition(".")[2]
    if bare and bare[1] in sections and ending not in ("json", "csv", "py"):
      yield f"{bare[1]}.{bare[2]}"


def test_keys_in_the_text_are_keys_of_the_configs_that_it_names():
  checked = 0
  for document, codes in documents.paragraphs():
    if document == "CHANGELOG.md":  # it names what was renamed, too
      continue
    named = [
      f"configs/{name}"
      for code in codes
      for name in re.findall(r"(\w+\.py)\b", code)
      if f"configs/{name}" in CONFIGS
    ]
    for key in keys_in(codes):
      checked += 1
      assert any(has_key(file, key) for file in named or CONFIGS), (
        f"{document}: {key} is no key of {', '.join(named) or 'any config'}"
      )
  assert checked > 15


def test_a_key_that_no_config_has_is_found():
  assert list(keys_in(["--config.data.no_such_key=1", "loss.such=2", "a.py"]))
  assert not any(has_key(file, "data.no_such_key") for file in CONFIGS)


def test_every_command_is_in_the_table_of_commands():
  with (
    pytest.raises(SystemExit),
    contextlib.redirect_stdout(io.StringIO()) as out,
  ):
    main.parse(["--help"])
  commands = re.search(r"\{([\w,]+)\}", out.getvalue())[1].split(",")
  table = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
  missing = [name for name in commands if f"`clap {name}" not in table]
  assert not missing


_LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")


def anchor_of(heading):
  """The anchor that GitHub and MkDocs make of a heading without code."""
  kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
  return kept.strip().replace(" ", "-")


def test_links_lead_to_files_and_headings():
  checked = 0
  for path in documents.DOCUMENTS:
    text = documents.FENCE.sub("", path.read_text(encoding="utf-8"))
    for link in _LINK.findall(text):
      if link.startswith(("http:", "https:", "mailto:")):
        continue
      file, _, anchor = link.partition("#")
      target = (path.parent / file).resolve() if file else path
      assert target.exists(), f"{path.name}: {link}"
      if anchor:
        headings = re.findall(
          r"^#+ (.*)$",
          documents.FENCE.sub("", target.read_text(encoding="utf-8")),
          re.MULTILINE,
        )
        assert anchor in map(anchor_of, headings), f"{path.name}: {link}"
      checked += 1
  assert checked > 50


def test_the_readme_names_every_config():
  text = (ROOT / "README.md").read_text(encoding="utf-8")
  missing = [
    file for file in CONFIGS if f"`{pathlib.Path(file).name}`" not in text
  ]
  assert missing == ["configs/study_claim.py"]  # of `clap study`


def test_the_page_of_datasets_has_every_builder():
  text = (ROOT / "docs/datasets.md").read_text(encoding="utf-8")
  for name in (*names.ANNOTATED, *names.OWN, "motion_sprites"):
    assert f"[`{name}`](../tfds_builders/{name}/README.md)" in text


def test_the_page_of_evaluation_has_every_protocol():
  text = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
  listed = re.search(r"one or more\s+of\s+([\w,\s]+?)\s+--", help_of("score"))
  protocols = listed[1].replace(" ", "").replace("\n", "").split(",")
  assert len(protocols) > 20
  assert not [name for name in protocols if f"`{name}`" not in text]


def test_the_readme_is_short():
  text = (ROOT / "README.md").read_text(encoding="utf-8")
  assert len(text.splitlines()) <= 200


def test_caps_of_videos_are_in_the_security_policy():
  text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
  for field in dataclasses.fields(limits.VideoLimits):
    assert f"`--{field.name}`" in text


def test_messages_of_troubleshooting_are_messages_of_the_code():
  text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
  quoted = re.findall(r'^\| .*?"([^"]+)"', text, re.MULTILINE)
  sources = [(ROOT / "launch.sh").read_text(encoding="utf-8")]
  for folder in ("clap_jax", "tfds_builders"):
    for path in (ROOT / folder).rglob("*.py"):
      lines = path.read_text(encoding="utf-8")
      # A message may go on in a literal on the next line.
      sources.append(re.sub(r'"\s*\n\s*f?"', "", lines))
  assert len(quoted) > 5
  for message in quoted:
    assert any(message in source for source in sources), message
