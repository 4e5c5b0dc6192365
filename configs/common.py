"""What every config file shares: the parser of its argument."""


def parse_arg(arg: str, **defaults):
  """Parses "size,key=value,flag" into typed values.

  Args:
    arg: comma-separated; a first item without "=" sets the first default when
      that one is a string; a later bare item sets a boolean to True.
    **defaults: name -> default; the default's type is the value's type.

  Returns:
    A dict with every name of `defaults`.

  Raises:
    ValueError: for an unknown or repeated name or a value of the wrong type.
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


def update(config, table: dict, name: str, key: str) -> None:
  """Applies the row `key` of a table of "a.b" -> value overrides.

  A duration replaces its other spellings: "loop.steps" drops "loop.epochs".

  Raises:
    ValueError: if the table has no such row.
  """
  if key not in table:
    raise ValueError(f"Unknown {name} {key!r}; choose from {sorted(table)}.")
  for path, value in table[key].items():
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


_DURATION_UNITS = ("steps", "epochs", "percent")


def feature_data(size: str) -> dict:
  """The data section of both heads on motion_sprites."""
  return {
    "dataset": f"motion_sprites/{size}",
    "data_dir": "data",
    "features_dir": "features",  # what `clap extract` wrote
    "train_split": "train",
    "selection_split": "selection",
    "eval_split": "validation",
    "batch_size": 16,
    "max_length": 64,  # snippets
    "crop_probability": 0.3,  # of a random temporal crop in training
    "num_threads": 1,
  }


def pyramid() -> dict:
  """The trunk of both heads."""
  return {
    "width": 64,
    "num_levels": 4,
    "range_factor": 4.0,  # strides
    "block": "conv",  # conv | attention
    "num_stem_convs": 1,
    "num_stem_blocks": 1,
    "window_steps": 7,
    "num_heads": 4,
    "mlp_ratio": 2.0,  # hidden over outer width
    "dropout_rate": 0.1,
    "use_positions": False,
    "normalize_input": True,
  }


def point_loss() -> dict:
  """The loss over pyramid points of both heads."""
  return {
    "center_radius": 1.5,  # strides
    "focal_alpha": 0.25,
    "focal_gamma": 2.0,
    "label_smoothing": 0.0,
    "offset_similarity": "diou",  # iou | giou | diou
    "offset_weight": 1.0,
  }


def head_optimizer() -> dict:
  """AdamW for heads on frozen features."""
  return {
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "warmup_percent": 5.0,
    "gradient_clip": 1.0,  # global norm
    "ema_decay": 0.99,
  }


# Sizes of both heads; "demo" is what their files say.
HEAD_SIZES = {
  "tiny": {
    "pyramid.width": 16,
    "pyramid.num_heads": 2,
    "pyramid.num_levels": 2,
    "data.batch_size": 8,
    "data.max_length": 32,
    "loop.steps": 4,
  },
  "demo": {},
  "full": {
    "pyramid.width": 256,
    "pyramid.num_levels": 5,
    "data.batch_size": 64,
    "data.max_length": 128,
    "loop.steps": 10_000,
  },
}
