"""Where log messages go: nowhere, unless the environment says DUCKWEED_LOG=debug, info or warning."""

import logging
import os

from duckweed.run.checked import plain

VARIABLE = "DUCKWEED_LOG"
LEVELS = ("debug", "info", "warning")


class OneLine(logging.Formatter):
    """A message is one line, whoever's words are in it; only the traceback of an error has more."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return plain(super().formatMessage(record))


def configure() -> None:
    """Write log messages to standard error, which is the log file of a process that `duckweed train` or
    `serve` has started. Raises ValueError if the variable says something else."""
    level = os.environ.get(VARIABLE, "").lower()
    if not level:
        return
    if level not in LEVELS:
        raise ValueError(f"{VARIABLE} is {level!r}; it must be one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("duckweed").setLevel(level.upper())
