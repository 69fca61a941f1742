"""What may be varied, and the registry as others are given it."""

import json
import os

import msgspec
import pytest

from duckweed.evolve.space import signed_registry as releases
from duckweed.evolve.space.plain_recipe import generation_zero, plain_recipe
from duckweed.evolve.space.recipe import specification
from duckweed.evolve.space.registry import KnownChange, Registry, RegistryError, Switch
from duckweed.evolve.space.switches import REGISTRY
from duckweed.net.identity import Identity

ZERO = generation_zero()
PLAIN = plain_recipe(ZERO, REGISTRY)
SECRET = bytes(range(32))


def test_there_are_as_many_switches_and_plants_as_promised():
    keys = [switch.key for switch in REGISTRY.switches]
    assert len(set(keys)) == len(keys) >= 25
    assert len(REGISTRY.nulls) >= 5
    assert len(REGISTRY.harms) >= 5
    assert all(switch.source for switch in REGISTRY.switches)


def test_generation_zero_says_every_switch_and_lies_in_its_range():
    follow = {"architecture.kv_heads", "architecture.inner_width"}  # other sizes, unless set
    assert set(PLAIN) == {switch.key for switch in REGISTRY.switches} - follow
    for switch in REGISTRY.switches:
        # off is below the range of the warm-up
        if switch.key in PLAIN and switch.key != "inner.momentum_warmup":
            assert switch.check(PLAIN[switch.key]) == PLAIN[switch.key]
    assert specification(ZERO, PLAIN) == ZERO


@pytest.mark.parametrize("kind", ["known", "nulls", "harms"])
def test_every_listed_change_differs_from_generation_zero_and_applies(kind):
    for known in getattr(REGISTRY, kind):
        change = REGISTRY.of(known, PLAIN)
        assert change, known.name
        assert specification(ZERO, PLAIN | change) != ZERO, known.name


def test_a_null_moves_nothing_by_more_than_a_hundredth_save_epsilons():
    for known in REGISTRY.nulls:
        for key, value in REGISTRY.of(known, PLAIN).items():
            if "epsilon" not in key:
                assert value == pytest.approx(PLAIN[key], rel=0.0101), known.name


def test_any_change_of_the_registry_changes_its_identity():
    seen = {REGISTRY.identity}
    first, *rest = REGISTRY.switches
    for changed in (
        msgspec.structs.replace(REGISTRY, version=2),
        msgspec.structs.replace(REGISTRY, nulls=REGISTRY.nulls[1:]),
        msgspec.structs.replace(REGISTRY, switches=(*rest, first)),
        msgspec.structs.replace(
            REGISTRY, switches=(msgspec.structs.replace(first, values=("adamw",)), *rest)
        ),
    ):
        seen.add(changed.identity)
    assert len(seen) == 5


def test_a_signed_release_is_read_with_the_right_key_only():
    me, other = Identity(os.urandom(32)), Identity(os.urandom(32))
    made = releases.release(REGISTRY, SECRET)
    data = releases.sign(made, me)
    assert releases.read(data, me.id) == made
    assert made.identity == REGISTRY.identity
    with pytest.raises(RegistryError, match="signed by"):
        releases.read(data, other.id)
    forged = json.loads(data) | {"key": other.id}
    with pytest.raises(RegistryError, match="does not fit"):
        releases.read(json.dumps(forged).encode(), other.id)


def test_a_release_altered_anywhere_is_refused():
    me = Identity(os.urandom(32))
    data = releases.sign(releases.release(REGISTRY, SECRET), me)
    for place in range(0, len(data), 101):
        altered = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(RegistryError):
            releases.read(altered, me.id)
    for nonsense in (b"", b"{}", data[:-5], b"[" * 5000, b"x" * (releases.SIZE_LIMIT + 1)):
        with pytest.raises(RegistryError):
            releases.read(nonsense, me.id)


def test_plants_are_in_the_release_as_commitments_and_nothing_else():
    made = releases.release(REGISTRY, SECRET)
    text = msgspec.json.encode(made).decode()
    assert len(made.commitments) == len(REGISTRY.nulls) + len(REGISTRY.harms)
    for plant in REGISTRY.nulls + REGISTRY.harms:
        assert plant.name not in text
    other = releases.release(REGISTRY, bytes(32))
    assert not set(made.commitments) & set(other.commitments)  # salted


def test_opened_plants_are_checked_against_what_was_committed():
    made = releases.release(REGISTRY, SECRET)
    plants = releases.reveal_plants(REGISTRY, SECRET)
    releases.check_revealed(made.commitments, plants)
    first, *rest = plants
    label = "harmful" if first.label == "null" else "null"
    for wrong in (
        plants[1:],
        (*plants, first),
        (msgspec.structs.replace(first, label=label), *rest),
        (msgspec.structs.replace(first, plant=KnownChange("better", {"inner.batch": 4})), *rest),
        (msgspec.structs.replace(first, salt="00"), *rest),
    ):
        with pytest.raises(RegistryError, match="not those"):
            releases.check_revealed(made.commitments, tuple(wrong))


def test_a_choice_of_numbers_takes_whole_ones_and_no_truth_values():
    switch = Switch("a", "choice", values=(0.0, 1.0, 15.0))
    assert switch.check(15) == 15.0
    assert isinstance(switch.check(15), float)
    with pytest.raises(RegistryError):
        switch.check(True)
    with pytest.raises(RegistryError):
        Switch("b", "choice", values=(True, False)).check(1)


def test_a_registry_without_plants_has_no_commitments():
    assert releases.release(Registry((), (), (), ()), SECRET).commitments == ()
