"""The registry: every switch that a proposal may set, with its type, range and what is known of it.

A proposal is data over these keys and nothing else: numbers within ranges, or one of a list of
words. Nothing in it is ever evaluated, imported, opened or sent.
"""

import math
import random
from collections.abc import Mapping
from typing import Literal

import msgspec

from duckweed.evolve.trial_spec import Recipe, Value, digest

SwitchKind = Literal["log", "linear", "int", "choice"]
"""log, linear: a number in [low, high]; int: a whole one, drawn on a logarithmic scale; choice: one
of a list."""
MOST_CHANGES = 6
KEY_LIMIT = 64


class RegistryError(ValueError):
    """A proposal that is refused; the message is the reason."""


class Switch(msgspec.Struct, frozen=True):
    """One key that a proposal may set."""

    key: str  # of the specification, such as inner.learning_rate
    kind: SwitchKind
    low: float = 0.0
    high: float = 0.0
    values: tuple[Value, ...] = ()  # of a choice
    note: str = ""  # the published effect
    source: str = ""  # where it was published

    def check(self, value: object) -> Value:
        """The value in its type, rounded to four digits. Raises RegistryError."""
        if self.kind == "choice":
            for allowed in self.values:
                alike = isinstance(value, bool) == isinstance(allowed, bool)
                if alike and value == allowed:
                    return allowed
            raise RegistryError(f"{self.key}: not one of {list(self.values)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RegistryError(f"{self.key}: a number is wanted, not {type(value).__name__}")
        if isinstance(value, int) and value.bit_length() > 64:
            raise RegistryError(f"{self.key}: the number is enormous")
        if not math.isfinite(value):
            raise RegistryError(f"{self.key}: not a finite number")
        if not self.low <= value <= self.high:
            raise RegistryError(f"{self.key} = {value:g}: outside of {self.low:g} to {self.high:g}")
        if self.kind == "int":
            if value != int(value):
                raise RegistryError(f"{self.key}: a whole number is wanted")
            return int(value)
        return float(f"{value:.4g}")

    def draw(self, rng: random.Random) -> Value:
        """A value at random."""
        if self.kind == "choice":
            return rng.choice(self.values)
        if self.kind == "linear":
            return self.check(self._clip(rng.uniform(self.low, self.high)))
        drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return self.check(self._clip(round(drawn) if self.kind == "int" else drawn))

    def near(self, value: Value, rng: random.Random) -> Value:
        """Another value, close by where there is such a thing."""
        if self.kind == "choice" or isinstance(value, str | bool):
            rest = [v for v in self.values if v != value]
            return rng.choice(rest) if rest else value
        if self.kind == "linear":
            step = 0.15 * (self.high - self.low)
            return self.check(self._clip(float(value) + rng.choice((-1, 1)) * step))
        moved = float(value) * rng.choice((0.5, 0.7, 1.4, 2.0))
        return self.check(self._clip(round(moved) if self.kind == "int" else moved))

    def _clip(self, value: float) -> float:
        # four digits may round past the end of a range
        return min(self.high, max(self.low, float(f"{value:.4g}")))


class KnownChange(msgspec.Struct, frozen=True):
    """A change whose effect is known beforehand: published, or planted."""

    name: str
    set: Recipe = {}  # keys and their new values
    times: dict[str, float] = {}  # keys and the factors by which the parent's numbers move


class Registry(msgspec.Struct, frozen=True):
    """What a campaign may vary. Anything that changes here changes `identity` too."""

    switches: tuple[Switch, ...]
    known: tuple[KnownChange, ...]  # published changes, proposed first
    nulls: tuple[KnownChange, ...]  # planted ones that do nothing
    harms: tuple[KnownChange, ...]  # planted ones that do harm
    version: int = 1  # counts releases

    @property
    def identity(self) -> str:
        """Its hash stands in a campaign's genesis: a ledger is read with the registry it names."""
        return digest(self)

    def switch(self, key: str) -> Switch:
        """Raises RegistryError."""
        for switch in self.switches:
            if switch.key == key:
                return switch
        raise RegistryError(f"{_brief(key)}: no such switch")

    def check(self, difference: object) -> Recipe:
        """The difference in its types. Raises RegistryError with the reason."""
        if not isinstance(difference, Mapping):
            raise RegistryError(f"a difference is a table, not {type(difference).__name__}")
        if len(difference) > MOST_CHANGES:
            raise RegistryError(f"{len(difference)} changes at once, at most {MOST_CHANGES}")
        found: Recipe = {}
        for key, value in difference.items():
            if not isinstance(key, str):
                raise RegistryError("keys are words")
            found[key] = self.switch(key).check(value)
        return dict(sorted(found.items()))

    def of(self, known: KnownChange, parent: Recipe) -> Recipe:
        """The difference that a known change is for this parent."""
        scaled: Recipe = {}
        for key, factor in known.times.items():
            switch, value = self.switch(key), parent.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool):
                moved = value * factor
                moved = round(moved) if switch.kind == "int" else moved
                scaled[key] = switch.check(min(switch.high, max(switch.low, moved)))
        difference = self.check(known.set | scaled)
        return {k: v for k, v in difference.items() if parent.get(k) != v}


def _brief(key: str) -> str:
    return repr(key if len(key) <= KEY_LIMIT else key[:KEY_LIMIT] + "...")
