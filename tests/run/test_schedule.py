"""How the inner steps of a run are divided into rounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from duckweed.run.defaults import BUDGET, start
from duckweed.run.schedule import Schedule, within
from duckweed.run.spec import RunSpec, SpecError, override, parse
from duckweed.run.toml import write

schedules = st.integers(1, 5000).flatmap(
    lambda steps: st.builds(Schedule, st.just(steps), st.integers(1, min(steps, 300)))
)


@given(schedules)
def test_every_inner_step_is_in_one_round_and_no_round_is_empty(schedule):
    steps = [schedule.steps_of(n) for n in range(schedule.rounds)]
    assert sum(steps) == schedule.steps == schedule.begins(schedule.rounds)
    assert (min(steps), max(steps)) == (schedule.fewest, schedule.most)
    assert 1 <= schedule.fewest <= schedule.most <= schedule.fewest + 1
    assert [schedule.begins(n) for n in range(schedule.rounds)] == [
        sum(steps[:n]) for n in range(schedule.rounds)
    ]


@given(st.floats(1, 1e5), st.integers(1, 10_000), st.integers(1, 64), st.floats(0.1, 32))
def test_a_budget_of_bytes_is_kept_unless_one_round_alone_is_more(saving, steps, peers, bits):
    schedule = within(saving, steps, peers, bits)
    ring = 2 * (max(2, peers) - 1) / max(2, peers) * 16 * steps
    assert schedule.rounds == 1 or schedule.rounds * bits * saving <= ring * (1 + 1e-9)
    assert schedule.rounds == steps or (schedule.rounds + 1) * bits * saving > ring * (1 - 1e-9)


def test_the_saving_of_a_run_on_one_setting_gives_its_rounds():
    schedule = override(RunSpec(), {"rounds.saving": 150.0}).schedule
    assert (schedule.steps, schedule.rounds, schedule.fewest, schedule.most) == (260, 34, 7, 8)


def test_without_a_budget_rounds_are_as_the_specification_says():
    spec = RunSpec()
    assert spec.schedule == Schedule(260, 13)
    assert {spec.schedule.steps_of(n) for n in range(13)} == {20}
    assert "saving" not in write(spec)  # specifications of before keep their identity


def test_who_has_no_specification_has_a_learning_rate_for_the_length_of_the_run():
    rates = [start({"rounds.count": count}).inner.learning_rate for count in (1, 13, 26, 300)]
    assert rates == sorted(rates, reverse=True)
    assert rates[1] == start({}).inner.learning_rate == 0.007
    assert start({"inner.learning_rate": 0.5}).inner.learning_rate == 0.5
    assert start({"inner.batch": 16}).inner.learning_rate > rates[1]
    sizes = [
        start({"model.source": f"llama-{x}"}).inner.learning_rate for x in ("0.5m", "1m", "15m")
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert 0.003 < sizes[2] < sizes[1] == 0.007 < sizes[0]
    warmups = [start({"rounds.count": count}).inner.warmup for count in (1, 13, 300)]
    assert warmups == [4, 40, 40]
    assert start({"inner.warmup": 7}).inner.warmup == 7


def test_who_has_no_specification_is_guided_less_the_shorter_rounds_are():
    guides = [start({"rounds.saving": saving}).inner.guide for saving in (20.0, 150.0, 400.0, 2e3)]
    assert guides == sorted(guides)
    assert guides[0] < guides[-1] == RunSpec().inner.guide == 0.1
    assert start({"inner.guide": 0.2}).inner.guide == 0.2


def test_who_has_no_specification_has_other_codes_where_the_integer_wire_goes_between_friends():
    """And begins its rounds with what it could not send."""
    both = [start(changes) for changes in ({}, {"members.join": "open"}, {"wire.kind": "dense"})]
    assert [spec.wire.levels for spec in both[:2]] == [3, 1]
    assert [spec.inner.residual for spec in both] == [0.4, UNSET, UNSET]
    assert start({"wire.levels": 7}).wire.levels == 7
    assert start({"wire.kind": "dense"}).wire == override(RunSpec(), {"wire.kind": "dense"}).wire


def test_who_has_no_specification_has_a_budget_unless_rounds_are_named():
    assert start({}).schedule == Schedule(520, 102)
    assert start({"rounds.peers": 2}).rounds.saving == BUDGET["rounds.saving"]
    assert start({"rounds.saving": 600.0}).schedule == Schedule(520, 29)
    assert start({"rounds.count": 5}).schedule == Schedule(200, 5)
    assert start({"inner.steps": 5}).schedule == Schedule(65, 13)
    assert start({"task.kind": "reinforce"}).schedule == Schedule(260, 51)
    assert start({"task.kind": "reinforce"}).inner == RunSpec().inner
    assert start({"rounds.count": 5, "rounds.saving": 300.0}).schedule.steps == 200
    assert parse(write(start({}))) == start({})


@pytest.mark.parametrize("saving", [0.5, -1.0, float("nan"), 1e9])
def test_a_budget_that_is_none_is_refused(saving):
    with pytest.raises(SpecError, match=r"rounds.saving"):
        override(RunSpec(), {"rounds.saving": saving})
