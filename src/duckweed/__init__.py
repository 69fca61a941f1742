"""duckweed: train one language model together on many computers, scattered over the internet.

What the commands do, from Python (docs/library.md):

    import duckweed

    training = duckweed.simulate({"rounds.count": 5})
    for closed in training:
        print(closed.round, closed.loss)
    print(training.run.generate("def "))
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duckweed.family.library import Family as Family
    from duckweed.family.library import FamilyTraining as FamilyTraining
    from duckweed.family.library import open_family as open_family
    from duckweed.family.library import simulate_family as simulate_family
    from duckweed.family.library import train_family as train_family
    from duckweed.library import Run as Run
    from duckweed.library import Training as Training
    from duckweed.library import join as join
    from duckweed.library import open as open
    from duckweed.library import simulate as simulate
    from duckweed.library import specification as specification
    from duckweed.library import train as train

__version__ = "0.1.0"

# A library stays silent: without a handler Python prints warnings on its own.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_RUNS = ("Run", "Training", "join", "open", "simulate", "specification", "train")
_FAMILIES = ("Family", "FamilyTraining", "open_family", "simulate_family", "train_family")
_LIBRARY = dict.fromkeys(_RUNS, "duckweed.library") | dict.fromkeys(
    _FAMILIES, "duckweed.family.library"
)


def __getattr__(name: str) -> Any:
    """What the library offers is imported when it is first used; PyTorch, when something is trained."""
    if name not in _LIBRARY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LIBRARY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LIBRARY])
