"""The terminal that the commands print to."""

import rich.console

console = rich.console.Console(stderr=True)
