"""Collects all problems of a file."""

from typing import NoReturn

from clap_jax.storage.locations import PathLike

_MAX_PROBLEMS = 1000  # of a file; with millions, listing them takes all memory


class MalformedFileError(ValueError):
  """Raised for an unusable file, none of which has been used.

  Attributes:
    path: the file.
    problems: every problem as "location: got; expected", or the first of very
      many.
  """

  def __init__(self, path: PathLike, problems: list[str]):
    self.path = str(path)
    self.problems = list(problems)
    noun = "problem" if len(problems) == 1 else "problems"
    if len(problems) >= _MAX_PROBLEMS:
      noun += " (the rest was not read)"
    super().__init__(
      "\n  ".join(
        [f"{path}: {len(problems)} {noun}, nothing was read", *problems]
      )
    )


class ProblemLog:
  """A log of problems while a file is read."""

  def __init__(self, path: PathLike):
    self.path = path
    self.problems: list[str] = []

  @property
  def is_full(self) -> bool:
    return len(self.problems) >= _MAX_PROBLEMS

  def add(self, location: str, message: str) -> None:
    """Adds a problem.

    Raises:
      MalformedFileError: the maximum number of problems is reached.
    """
    self.problems.append(f"{location}: {message}" if location else message)
    if self.is_full:
      self.raise_if_any()

  def fail(self, location: str, message: str) -> NoReturn:
    """Adds a fatal problem and raises.

    Raises:
      MalformedFileError: always, with all problems added so far.
    """
    self.add(location, message)
    raise MalformedFileError(self.path, self.problems)

  def raise_if_any(self) -> None:
    """Raises if there are problems, at the end of a file.

    Raises:
      MalformedFileError: there are problems.
    """
    if self.problems:
      raise MalformedFileError(self.path, self.problems)
