"""Scenarios of the race: typed parameters with unit, interval, reason and source; presets; files.

A value is a number or a spread. `log` and `linear` spreads are uniform between low and high (on a
log or plain scale); `lognormal` has its median at `central` and [low, high] as its interval at
`level`. A scenario file is TOML or JSON with the fields of `Scenario`; see docs/forecast.md.
"""

import math
from importlib.resources import files
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import msgspec
import numpy as np

from duckweed.forecast.data.table import read_text
from duckweed.forecast.field import Actors, Cut, Events, Paradigm, Shock
from duckweed.forecast.law import DOUBLINGS_PER_YEAR, NO_CEILING, Array, Law

MONTH = 1 / 12


class ScenarioError(ValueError):
    """A scenario or setting that cannot be used: says which, and what was expected."""


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    central: float
    low: float
    high: float
    shape: Literal["log", "linear", "lognormal"] = "log"
    level: float = 0.8

    def check(self, name: str) -> None:
        if not self.low <= self.central <= self.high:
            raise ScenarioError(
                f"{name}: needs low <= central <= high, got {self.low}, {self.central}, {self.high}"
            )
        if self.shape != "linear" and self.low <= 0:
            raise ScenarioError(f"{name}: a {self.shape} spread needs low > 0, got {self.low}")
        if not 0 < self.level < 1:
            raise ScenarioError(f"{name}: level must lie between 0 and 1, got {self.level}")

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        if self.shape == "linear":
            return rng.uniform(self.low, self.high, count)
        low, high = math.log(self.low), math.log(self.high)
        if self.shape == "log":
            return np.exp(rng.uniform(low, high, count))
        width = (high - low) / 2 / NormalDist().inv_cdf((1 + self.level) / 2)
        return self.central * np.exp(width * rng.standard_normal(count))


Value = float | Spread


class Parameter(msgspec.Struct, frozen=True):
    """What --explain prints: everything about one input of the race."""

    unit: str
    default: Value
    reason: str
    source: str
    least: float = 0.0
    most: float = math.inf


def _parameters() -> dict[str, dict[str, Parameter]]:
    text = files("duckweed.forecast").joinpath("tables/parameters.toml").read_text("utf-8")
    return msgspec.toml.decode(text, type=dict[str, dict[str, Parameter]], strict=False)


WORLD, ACTOR = _parameters().values()
"""Parameters of the race as a whole, and of each actor, by name (tables/parameters.toml)."""


class Actor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One racer. The first is the leader. compute, skill: times the leader's; lag, delay: months; paths: times the model
    of one machine."""

    name: str
    compute: Value = 1.0
    skill: Value = 1.0
    lag: Value = 0.0
    leak: Value = 0.0
    delay: Value = 4.0
    imitate: Value = 1.0
    paths: Value = 1.0


class CutSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Access restricted from month `start` to month `end` for the actors named in `hits`."""

    start: float
    end: float
    hits: list[str]


class ShockSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From month `at` on the actor has `factor` times its compute."""

    at: float
    actor: str
    factor: float


class ParadigmSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new paradigm with `hazard` a year; its finder starts `jump` years of progress ahead."""

    hazard: float
    jump: float = 0.5


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A race to run. horizon in years; world: overrides of the parameters in `WORLD`."""

    name: str
    about: str
    actors: list[Actor]
    world: dict[str, Value] = {}
    horizon: float = 1.0
    cuts: list[CutSpec] = []
    shocks: list[ShockSpec] = []
    paradigm: ParadigmSpec | None = None


class Drawn(msgspec.Struct, frozen=True):
    """A scenario with numbers: what the integrator takes, and what turns levels into years."""

    law: Law
    actors: Actors
    events: Events
    share: Array
    compute_rate: Array


def check(scenario: Scenario) -> Scenario:
    """The scenario itself, or a ScenarioError that names what is wrong with it."""
    if len(scenario.actors) < 2:
        raise ScenarioError(f"{scenario.name}: a race needs a leader and at least one follower")
    names = [actor.name for actor in scenario.actors]
    if len(set(names)) < len(names):
        raise ScenarioError(f"{scenario.name}: two actors share a name among {', '.join(names)}")
    unknown = sorted(set(scenario.world) - set(WORLD))
    if unknown:
        raise ScenarioError(f"unknown parameter {unknown[0]}; known are {', '.join(WORLD)}")
    for key, value in scenario.world.items():
        _check_value(key, value, WORLD[key])
    for actor in scenario.actors:
        for key, parameter in ACTOR.items():
            _check_value(f"{actor.name}.{key}", getattr(actor, key), parameter)
    if central(scenario.actors[0].lag) != 0:
        raise ScenarioError(f"{names[0]} is the leader (the first actor): its lag must be 0")
    hit = [name for cut in scenario.cuts for name in cut.hits] + [s.actor for s in scenario.shocks]
    for name in hit:
        if name not in names:
            raise ScenarioError(f"no actor is called {name}; there are {', '.join(names)}")
    for cut in scenario.cuts:
        if not 0 <= cut.start < cut.end:
            raise ScenarioError(
                f"an access cut must end after it starts, got {cut.start} to {cut.end}"
            )
    if any(s.at <= 0 or s.factor <= 0 for s in scenario.shocks):
        raise ScenarioError("a compute shock needs a month after 0 and a factor above 0")
    if scenario.paradigm and (scenario.paradigm.hazard <= 0 or scenario.paradigm.jump < 0):
        raise ScenarioError("a new paradigm needs a hazard above 0 and a jump of at least 0")
    if not 0 < scenario.horizon <= 50:
        raise ScenarioError(f"the horizon must lie between 0 and 50 years, got {scenario.horizon}")
    return scenario


def _check_value(name: str, value: Value, parameter: Parameter) -> None:
    if isinstance(value, Spread):
        value.check(name)
    for number in (value.low, value.high) if isinstance(value, Spread) else (value,):
        if not parameter.least <= number <= parameter.most:
            raise ScenarioError(
                f"{name} = {number} is outside {parameter.least} to {parameter.most} ({parameter.unit})"
            )


def central(value: Value) -> float:
    return value.central if isinstance(value, Spread) else value


def world_values(scenario: Scenario) -> dict[str, Value]:
    """All parameters of the world, the scenario's own before the defaults."""
    return {key: scenario.world.get(key, parameter.default) for key, parameter in WORLD.items()}


def draw(scenario: Scenario, samples: int, seed: int = 0) -> Drawn:
    """Numbers for `samples` races; samples = 1 gives the central path (every spread's centre)."""
    check(scenario)
    rng = np.random.default_rng(seed)

    def numbers(value: Value, parameter: Parameter) -> Array:
        if samples == 1 or not isinstance(value, Spread):
            return np.full(samples, float(central(value)))
        return np.clip(value.draw(rng, samples), parameter.least, parameter.most)

    world = {key: numbers(value, WORLD[key]) for key, value in world_values(scenario).items()}
    ceiling = np.where(world["ceiling"] > 0, DOUBLINGS_PER_YEAR * world["ceiling"], NO_CEILING)
    share = world["software_share"]
    today = DOUBLINGS_PER_YEAR / 2
    law = Law(
        returns=world["returns"],
        speedup=world["speedup"],
        parallel=world["parallel"],
        ceiling=ceiling,
        start=world["automation_start"],
        full=world["automation_full"],
        # a year of progress is today/share doublings of software
        span=world["automation_span"] * today / share,
        today=today,
    )
    columns = {
        key: np.array([numbers(getattr(actor, key), ACTOR[key]) for actor in scenario.actors])
        for key in ACTOR
    }
    actors = Actors(
        [actor.name for actor in scenario.actors],
        columns["compute"] * columns["paths"],
        columns["skill"],
        columns["lag"] * MONTH,
        columns["leak"],
        columns["delay"] * MONTH,
        columns["imitate"],
    )
    return Drawn(law, actors, _events(scenario, today), share, world["compute_rate"])


def _events(scenario: Scenario, today: float) -> Events:
    place = {actor.name: i for i, actor in enumerate(scenario.actors)}
    paradigm = scenario.paradigm
    return Events(
        tuple(
            Cut(c.start * MONTH, c.end * MONTH, tuple(place[name] for name in c.hits))
            for c in scenario.cuts
        ),
        tuple(Shock(s.at * MONTH, place[s.actor], s.factor) for s in scenario.shocks),
        Paradigm(paradigm.hazard, paradigm.jump * 2 * today) if paradigm else None,
    )


NOW: dict[str, Value] = {"automation_start": 1.0, "automation_full": 1.0, "automation_span": 1.0}
COLLECTIVE = Actor(
    "collective",
    compute=Spread(0.01, 0.001, 0.1),
    lag=Spread(8.0, 4.0, 16.0),
    leak=ACTOR["leak"].default,
    delay=ACTOR["delay"].default,
    imitate=ACTOR["imitate"].default,
)
PATHS = Spread(3.9, 1.0, 8.8)
"""What 256 paths are worth, the most that somebody measured: the least, the median and the largest that the exponents of
the measurements give (`duckweed.plan.paths.equivalent`, to which a test holds this)."""
RIVAL = Actor("rival", compute=Spread(0.7, 0.3, 1.0), lag=3.0, leak=0.5, delay=3.0, imitate=2.0)

PRESETS: dict[str, Scenario] = {
    s.name: s
    for s in (
        Scenario(
            "essay",
            "the essay: a follower one month behind, AI doing more and more of the research",
            [Actor("leader"), Actor("follower", lag=1.0)],
        ),
        Scenario(
            "peers",
            "equal peers, research fully automated at once, nothing leaks",
            [Actor("leader"), Actor("peer", lag=1.0)],
            dict(NOW),
        ),
        Scenario(
            "forethought",
            "Forethought's priors: full automation, software only",
            [Actor("leader"), Actor("follower", lag=1.0)],
            NOW | {"compute_rate": 0.0},
            horizon=5.0,
        ),
        Scenario(
            "collective",
            "a lab, a rival lab, and an open collective with about a hundredth of the compute",
            [Actor("leader"), RIVAL, COLLECTIVE],
            horizon=5.0,
        ),
        Scenario(
            "cut",
            "the same, and from month 6 to 30 nothing of the labs reaches the collective",
            [Actor("leader"), RIVAL, COLLECTIVE],
            horizon=5.0,
            cuts=[CutSpec(6.0, 30.0, ["collective"])],
        ),
        Scenario(
            "paradigm",
            "the same without a cut, and a new paradigm about once in five years, found by chance",
            [Actor("leader"), RIVAL, COLLECTIVE],
            horizon=5.0,
            paradigm=ParadigmSpec(0.2),
        ),
        Scenario(
            "paths",
            "a lab, a rival lab, and the collective, whose models are paths: worth 1 to 8.8 times what a machine "
            "holds, measured up to 335 million parameters a path and extrapolated to this size",
            [Actor("leader"), RIVAL, msgspec.structs.replace(COLLECTIVE, paths=PATHS)],
            horizon=5.0,
        ),
    )
}


def load(name: str) -> Scenario:
    """A preset by name, or a scenario file (.toml or .json)."""
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if path.suffix not in (".toml", ".json"):
        raise ScenarioError(
            f"no preset is called {name}; there are {', '.join(PRESETS)}, or give a .toml or .json file"
        )
    return check(decode(read_text(path), path, Scenario))


def decode(text: str, path: Path, kind: Any) -> Any:
    """TOML or JSON text as `kind`, or a ScenarioError with the place and what was expected."""
    try:
        if path.suffix == ".toml":
            return msgspec.toml.decode(text, type=kind, strict=False)
        return msgspec.json.decode(text, type=kind, strict=False)
    except (msgspec.DecodeError, ValueError) as error:
        raise ScenarioError(
            f"{path}: {error}; the format is described in docs/forecast.md"
        ) from error


def with_world(scenario: Scenario, changes: dict[str, Value]) -> Scenario:
    """The scenario with some parameters of the world, or of an actor (`rival.leak`), replaced."""
    world, actors = dict(scenario.world), list(scenario.actors)
    for key, value in changes.items():
        owner, _, field = key.rpartition(".")
        if not owner:
            world[key] = value
            continue
        places = [i for i, actor in enumerate(actors) if actor.name == owner]
        if not places or field not in ACTOR:
            known = ", ".join(a.name for a in actors)
            raise ScenarioError(
                f"unknown setting {key}; actors are {known}, fields {', '.join(ACTOR)}"
            )
        actors[places[0]] = msgspec.structs.replace(actors[places[0]], **{field: value})
    return check(msgspec.structs.replace(scenario, world=world, actors=actors))
