"""Parses the argument of a config file and applies its overrides."""


def parse_arg(arg: str, **defaults):
  """Parses "size,key=value,flag" into typed values.

  Args:
    arg: comma-separated items; a first item without "=" sets the first default
      if that is a string; a later item without "=" sets a boolean to True.
    **defaults: name -> default, whose type is the value's type.

  Returns:
    A dict with every name of `defaults`.

  Raises:
    ValueError: a name is unknown or repeated, or a value has the wrong type.
  """
  values, given = dict(defaults), set()
  first = next(iter(defaults), None)
  for position, item in enumerate(filter(None, arg.split(","))):
    name, equals, text = item.partition("=")
    if not equals:
      takes_bare = position == 0 and isinstance(defaults.get(first), str)
      if takes_bare and name not in defaults:
        name, text = first, name
      else:
        text = "True"
    if name not in defaults:
      raise ValueError(
        f"Unknown config argument {name!r}; choose from {sorted(defaults)}."
      )
    if name in given:
      raise ValueError(f"Config argument {name!r} is given twice in {arg!r}.")
    given.add(name)
    values[name] = _typed(name, text, type(defaults[name]))
  return values


def _typed(name: str, text: str, kind: type):
  if kind is bool:
    if text not in ("True", "False"):
      raise ValueError(f"{name} must be True or False, got {text!r}.")
    return text == "True"
  try:
    return kind(text)
  except ValueError:
    raise ValueError(
      f"{name} must be of type {kind.__name__}, got {text!r}."
    ) from None


_DURATION_UNITS = ("steps", "epochs", "percent")


def update(config, table: dict, name: str, key: str) -> None:
  """Applies the row `key` of a table of overrides.

  Raises:
    ValueError: the table has no such row.
  """
  if key not in table:
    raise ValueError(f"Unknown {name} {key!r}; choose from {sorted(table)}.")
  override(config, table[key])


def override(config, values: dict) -> None:
  """Sets "a.b" -> value.

  A duration replaces its other units: "loop.steps" drops "loop.epochs".
  """
  for path, value in values.items():
    section, _, last = path.rpartition(".")
    target = config
    for part in filter(None, section.split(".")):
      target = target[part]
    stem, underscore, unit = last.rpartition("_")
    if unit in _DURATION_UNITS:
      for other in _DURATION_UNITS:
        if f"{stem}{underscore}{other}" in target:
          del target[f"{stem}{underscore}{other}"]
    target[last] = value
