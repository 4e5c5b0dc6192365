"""What every benchmark does in the same way: arguments, rows, machine, JSON.

A benchmark is a function `measure(*, quick, ...)` that returns rows, and

  if __name__ == "__main__":
    running.main(measure, __doc__)
"""

import argparse
import json
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Mapping
from typing import Any

# Packages whose version matters for a figure, of those a benchmark has loaded.
_PACKAGES = ("numpy", "jax", "torch", "av", "pandas", "open_clip")


def row(
  name: str,
  value: float | None,
  unit: str,
  *,
  at_most: float | None = None,
  at_least: float | None = None,
  note: str | None = None,
) -> dict[str, Any]:
  """One figure; `ok` says whether its goal is met, None where it has none.

  Args:
    name: of what was measured.
    value: None for what could not be; `note` then says why.
    unit: of the value.
    at_most: the goal, if less is better.
    at_least: the goal, if more is better; not together with `at_most`.
    note: in a few words.
  """
  assert at_most is None or at_least is None, name
  goal = at_least if at_most is None else at_most
  made = {"name": name, "value": value, "unit": unit, "goal": goal, "ok": None}
  if goal is not None:
    made["sense"] = "<=" if at_most is not None else ">="
    if value is not None:
      made["ok"] = bool(value <= goal if at_most is not None else value >= goal)
  return made | ({"note": note} if note else {})


def main(
  measure: Callable[..., list[dict]],
  doc: str,
  *,
  options: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
  """Reads the command line, measures, prints, writes the JSON document.

  Args:
    measure: called with `quick` and every further option by name.
    doc: of the module; its first line describes the command.
    options: further flags, name -> arguments of `add_argument`.
  """
  parser = argparse.ArgumentParser(description=doc.splitlines()[0])
  parser.add_argument("--quick", action="store_true", help="small and short")
  parser.add_argument("--json", type=pathlib.Path, required=True)
  for name, keywords in (options or {}).items():
    parser.add_argument(f"--{name}", **keywords)
  arguments = vars(parser.parse_args())
  out = arguments.pop("json")
  load_before = os.getloadavg()
  rows = measure(**arguments)
  print_table(rows)
  document = {"rows": rows, "machine": machine(load_before)}
  out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def print_table(rows: list[dict]) -> None:
  """One line per row: value, unit, goal and whether it is met."""
  width = max(len(made["name"]) for made in rows)
  for made in rows:
    value = "-" if made["value"] is None else f"{made['value']:.4g}"
    goal = f"{made['sense']} {made['goal']}" if "sense" in made else ""
    verdict = {True: "ok", False: "MISSED", None: ""}[made["ok"]]
    line = f"{made['name']:<{width}} {value:>9} {made['unit']:<12}"
    note = made.get("note", "")[:80]
    print(f"{line} {goal:<8} {verdict:<6} {note}".rstrip())


def machine(load_before: tuple[float, ...]) -> dict[str, Any]:
  """What the figures were measured on and beside."""
  found: dict[str, Any] = {
    "platform": platform.platform(),
    "python": platform.python_version(),
    "cpus": os.cpu_count(),
    "load_before": load_before,
    "load_after": os.getloadavg(),
  }
  for name in _PACKAGES:
    if name in sys.modules:
      found[name] = getattr(sys.modules[name], "__version__", "unknown")
  if "jax" in sys.modules:
    found["devices"] = [str(device) for device in sys.modules["jax"].devices()]
  return found
