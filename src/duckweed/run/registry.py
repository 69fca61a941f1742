"""What a specification may name: the wires and the merge rules, and where each is found.

This room knows names only. Like an entry point, a name leads to a module of a room above, which is
imported when the name is first used. A plugin registers an object itself.
"""

import importlib
from typing import Any


class Registry:
    """Objects by name, in the order in which they were registered."""

    def __init__(self, key: str, places: dict[str, str]) -> None:
        """key: that of run.toml whose values the names are; places: name -> "module:attribute"."""
        self.key, self._places = key, places
        self._found: dict[str, Any] = {}

    def names(self) -> list[str]:
        return [*self._places, *(name for name in self._found if name not in self._places)]

    def find(self, name: str) -> Any:
        """Raises KeyError if there is no such name."""
        if name not in self._found:
            module, _, attribute = self._places[name].partition(":")
            self._found[name] = getattr(importlib.import_module(module), attribute)
        return self._found[name]

    def register(self, name: str, found: Any) -> None:
        """Raises ValueError if the name is taken."""
        if name in self.names():
            raise ValueError(f"{self.key} = {name!r} is registered already; choose another name")
        self._found[name] = found


WIRES = Registry(
    "wire.kind",
    {
        "dense": "duckweed.wire.codecs.dense:DenseCodec",
        "sparse": "duckweed.wire.codecs.sparse:SparseCodec",
        "integer": "duckweed.wire.codecs.integer:IntegerCodec",
    },
)
"""Subclasses of duckweed.wire.codec.Codec."""
RULES = Registry(
    "merge.rule",
    {
        "mean": "duckweed.merge.rules:mean",
        "contributors": "duckweed.merge.rules:contributors",
        "bounded": "duckweed.merge.rules:bounded",
        "filtered": "duckweed.merge.rules:filtered",
    },
)
"""Merge rules (duckweed.merge.rules.Rule)."""
