"""Who may import whom, and what no code here may call; read from the AST."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = "clap_jax"
CHECKED_FOLDERS = (PACKAGE, "configs", "tfds_builders")

# Layer -> layers it may import besides itself. A layer is a folder or a module
# directly below the package.
# `storage` opens and writes every file, `media` decodes every video and
# `annotations` has the one parser of each annotation format; they run without
# jax and serve every layer.
_FILES = {"storage", "media", "annotations"}
_ENGINE = {"types", "ops", "losses", "models", "metrics", "data", "config"}
_APPLIED = {*_ENGINE, *_FILES, "training", "evaluation"}
LAYERS = {
  "storage": set(),
  "media": {"storage"},
  "types": set(),
  "ops": {"types"},
  "losses": {"types", "ops"},
  "models": {"types", "ops"},
  "annotations": {"storage"},
  "metrics": {"types", "storage", "annotations"},
  # Fetches weights of others and gives names for them; runs without jax.
  "public_weights": {"storage"},
  "config": {"types", "storage"},
  # Readers check their options and describe the data in evaluation cards.
  "data": {"types", "config", "metrics", *_FILES},
  # The engine takes its own settings as dataclasses of config.py, so that they
  # are checked with all others; it knows no model, loss, metric or dataset.
  "training": {"types", "config", "storage"},
  # Metrics of models on datasets; trains nothing.
  "evaluation": {*_ENGINE, *_FILES, "training", "public_weights"},
  "trainers": {*_APPLIED, "inference", "public_weights"},
  "inference": {*_APPLIED, "trainers", "report", "public_weights"},
  # Others' weights in, our weights out; both know the towers by name.
  "interchange": {*_APPLIED, "trainers", "inference", "public_weights"},
  "report": {"types", "metrics", "storage"},
  # The command line: all steps one after the other, the flags.
  "console": set(),
  # Comparisons over rows, seeds, datasets and settings, as kept artifacts.
  "studies": {
    *_APPLIED,
    "trainers",
    "inference",
    "report",
    "console",
  },
  "serving": {*_APPLIED, "inference", "report"},
  # The Python interface, which the package itself hands out.
  "api": {*_APPLIED, "inference", "report"},
  "commands": {
    *_APPLIED,
    "trainers",
    "inference",
    "interchange",
    "report",
    "serving",
    "console",
    "studies",
    "public_weights",
  },
  "main": {
    "commands",
    "console",
    "training",
    "trainers",
    "storage",
    "public_weights",
  },
}

# Third-party module -> the only places that may import it.
FENCES = {
  "flax": ("clap_jax/models/", "clap_jax/training/sharding.py"),
  "tensorflow": (),
  "orbax": (
    "clap_jax/training/checkpoint.py",
    "clap_jax/training/pretrained.py",
  ),
  "ml_collections": (
    "clap_jax/commands/completing.py",
    "clap_jax/commands/configs.py",
    "clap_jax/config.py",
    "configs/",
  ),
  "absl.flags": ("clap_jax/commands/configs.py",),
  "fsspec": ("clap_jax/storage/",),
  "gcsfs": ("clap_jax/storage/",),
  "s3fs": ("clap_jax/storage/",),
  "tensorstore": ("clap_jax/storage/",),
}

# Place -> modules that must not be imported there.
BANS = {
  "clap_jax/types.py": ("jax", "jaxlib"),
  "clap_jax/annotations/": ("jax", "jaxlib", "flax", "optax"),
  "clap_jax/metrics/": ("jax", "jaxlib", "flax", "optax"),
  "clap_jax/report/": ("jax", "jaxlib", "flax", "optax"),
  "clap_jax/ops/": ("flax", "optax", "ml_collections"),
  "clap_jax/storage/": ("jax", "jaxlib", "flax", "optax"),
  "clap_jax/media/": ("jax", "jaxlib", "flax", "optax"),
  "clap_jax/public_weights/": ("jax", "jaxlib", "flax", "optax"),
  "tfds_builders/": ("jax", "jaxlib", "flax", "optax"),
  "configs/": (PACKAGE, "jax", "tfds_builders"),
}
# What builders may import of the package; both run where jax is absent.
BUILDERS_MAY_IMPORT = (
  "clap_jax.annotations",
  "clap_jax.storage",
  "clap_jax.media",
)
CONFIGS_MAY_IMPORT = ("ml_collections", "configs.parts")

UNSAFE_MODULES = (
  "pickle",
  "cPickle",
  "dill",
  "cloudpickle",
  "joblib",
  "shelve",
  "marshal",
)
UNSAFE_CALLS = (
  "eval",
  "exec",
  "__import__",
  "os.system",
  "os.popen",
  "yaml.load",
  "yaml.unsafe_load",
  "yaml.full_load",
  "torch.load",
  "builtins.eval",
  "builtins.exec",
  "os.spawnl",
  "os.spawnlp",
  "subprocess.getoutput",
  "subprocess.getstatusoutput",
  "runpy.run_path",
  "runpy.run_module",
  "code.interact",
  "numpy.lib.format.read_array",
  "pandas.read_pickle",
  "pd.read_pickle",
  "shutil.unpack_archive",
)
UNSAFE_KEYWORDS = ("allow_pickle", "shell")
# Ways to files past clap_jax/storage.
FILE_CALLS = (
  "open",
  "io.open",
  "os.open",
  "os.replace",
  "os.rename",
  "shutil.copy",
  "shutil.copyfile",
  "shutil.move",
  "json.load",
  "json.dump",
  "np.load",
  "np.loadtxt",
  "np.genfromtxt",
  "np.memmap",
  "np.save",
  "np.savez",
  "np.savez_compressed",
  "h5py.File",
  "zipfile.ZipFile",
)
FILE_METHODS = ("read_text", "read_bytes", "write_text", "write_bytes")
# Modules with functions of these names that do go through storage.
FILE_MODULES = ("output", "untrusted", "text_tables", "documents")
# Place -> why it may use them.
FILE_WAYS_ALLOWED = {
  "clap_jax/storage/": "it is the way",
  "clap_jax/data/class_splits.py": "lists that the package brings",
  "clap_jax/data/feature_tables.py": "rows of a text that storage read",
  "clap_jax/data/hdf5.py": "a file that storage opened",
  "clap_jax/report/page.py": "a style and a script that the package brings",
  "clap_jax/report/player.py": "a page that the package brings",
  "clap_jax/serving/app.py": "a page that the package brings",
  "clap_jax/serving/private_folder.py": "a folder of its own, without links",
  "clap_jax/studies/fingerprints.py": "sources of the package",
  "tfds_builders/build.py": "checksums that the package brings",
  "tfds_builders/encoding.py": "PyAV's muxer writes a path; random name",
  "tfds_builders/finishing.py": "moves a whole folder",
  "tfds_builders/video_builder.py": "texts that the package brings",
}
DRAWERS = ("utils", "util", "helpers", "helper", "common", "misc")


def source_files() -> list[pathlib.PurePosixPath]:
  return [
    pathlib.PurePosixPath(path.relative_to(REPOSITORY))
    for folder in CHECKED_FOLDERS
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
  ]


def tree_of(path: pathlib.PurePosixPath) -> ast.Module:
  return ast.parse((REPOSITORY / path).read_text(encoding="utf-8"), str(path))


def module_name(path: pathlib.PurePosixPath) -> str:
  parts = path.with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module) -> Iterator[str]:
  """Every imported name, `from a import b` as "a.b"; anywhere in the file."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      if node.level:
        yield f"<relative import, line {node.lineno}>"
      else:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, module: str) -> bool:
  return name == module or name.startswith(f"{module}.")


def at(path: pathlib.PurePosixPath, places: tuple[str, ...]) -> bool:
  text = str(path)
  return any(
    text.startswith(place) if place.endswith("/") else text == place
    for place in places
  )


def layer_problems(path: pathlib.PurePosixPath, tree: ast.Module) -> list[str]:
  """Imports of the package that go against the layers."""
  if path.parts[0] != PACKAGE or path.parts[1] == "__init__.py":
    return []
  layer = path.parts[1].removesuffix(".py")
  if layer not in LAYERS:
    return [f"{path}: {layer!r} is no layer; add it to LAYERS with a reason"]
  problems = []
  for name in imports(tree):
    if name.startswith("<"):
      problems.append(f"{path}: {name}; write the full name")
    elif is_within(name, PACKAGE):
      target = name.split(".")[1] if "." in name else ""
      if target not in LAYERS[layer] | {layer}:
        problems.append(f"{path}: {layer} must not import {name}")
  return problems


def fence_problems(path: pathlib.PurePosixPath, tree: ast.Module) -> list[str]:
  """Imports of third parties where they do not belong."""
  problems = []
  for name in imports(tree):
    for module, places in FENCES.items():
      if is_within(name, module) and not at(path, places):
        problems.append(f"{path}: imports {name}, which belongs in {places}")
    for place, modules in BANS.items():
      if at(path, (place,)) and any(is_within(name, m) for m in modules):
        problems.append(f"{path}: must not import {name}")
    if (
      path.parts[0] == "tfds_builders"
      and is_within(name, PACKAGE)
      and not any(is_within(name, m) for m in BUILDERS_MAY_IMPORT)
    ):
      problems.append(f"{path}: must not import {name}")
    problems += [
      f"{path}: imports the unsafe {name}"
      for module in (*UNSAFE_MODULES, *UNSAFE_CALLS)
      if is_within(name, module)
    ]
  return problems


def dotted(node: ast.expr) -> str:
  """ "a.b.c" of a name or of attributes of a name, else ""."""
  if isinstance(node, ast.Name):
    return node.id
  if isinstance(node, ast.Attribute):
    base = dotted(node.value)
    return f"{base}.{node.attr}" if base else ""
  return ""


def call_problems(path: pathlib.PurePosixPath, tree: ast.Module) -> list[str]:
  """Calls that run foreign code, and squeezes without an axis."""
  problems = []
  for node in ast.walk(tree):
    if not isinstance(node, ast.Call):
      continue
    where = f"{path}:{node.lineno}"
    if dotted(node.func) in UNSAFE_CALLS:
      problems.append(f"{where}: calls {dotted(node.func)}")
    for keyword in node.keywords:
      harmless = isinstance(keyword.value, ast.Constant) and not (
        keyword.value.value
      )
      if keyword.arg in UNSAFE_KEYWORDS and not harmless:
        problems.append(f"{where}: {keyword.arg} other than False")
    if (
      isinstance(node.func, ast.Attribute)
      and node.func.attr
      in (
        "extract",
        "extractall",
      )
      and "tar" in dotted(node.func.value).lower()
      and not any(keyword.arg == "filter" for keyword in node.keywords)
    ):
      problems.append(f"{where}: unpacks a tar file without a filter")
    if isinstance(node.func, ast.Attribute) and node.func.attr == "squeeze":
      is_module = dotted(node.func.value) in ("np", "jnp", "numpy")
      if not node.keywords and len(node.args) < 1 + is_module:
        problems.append(f"{where}: squeeze without an axis")
  return problems


def file_problems(path: pathlib.PurePosixPath, tree: ast.Module) -> list[str]:
  """Files opened or written past clap_jax/storage."""
  if path.parts[0] == "configs" or at(path, tuple(FILE_WAYS_ALLOWED)):
    return []
  problems = []
  for node in ast.walk(tree):
    if not isinstance(node, ast.Call):
      continue
    name = dotted(node.func)
    method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    base = dotted(node.func.value) if method else ""
    opens_path = method == "open" and (
      not node.args or isinstance(node.args[0], ast.Constant)
    )
    if (
      name in FILE_CALLS
      or (method in FILE_METHODS and base not in FILE_MODULES)
      or opens_path
    ):
      problems.append(
        f"{path}:{node.lineno}: {name or method}; open received files with "
        "storage.untrusted or storage.arrays, write with storage.output"
      )
  return problems


CHECKS = (layer_problems, fence_problems, call_problems, file_problems)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_sources(check):
  problems = [p for path in source_files() for p in check(path, tree_of(path))]
  assert not problems, "\n".join(problems)


def test_configs_import_little():
  problems = [
    f"{path}: imports {name}"
    for path in source_files()
    if path.parts[0] == "configs"
    for name in imports(tree_of(path))
    if not any(is_within(name, m) for m in CONFIGS_MAY_IMPORT)
    and name.split(".")[0]
    not in ("dataclasses", "itertools", "math", "random", "typing")
    and not name.startswith("collections.abc")
  ]
  assert not problems, "\n".join(problems)


# It hands the Python interface out, and must load nothing before that.
FULL_INIT = pathlib.PurePosixPath(PACKAGE, "__init__.py")


def test_init_files_are_empty():
  full = [
    str(path)
    for path in source_files()
    if path.name == "__init__.py" and (REPOSITORY / path).read_text().strip()
  ]
  assert full == [str(FULL_INIT)]


def test_the_package_itself_imports_the_standard_library_alone():
  body = tree_of(FULL_INIT).body
  loaded = {
    name.partition(".")[0]
    for node in body
    if isinstance(node, ast.Import | ast.ImportFrom)
    for name in imports(ast.Module([node], []))
  }
  assert loaded == {"importlib", "typing"}


def test_one_level_of_packages_and_no_drawers():
  problems = [
    str(path)
    for path in source_files()
    if path.parts[0] == PACKAGE
    and (len(path.parts) > 3 or path.stem in DRAWERS)
  ]
  assert not problems


def import_graph() -> dict[str, set[str]]:
  """Module -> modules of this repository that it imports."""
  modules = {module_name(path): path for path in source_files()}
  graph = {}
  for module, path in modules.items():
    graph[module] = set()
    for name in imports(tree_of(path)):
      # `from package.module import thing` names the module or the thing.
      for candidate in (name, name.rpartition(".")[0]):
        if candidate in modules and candidate != module:
          graph[module].add(candidate)
          break
  return graph


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
  """The modules of one cycle, or nothing."""
  done: set[str] = set()

  def visit(module, trail):
    if module in trail:
      return [*trail[trail.index(module) :], module]
    if module in done:
      return []
    for target in sorted(graph.get(module, ())):
      if cycle := visit(target, [*trail, module]):
        return cycle
    done.add(module)
    return []

  for module in sorted(graph):
    if cycle := visit(module, []):
      return cycle
  return []


def test_no_import_cycles():
  assert not find_cycle(import_graph())


@pytest.mark.parametrize(
  ("path", "source"),
  [
    ("clap_jax/training/x.py", "from clap_jax.models import layers"),
    ("clap_jax/ops/x.py", "def f():\n  import clap_jax.losses.contrastive"),
    ("clap_jax/metrics/x.py", "import jax.numpy as jnp"),
    ("clap_jax/losses/x.py", "from . import y"),
    ("clap_jax/novel/x.py", ""),
    ("clap_jax/novel.py", ""),
    ("clap_jax/data/x.py", "from absl import flags"),
    ("clap_jax/trainers/x.py", "import flax.linen as nn"),
    ("clap_jax/training/loop.py", "import orbax.checkpoint as ocp"),
    ("clap_jax/training/step.py", "from ml_collections import ConfigDict"),
    ("configs/x.py", "from clap_jax import types"),
    ("tfds_builders/x/y.py", "from clap_jax import types"),
    ("clap_jax/data/x.py", "import pickle"),
    ("clap_jax/data/x.py", "eval(text)"),
    ("clap_jax/data/x.py", "np.load(path, allow_pickle=True)"),
    ("clap_jax/data/x.py", "subprocess.run(line, shell=flag)"),
    ("clap_jax/data/x.py", "os.system(line)"),
    ("clap_jax/data/x.py", "from os import system"),
    ("clap_jax/data/x.py", "from subprocess import getoutput as run"),
    ("clap_jax/data/x.py", "def f():\n  from pickle import loads"),
    ("clap_jax/data/x.py", "np.load(path, allow_pickle=flag)"),
    ("clap_jax/data/x.py", "tar.extractall(folder)"),
    ("tfds_builders/x.py", "import marshal"),
    ("clap_jax/data/x.py", "yaml.load(text)"),
    ("clap_jax/data/x.py", "np.squeeze(x)"),
    ("clap_jax/data/x.py", "x.squeeze()"),
    ("clap_jax/data/x.py", "open(path, 'w')"),
    ("clap_jax/data/x.py", "with path.open('wb') as file:\n  pass"),
    ("clap_jax/data/x.py", "path.open()"),
    ("clap_jax/data/x.py", "pathlib.Path(path).write_text(text)"),
    ("clap_jax/data/x.py", "path.read_bytes()"),
    ("clap_jax/data/x.py", "os.replace(partial, path)"),
    ("clap_jax/data/x.py", "np.load(path)"),
    ("tfds_builders/x.py", "np.save(path, array)"),
  ],
)
def test_the_checks_find(path, source):
  path, tree = pathlib.PurePosixPath(path), ast.parse(source)
  assert [problem for check in CHECKS for problem in check(path, tree)]


@pytest.mark.parametrize(
  ("path", "source"),
  [
    ("clap_jax/trainers/x.py", "from clap_jax.training import fit"),
    ("clap_jax/models/x.py", "import flax.linen as nn"),
    ("clap_jax/config.py", "import ml_collections"),
    ("clap_jax/storage/x.py", "np.load(path, allow_pickle=False)"),
    ("clap_jax/data/x.py", "untrusted.read_text(path)"),
    ("clap_jax/data/x.py", "output.write_text(path, text)"),
    ("clap_jax/data/x.py", "av.open(file)"),
    ("clap_jax/data/x.py", "model.eval(); np.squeeze(x, 0); x.squeeze(axis=1)"),
    ("clap_jax/metrics/x.py", "import jaxtyping"),
  ],
)
def test_the_checks_leave_alone(path, source):
  path, tree = pathlib.PurePosixPath(path), ast.parse(source)
  assert not [problem for check in CHECKS for problem in check(path, tree)]


def test_cycles_are_found():
  graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}}
  assert find_cycle(graph) == ["b", "c", "b"]
  assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
