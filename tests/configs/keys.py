"""Sets keys of a locked config, as flags do."""

from clap_jax.commands import completing
from clap_jax.trainers import registry


def change(config, values: dict) -> None:
  """Sets "a.b" -> value, also keys that the config file leaves out."""
  completing.complete(config, registry.config_class(config), keys=values)
  config.update_from_flattened_dict(values)
