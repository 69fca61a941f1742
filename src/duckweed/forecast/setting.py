"""`--set KEY=VALUE`: which assumptions a user replaces, checked before anything is computed.

frontier.growth=3x            a series' growth per year from its last point on
decentralised.growth=2x..5x   the same, anywhere in a range
decentralised.form=slowing    how a series is extrapolated: steady, slowing or mixed
decentralised.gap=2000x       how far the frontier is ahead on the day of the forecast
race.returns=1.5              a parameter of the race (see --explain), for every actor
race.rival.leak=0.2..0.6      a parameter of one actor
"""

import math
from collections.abc import Iterator, Sequence

import msgspec

from duckweed.forecast.scenario import ACTOR, PRESETS, WORLD, Spread, Value
from duckweed.forecast.trend import FORMS, Form


class SettingError(ValueError):
    """A --set that cannot be used: says what was expected."""


class Settings(msgspec.Struct, frozen=True):
    """What a user set; empty where nothing was."""

    growth: dict[str, tuple[float, float]] = {}
    """Series -> lowest and highest factor a year."""
    form: dict[str, Form] = {}
    """Series -> how it is extrapolated."""
    gap: float | None = None
    """How many times the frontier is ahead of decentralised training."""
    race: dict[str, Value] = {}
    """Parameter of the race, or `actor.field` -> value."""


def parse(items: Sequence[str], series: Sequence[str]) -> Settings:
    """Settings from KEY=VALUE items; `series` are the known series. Raises SettingError."""
    found = Settings()
    for key, text in _pairs(items, "frontier.growth=3x"):
        owner, _, field = key.partition(".")
        if owner == "race":
            found.race[_race_key(field, key)] = _value(text, key)
        elif owner not in series:
            raise SettingError(
                f"--set {key}: no series {owner}; known are {', '.join(series)}, race"
            )
        else:
            found = _of_series(found, key, text)
    both = sorted(set(found.growth) & set(found.form))
    if both:
        raise SettingError(
            f"--set {both[0]}.growth and {both[0]}.form contradict each other: "
            "a growth that you set has no form"
        )
    return found


def _pairs(items: Sequence[str], example: str) -> Iterator[tuple[str, str]]:
    """Keys and values, each key once; `race.` in front of a parameter makes no other key of it."""
    seen = set()
    for item in items:
        key, equals, text = (part.strip() for part in item.partition("="))
        if not equals or not text:
            raise SettingError(f"--set {item}: expected KEY=VALUE, such as {example}")
        if key.removeprefix("race.") in seen:
            raise SettingError(f"--set {key} is given twice; give it once")
        seen.add(key.removeprefix("race."))
        yield key, text


def _of_series(found: Settings, key: str, text: str) -> Settings:
    owner, _, field = key.partition(".")
    match field:
        case "growth":
            found.growth[owner] = _range(text, key)
        case "form":
            found.form[owner] = _form(text, key)
        case "gap" if owner == "decentralised":
            gap = _range(text, key)[0]
            if gap < 1:
                raise SettingError(f"--set {key}: a gap is a factor of at least 1, got {text}")
            return msgspec.structs.replace(found, gap=gap)
        case _:
            raise SettingError(
                f"--set {key}: a series has growth or form; only decentralised a gap"
            )
    return found


def _race_key(field: str, key: str) -> str:
    owner, dot, part = field.rpartition(".")
    racers = sorted({actor.name for preset in PRESETS.values() for actor in preset.actors})
    if (dot and (owner not in racers or part not in ACTOR)) or (not dot and field not in WORLD):
        raise SettingError(
            f"--set {key}: the race has {', '.join(WORLD)}; and ACTOR.FIELD, "
            f"with an actor of {', '.join(racers)} and a field of {', '.join(ACTOR)}"
        )
    return field


def _form(text: str, key: str) -> Form:
    for form in FORMS:
        if form == text:
            return form
    raise SettingError(f"--set {key}: expected one of {', '.join(FORMS)}, got {text}")


def _number(text: str, key: str) -> float:
    try:
        number = float(text.strip().rstrip("x"))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SettingError(f"--set {key}: {text!r} is no number; expected 3, 3x or 2..5")
    return number


def _range(text: str, key: str) -> tuple[float, float]:
    low, dots, high = text.partition("..")
    ends = _number(low, key), _number(high if dots else low, key)
    if not 0 < ends[0] <= ends[1]:
        raise SettingError(f"--set {key}: a factor needs 0 < low <= high, got {text}")
    return ends


def _value(text: str, key: str) -> Value:
    low, dots, high = text.partition("..")
    if not dots:
        return _number(low, key)
    ends = _number(low, key), _number(high, key)
    if ends[0] >= ends[1]:
        raise SettingError(f"--set {key}: a range runs from low to high, got {text}")
    if ends[0] > 0:
        return Spread(math.sqrt(ends[0] * ends[1]), *ends)
    return Spread((ends[0] + ends[1]) / 2, *ends, shape="linear")


def parse_race(items: Sequence[str]) -> dict[str, Value]:
    """Settings of a race alone: `race.returns=1.5`, or shorter, `returns=1.5`, `rival.leak=0.2`.
    Which names exist, the scenario checks."""
    pairs = _pairs(items, "race.returns=1.5")
    return {key.removeprefix("race."): _value(text, key) for key, text in pairs}
