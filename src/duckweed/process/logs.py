"""Where log messages go: nowhere, unless the environment says DUCKWEED_LOG=debug, info or warning."""

import logging
import os

VARIABLE = "DUCKWEED_LOG"
LEVELS = ("debug", "info", "warning")


def configure() -> None:
    """Write log messages to standard error, which is the log file of a process that `duckweed train` or
    `serve` has started. Raises ValueError if the variable says something else."""
    level = os.environ.get(VARIABLE, "").lower()
    if not level:
        return
    if level not in LEVELS:
        raise ValueError(f"{VARIABLE} is {level!r}; it must be one of {', '.join(LEVELS)}")
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    logging.getLogger("duckweed").setLevel(level.upper())
