"""Everything wrong with a file, listed at once."""

import pathlib


class MalformedFileError(ValueError):
  """A file cannot be scored; nothing of it was.

  Attributes:
    path: the file.
    problems: every problem as "location: what was got; what was expected".
  """

  def __init__(self, path: pathlib.Path | str, problems: list[str]):
    self.path = str(path)
    self.problems = list(problems)
    noun = "problem" if len(problems) == 1 else "problems"
    super().__init__(
      "\n  ".join(
        [f"{path}: {len(problems)} {noun}, nothing was scored", *problems]
      )
    )


class ProblemLog:
  """Collects problems while a file is read."""

  def __init__(self, path: pathlib.Path | str):
    self.path = path
    self.problems: list[str] = []

  def add(self, location: str, message: str) -> None:
    self.problems.append(f"{location}: {message}" if location else message)

  def raise_if_any(self) -> None:
    """Ends the reading of a file.

    Raises:
      MalformedFileError: something was added.
    """
    if self.problems:
      raise MalformedFileError(self.path, self.problems)
