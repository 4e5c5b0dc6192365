"""Finds moments in long videos: data, training, evaluation and prediction.

Exit codes: 0 success, 2 bad input or usage, 3 a failed run.
"""

import argparse
import errno
import os
import sys
import traceback

# The log of compiled libraries would bury our messages.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from etils import epy

from clap_jax import console
from clap_jax.commands import (
  addresses,
  applying,
  building,
  converting,
  getting,
  overrides,
  reporting,
  running,
  searching,
  studying,
  weights,
)
from clap_jax.public_weights import cache, download
from clap_jax.storage import locations, metadata, objects, output

# Imported on first use, so that --help and usage errors do not wait for JAX.
with epy.lazy_imports():
  from clap_jax.training import checkpoint, fit, preemption, processes, workdir

# Errors of the user's input: exit code 2 and a message, no traceback.
_BAD_INPUT = (
  ValueError,
  FileNotFoundError,
  FileExistsError,
  IsADirectoryError,
  NotADirectoryError,
  PermissionError,
)

# Codes of other OSErrors that are bad input: a loop of links, a socket.
_BAD_PATHS = frozenset(
  {errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.EROFS}
)

# Commands that take --config.KEY=VALUE.
_CONFIGURED = ("train", "sweep", "compile", "study", "eval")


def parse(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(prog="clap", description=__doc__)
  commands = parser.add_subparsers(dest="command", required=True)
  for add in (
    building.add_build,
    building.add_data,
    building.add_tokenizer,
    converting.add_convert,
    getting.add_get,
    weights.add_import,
    running.add_train,
    running.add_sweep,
    running.add_compile,
    applying.add_extract,
    applying.add_texts,
    weights.add_export,
    running.add_eval,
    applying.add_predict,
    searching.add_index,
    searching.add_search,
    searching.add_serve,
    reporting.add_score,
    reporting.add_report,
    reporting.add_demo,
    studying.add_study,
  ):
    add(commands)
  for command in commands.choices.values():
    command.add_argument("--json", help="write the result to this file as JSON")
  args, rest = parser.parse_known_args(overrides.joined(argv))
  wrong = [item for item in rest if not item.startswith("--config.")]
  if args.command not in _CONFIGURED:
    wrong = rest
  if wrong:
    parser.error(f"unknown arguments: {' '.join(wrong)}")
  args.overrides = rest
  return args


def main(argv: list[str] | None = None) -> int:
  args = parse(sys.argv[1:] if argv is None else argv)
  try:
    addresses.check(args)
    _find_model(args)
    for name in ("json", "html"):  # checked before the work, not after it
      if getattr(args, name, None):
        _check_writable(getattr(args, name), f"--{name}")
    document = args.run(args)
    code = _exit_code(args.command, document)
    if args.json and (_is_alone() or processes.is_first()):
      output.write_json(args.json, metadata.without_nan(document))
    # Results are saved before anything is printed or exported.
    if "show" in args:
      code = max(code, args.show(args, document) or 0)
    if document.get("failed") and code == 2:
      print(
        f"clap {args.command}: no video could be used; the reasons are above.",
        file=sys.stderr,
      )
    if not _is_alone():
      processes.finish()
    return code
  except (*_BAD_INPUT, download.DownloadError) as error:
    return _fail(args, error, 2 if isinstance(error, _BAD_INPUT) else 3)
  except preemption.Preempted as preempted:
    if preempted.step is None:  # not printed yet
      processes.print_on_first(str(preempted))
    processes.finish()
    raise
  except workdir.WorkdirBusyError as error:
    return _fail(args, error, 2)
  except (
    checkpoint.SaveError,
    fit.RunFailedError,
    objects.ObjectStorageError,
  ) as error:
    return _fail(args, error, 3)  # a traceback would bury the message
  except Exception as error:
    return _fail_unexpectedly(args, error)


def _exit_code(command: str, document: dict) -> int:
  """Returns the exit code of a finished command; removes its keys."""
  failed_runs = document.pop("failed_runs", 0)
  all_failed = document.pop("all_failed", False)
  # The dataset is the bad input of `clap data`, which printed its problems.
  if all_failed or (command == "data" and document.get("problems")):
    return 2
  return 3 if failed_runs else 0


def _is_alone() -> bool:
  """Returns True if nothing has imported the module for many processes."""
  return "clap_jax.training.processes" not in sys.modules


def _fail(args, error: Exception, code: int) -> int:
  message = _describe(error)
  print(console.printable(f"clap {args.command}: {message}"), file=sys.stderr)
  return code if _is_alone() else processes.fail(code, message)


def _describe(error: Exception) -> str:
  """Returns the message of an error; "PATH: reason" for an OSError."""
  if not isinstance(error, OSError) or error.filename is None:
    return str(error)
  names = [error.filename, error.filename2]
  path = " -> ".join(os.fsdecode(n) for n in names if n is not None)
  return f"{path}: {error.strerror}"


def _fail_unexpectedly(args, error: Exception) -> int:
  if isinstance(error, OSError) and error.errno in _BAD_PATHS:
    return _fail(args, error, 2)
  traceback.print_exc()
  return processes.fail(3, f"{type(error).__name__}: {error}")


def _find_model(args) -> None:
  """Replaces --model NAME by its directory.

  A missing model fails here, before seconds of imports.
  """
  model = getattr(args, "model", None)
  if model and not locations.is_object(model):
    args.model = str(cache.existing_directory_of(model))


def _check_writable(path: str, flag: str) -> None:
  try:
    output.check_writable(path)
  except output.OutputError as error:
    raise ValueError(f"{flag}: {error}") from error


if __name__ == "__main__":
  sys.exit(main())
