"""Hashes the code and config that a result depends on.

Artifacts with equal keys are the same artifact. A key covers the config, the
keys of the input artifacts, the versions of the computing libraries, and the
code: the syntax trees of a module and of all modules of this repository that
it imports, without comments and docstrings, and the tables beside these.
"""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import pathlib
from typing import Any

_ROOTS = ("clap_jax", "tfds_builders")
_TABLES = frozenset({".json", ".tsv", ".txt", ".yaml"})
_LIBRARIES = ("av", "flax", "jax", "jaxlib", "numpy", "optax", "sentencepiece")


def artifact_key(
  *, kind: str, config: Any, inputs: dict[str, str], modules: tuple[str, ...]
) -> str:
  """Returns the key of an artifact: 16 hexadecimal digits.

  Args:
    kind: kind of the artifact.
    config: its config as JSON values, without paths.
    inputs: role -> key of an input artifact.
    modules: names of the modules that make it.
  """
  document = {
    "kind": kind,
    "config": config,
    "inputs": inputs,
    "code": {name: code_hash(name) for name in modules},
    "libraries": libraries(),
  }
  text = json.dumps(document, sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def libraries() -> dict[str, str]:
  """Returns the versions of the libraries that numbers depend on."""
  return {name: importlib.metadata.version(name) for name in _LIBRARIES}


@functools.cache
def code_hash(module: str) -> str:
  """Hashes a module and all that it imports from this repository.

  Includes the tables in the modules' folders and in folders of tables below
  them, such as class splits.
  """
  digest = hashlib.sha256()
  folders = set()
  for name in sorted(_closure(module)):
    digest.update(f"{name}\n{_tree(name)}\n".encode())
    if (path := _path(name)) is not None:
      folders.add(path.parent)
  for path in sorted(path for folder in folders for path in _tables(folder)):
    digest.update(f"{path.name}\n".encode())
    digest.update(hashlib.sha256(path.read_bytes()).digest())
  return digest.hexdigest()


def _tables(folder: pathlib.Path) -> list[pathlib.Path]:
  """Lists the tables of a folder and of its subfolders without modules."""
  found = []
  for path in folder.iterdir():
    if path.is_dir() and not any(path.glob("*.py")):
      found += _tables(path)
    elif path.suffix in _TABLES:
      found.append(path)
  return found


def _closure(module: str) -> set[str]:
  found, waiting = set(), [module]
  while waiting:
    name = waiting.pop()
    if name not in found:
      found.add(name)
      waiting += _imports(name)
  return found


@functools.cache
def _path(module: str) -> pathlib.Path | None:
  """Returns the file of a module of this repository, or None.

  Finds it by its name: importing it could need optional packages.
  """
  root, *rest = module.split(".")
  spec = importlib.util.find_spec(root) if root in _ROOTS else None
  if spec is None or not spec.submodule_search_locations:
    return None
  base = pathlib.Path(spec.submodule_search_locations[0], *rest)
  for path in (base.with_suffix(".py"), base / "__init__.py"):
    if path.is_file():
      return path
  return None


@functools.cache
def _source(module: str) -> ast.Module:
  path = _path(module)
  if path is None:
    raise ModuleNotFoundError(f"this repository has no module {module!r}")
  return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _imports(module: str) -> tuple[str, ...]:
  """Lists the modules of this repository that a module imports anywhere."""
  names = []
  for node in ast.walk(_source(module)):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
      # `from package.module import name`: the name may be a module.
      names += [f"{node.module}.{alias.name}" for alias in node.names]
      names.append(node.module)
  return tuple(name for name in names if _path(name))


@functools.cache
def _tree(module: str) -> str:
  """Dumps the syntax of a module without positions, comments, docstrings."""
  # Parsed again, so that the cached tree is not changed.
  tree = ast.parse(ast.unparse(_source(module)))
  documented = (
    ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
  )  # fmt: skip
  for node in ast.walk(tree):
    if isinstance(node, documented) and ast.get_docstring(node) is not None:
      node.body = node.body[1:]
  return ast.dump(tree)
