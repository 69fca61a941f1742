"""More never hurts, nothing is free, and the ends of every range are what they must be."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duckweed.plan import device, exchange, inverse, penalty
from duckweed.plan.inputs import assumptions, models
from duckweed.plan.inputs.crowd import Crowd, Group
from duckweed.plan.place import Layout, geometric, layouts, place, states
from duckweed.plan.search import DAY, Target, default_space, evaluate, only, search

SLACK = 1.02
"""Limits on replicas come in steps: between two of them the best plan can be this much slower."""


def crowds() -> st.SearchStrategy[Crowd]:
    group = st.builds(
        Group,
        count=st.integers(1, 300),
        device=st.sampled_from(["rtx3090", "rtx4090", "m4-max", "b200", "t4"]).map(device.find),
        host=st.sampled_from([16e9, 64e9, 256e9]),
        up=st.floats(1e6, 1e9), down=st.floats(1e6, 1e9), latency=st.floats(0, 0.3),
        online=st.floats(0.2, 1.0), stay=st.floats(1800, 1e7), waste=st.floats(0, 0.3),
    )  # fmt: skip
    return st.lists(group, min_size=1, max_size=2).map(lambda groups: Crowd(tuple(groups)))


SIZES = st.sampled_from([3e8, 3e9, 3e10])


def days(size: float, people: Crowd) -> float:
    return inverse.days(Target(models.dense(size), 20 * size), people)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(crowds(), SIZES, st.floats(1.05, 20))
def test_more_machines_never_make_the_best_plan_slower(
    people: Crowd, size: float, factor: float
) -> None:
    more = Crowd(
        tuple(Group(**{**vars(g), "count": int(np.ceil(g.count * factor))}) for g in people.groups)
    )
    assert days(size, more) <= days(size, people) * SLACK


@settings(max_examples=25, deadline=None, derandomize=True)
@given(crowds(), SIZES, st.floats(1.01, 100))
def test_faster_links_never_make_the_best_plan_slower(
    people: Crowd, size: float, factor: float
) -> None:
    assert days(size, people.scaled(link=factor)) <= days(size, people) * (1 + 1e-9)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(crowds(), SIZES, st.floats(1.01, 30))
def test_more_memory_never_makes_the_best_plan_slower(
    people: Crowd, size: float, factor: float
) -> None:
    assert days(size, people.scaled(memory=factor)) <= days(size, people) * (1 + 1e-9)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(crowds(), crowds(), SIZES)
def test_one_more_group_never_makes_the_best_plan_slower(
    people: Crowd, others: Crowd, size: float
) -> None:
    honest = tuple(Group(**{**vars(g), "waste": 0.0}) for g in people.groups)
    more = tuple(Group(**{**vars(g), "waste": 0.0}) for g in others.groups)
    assert days(size, Crowd(honest + more)) <= days(size, Crowd(honest)) * SLACK


def test_one_machine_with_everything_is_plain_training() -> None:
    card = device.by_hand(1e15, 1e16, "data-centre")
    alone = Crowd((Group(1, card, host=1e15, stay=1e18),))
    target = Target(models.dense(7e9), 1e12)
    found = search(target, alone)
    mfu = assumptions.ranges()["mfu_datacentre"].median
    plain = 1e12 * target.model.flop_per_token / (1e16 * mfu)
    assert float(found.seconds.min()) == pytest.approx(plain, rel=1e-6)


def test_an_infinite_link_leaves_computing_and_quality() -> None:
    """Exchange and traffic vanish: what remains is computing time, checking and extra tokens."""
    card = device.by_hand(1e12, 1e14, "data-centre")
    people = Crowd((Group(64, card, host=1e13, up=1e30, down=1e30, latency=0.0, stay=1e18),))
    target = Target(models.dense(1e9), 2e10)
    values = assumptions.medians(coding=0.0)
    space = replace(default_space(target, people), layouts=(Layout(),))
    index = evaluate(target, people, space, values).best()
    assert index is not None
    best = evaluate(target, people, only(space, index), values)
    used, penalties = float(best.terms["count"].ravel()[0]), float(best.terms["penalty"].ravel()[0])
    a = assumptions.ranges()
    plain = 2e10 * target.model.flop_per_token / (used * 1e14 * a["mfu_datacentre"].median)
    assert float(best.seconds.ravel()[0]) == pytest.approx(
        plain * penalties / (1 - a["audit"].median), rel=1e-6
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(crowds(), SIZES)
def test_no_plan_beats_all_machines_computing_all_the_time(people: Crowd, size: float) -> None:
    target = Target(models.dense(size), 20 * size)
    kinds = {"data-centre": "mfu_datacentre", "apple": "mfu_apple"}
    a = assumptions.medians()
    speed = sum(
        g.count * g.rate("bf16") * float(a[kinds.get(g.device.kind, "mfu_consumer")])
        for g in people.groups
    )
    assert days(size, people) >= target.tokens * target.model.flop_per_token / speed / DAY * (
        1 - 1e-9
    )


def test_a_slow_link_in_another_group_does_not_hold_up_the_fast() -> None:
    fast = Group(8, device.find("rtx4090"), up=1e9, down=1e9)
    slow = Group(8, device.find("rtx4090"), up=1e4, down=1e4)
    alone, together = days(3e8, Crowd((fast,))), days(3e8, Crowd((fast, slow)))
    assert together <= alone * SLACK


def test_memory_of_a_placement_is_never_more_than_there_is() -> None:
    group = Group(500, device.find("rtx4090"), site=4)
    model = models.preset("llama-3-8b")
    for optimizer in ("adamw", "muon", "adamw8bit"):
        state = states("bf16", optimizer)
        for layout in layouts(model, group):
            placed = place(model, group, layout, state, 16)
            if placed is not None:
                assert placed.device <= group.usable
                assert placed.host <= group.spare
                stored = placed.shard * layout.stages * layout.spread
                assert stored >= model.shape.total * (1 - 1e-9)


def test_geometric_reaches_its_limit() -> None:
    assert geometric(61) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 61)


@given(st.floats(0.001, 1.0), st.integers(2, 4000))
def test_a_sum_of_codes_grows_slowly_and_never_below_one_peer_s(density: float, peers: int) -> None:
    wire = exchange.Wire("w", "sum", 1.0, density)
    one, few, many = (
        float(exchange.down_bits(wire, np.asarray([n]))[0]) for n in (1.0, 2.0, 2.0 * peers)
    )
    assert one <= few * 1.001 <= many * 1.002
    assert many - few <= np.log2(peers) * 1.01 + 0.01


def test_sums_of_ternary_codes_match_the_measured_ones() -> None:
    """Prototype: 1.15 bits up; 2.29 bits down for four peers, 2.89 for eight."""
    wire = exchange.find("integer-1.0")
    four, eight = exchange.down_bits(wire, np.asarray([4.0, 8.0]))
    assert four == pytest.approx(2.29, rel=0.05)
    assert eight == pytest.approx(2.89, rel=0.05)


def test_volumes_of_the_three_ways_to_merge() -> None:
    eight = np.asarray([8.0])
    wire = exchange.Wire("x", "dense", 16.0)
    assert [float(v[0]) for v in exchange.volumes(wire, "store", eight)] == [16.0, 16.0]
    assert [float(v[0]) for v in exchange.volumes(wire, "shards", eight)] == [28.0, 28.0]
    sparse = exchange.Wire("y", "gather", 0.2)
    assert [float(v[0]) for v in exchange.volumes(sparse, "gather", eight)] == pytest.approx(
        [1.4, 1.4]
    )
    assert [float(v[0]) for v in exchange.volumes(wire, "shards", np.asarray([1.0]))] == [0.0, 0.0]


def test_the_fitted_replica_penalty_follows_the_table_it_was_fitted_to() -> None:
    from duckweed.plan.inputs import table

    for row in table.rows("replicas"):
        size, count = float(row["parameters"]), float(row["replicas"])
        factor = penalty.tokens_for(float(row["loss_gap_percent"]) / 100, size)
        assert count ** penalty.exponent(size) == pytest.approx(float(factor), rel=0.1)


def test_penalties_vanish_where_nothing_is_exchanged_rarely() -> None:
    one, many = np.asarray([1.0]), np.asarray([64.0])
    assert penalty.replicas(1e9, one, np.asarray([500.0]))[0] == 1.0
    assert penalty.replicas(1e9, many, np.asarray([1.0]))[0] == 1.0
    assert penalty.batch(np.asarray([1e5]), 1e6)[0] == 1.0
    assert penalty.batch(np.asarray([3e6]), 1e6)[0] == 2.0
    assert float(penalty.tokens_for(0.0)) == 1.0


def test_samples_have_the_stated_quantiles() -> None:
    drawn = assumptions.sample(20_000, seed=1)
    for name, given_range in assumptions.ranges().items():
        low, middle, high = np.quantile(np.asarray(drawn[name]), [0.1, 0.5, 0.9])
        assert low == pytest.approx(given_range.low, rel=0.05)
        assert middle == pytest.approx(given_range.median, rel=0.05)
        assert high == pytest.approx(given_range.high, rel=0.05)


def test_a_slow_hub_slows_the_store_and_is_gone_round_by_shards() -> None:
    group = Group(64, device.find("rtx4090"), up=1e8, down=1e8)
    target = Target(models.dense(3e8), 6e9)
    free, slow = (search(target, Crowd((group,), hub=hub)) for hub in (np.inf, 1e6))
    assert float(slow.seconds.min()) >= float(free.seconds.min())
    index = slow.best()
    assert index is not None
    assert slow.space.paths[index[2]][1] != "store"
