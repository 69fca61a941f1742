"""Which of the processes of a site this one is. Needs no PyTorch."""

import os
from typing import NamedTuple

LOST = (
    75  # exit code of a rank that ends because another one is gone: the site may be started again
)


class SiteError(ValueError):
    """The processes of a site do not go together; the message says which, and what to do."""


class Place(NamedTuple):
    """Which of the processes of a site this one is, as torchrun says it."""

    rank: int
    size: int
    local: int
    """Its number among those on its machine."""
    beside: int
    """How many of them are on its machine."""

    @staticmethod
    def here() -> "Place | None":
        """Of this process; None: it is none of several. Raises SiteError."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
            return None
        try:
            return Place(*(int(os.environ[name]) for name in names))
        except (KeyError, ValueError):
            raise SiteError(
                f"{', '.join(names)} must be numbers in the environment of each process of a site; start them with "
                "torchrun, or with duckweed join --processes"
            ) from None
