"""Joins config flags and their values, without heavy imports."""

_PREFIX = "--config."


def joined(arguments: list[str]) -> list[str]:
  """Writes "--config.KEY VALUE" as "--config.KEY=VALUE".

  A flag followed by another flag, or by nothing, stays without a value;
  `commands.configs` raises an error with the key's name.
  """
  result: list[str] = []
  waiting = False  # True if the last flag lacks its value
  for argument in arguments:
    if waiting and not argument.startswith("--"):
      result[-1] += f"={argument}"
      waiting = False
    else:
      result.append(argument)
      waiting = argument.startswith(_PREFIX) and "=" not in argument
  return result
