"""The limits of an audit lie between what honest machines reach and what cheats do, as it was measured
(bench/results/audit.json)."""

import json
from pathlib import Path

from duckweed.audit.difference import Difference, TensorDifference
from duckweed.audit.verdict import LARGE, LOOSE, STRICT, Limits, faults, grown, limits, near_loss

MEASURED = json.loads(
    (Path(__file__).parents[2] / "bench" / "results" / "audit.json").read_text("utf-8")
)
HIDDEN = (
    "14 of 15 steps", "13 of 15 steps", "learning rate a tenth lower", "a hundredth of the codes, flipped",
)  # fmt: skip
"""What the loose limits let pass, as docs/audit.md says."""


def exceeds(one, allowed):
    return one["distance"] > allowed.whole or one["worst distance of a tensor"] > allowed.tensor


def of(name):
    return LOOSE if "bf16" in name else STRICT


def test_no_honest_machine_is_beyond_the_limits():
    for name, found in MEASURED["machines"].items():
        assert not any(exceeds(one, of(name)) for one in found["rounds"].values()), name


def test_where_what_is_carried_is_computed_too_honest_differences_grow_within_the_limits():
    for name, found in MEASURED["chains"].items():
        before = Limits(0.0, 0.0)
        for one in found["rounds"].values():
            assert not exceeds(one, grown(of(name), before)), name
            before = Limits(one["distance"], one["worst distance of a tensor"])


def test_every_cheat_is_beyond_the_strict_limits_and_those_beyond_the_loose_ones_are_known():
    for name, found in MEASURED["cheats"].items():
        assert all(exceeds(one, STRICT) for one in found.values()), name
        assert all(exceeds(one, LOOSE) for one in found.values()) == (name not in HIDDEN), name


def test_the_precision_of_the_specification_chooses_the_limits():
    assert limits("fp32") == STRICT
    assert limits("auto") == limits("bf16") == LOOSE


def made(distance, *tensors):
    return Difference(
        10**6,
        5,
        distance,
        [TensorDifference(f"t{n}", codes, 5, far) for n, (codes, far) in enumerate(tensors)],
    )


def test_one_tensor_alone_is_enough_unless_it_is_too_small_to_tell():
    assert not list(faults(made(0.02, (LARGE, 0.09)), STRICT))
    assert list(faults(made(0.031, (LARGE, 0.09)), STRICT)) == [
        "distance 0.031, where at most 0.03 is honest"
    ]
    assert list(faults(made(0.02, (LARGE, 0.05), (LARGE, 2.0)), STRICT)) == [
        "t1: distance 2, where at most 0.1 is honest"
    ]
    assert not list(faults(made(0.02, (LARGE - 1, 2.0)), STRICT))


def test_a_loss_may_be_off_by_a_hundredth():
    assert near_loss(2.3, 2.31)
    assert not near_loss(2.3, 2.35)
    assert not near_loss(float("nan"), 2.3)
