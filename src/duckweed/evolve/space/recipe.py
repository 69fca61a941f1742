"""A recipe: what differs from the campaign's plain specification, and the specification it gives.

A change is data: a flat table of registry keys and numbers, words or truth values. Nothing in it is
evaluated, imported, opened or sent; what it may not touch it cannot name.
"""

import json
import re
from typing import Any

import msgspec

from duckweed.evolve.space.registry import RegistryError
from duckweed.evolve.trial_spec import Recipe
from duckweed.run.registry import WIRES
from duckweed.run.spec import RunSpec, SpecError, override

BETAS = {"inner.beta1": 0, "inner.beta2": 1}  # the specification has them as a pair
DIGITS = 18  # of a whole number at most
SECTIONS = frozenset({"architecture", "inner", "wire", "merge", "outer"})
"""Sections of a specification that a recipe may change; of the model only its sequence."""


def specification(plain: RunSpec, recipe: Recipe) -> RunSpec:
    """The plain specification with the recipe's keys set.

    Raises SpecError, also for keys that are no part of a recipe: data, seeds, rounds, the source of
    the model; whatever a registry allows.
    """
    for key in recipe:
        if key.partition(".")[0] not in SECTIONS and key != "model.sequence":
            raise SpecError(f"{key[:64]!r}: no part of a recipe")
    foreign = _foreign(recipe.get("wire.kind", plain.wire.kind))
    changes: dict[str, object] = {
        k: v for k, v in recipe.items() if k not in BETAS and k not in foreign
    }
    betas: list[float] = list(plain.inner.betas)
    for key, place in BETAS.items():
        betas[place] = float(recipe.get(key, betas[place]))
    return override(plain, changes | {"inner.betas": betas})


def _foreign(kind: object) -> set[str]:
    """Keys that only wires of another kind have."""
    keys = {
        name: {f"wire.{f.name}" for f in msgspec.structs.fields(WIRES.find(name).section)}
        for name in WIRES.names()
    }
    return set().union(*keys.values()) - keys.get(str(kind), set())


def idle(recipe: Recipe) -> frozenset[str]:
    """Keys without effect in this recipe, such as Muon's where there is no Muon: a change of them
    alone would train the parent twice."""
    optimizer, schedule = recipe.get("inner.optimizer"), recipe.get("inner.schedule")
    found: set[str] = set()
    if optimizer in ("adamw", "lion"):
        found |= {"inner.momentum", "inner.momentum_warmup", "inner.nesterov", "inner.iterations"}
        found.add("inner.guide")
    if optimizer == "lion":
        found.add("inner.epsilon")
    if schedule in ("constant", "cosine"):
        found.add("inner.decay")
    if schedule == "constant":
        found.add("inner.final")
    if recipe.get("architecture.tied") is True:
        found.add("inner.head_rate")
    if "wire.kind" in recipe:
        found |= _foreign(recipe["wire.kind"])
    if recipe.get("outer.optimizer") == "none":
        found |= {"outer.learning_rate", "outer.momentum", "inner.guide"}
    if recipe.get("inner.state") == "fresh":
        found.add("inner.guide")
    if recipe.get("inner.weight_decay") == 0:
        found.add("inner.cautious")
    return frozenset(found)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise RegistryError("a key occurs twice")
    return dict(pairs)


def _refuse(word: str) -> object:
    raise RegistryError(f"{word} is not a number")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise RegistryError("a number with too many digits")
    return int(digits)


def _real(digits: str) -> float:
    # float() takes any length
    if len(re.sub(r"[^0-9]", "", digits)) > 2 * DIGITS:
        raise RegistryError("a number with too many digits")
    return float(digits)


DECODER = json.JSONDecoder(
    object_pairs_hook=_once, parse_constant=_refuse, parse_int=_whole, parse_float=_real
)
"""Strict JSON: no key twice, no NaN or infinity, no number of absurd length. Raises RegistryError."""
