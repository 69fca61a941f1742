"""The scene of many peers with simulated computers, as far as it needs no laboratory."""

import json

import pytest

from bench.wan import crowd, paced, table
from duckweed.run import spec as specs
from duckweed.run.events import RoundClosed


class Clock:
    """Stands still but for those who sleep, or work."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_paced_steps_last_as_long_as_they_should_and_are_the_same_steps(monkeypatch):
    clock, begins = Clock(), []
    monkeypatch.setattr(paced, "time", clock)
    for one, work in zip(paced.paced(iter("abc"), 5.0), (1.0, 7.0, 2.0), strict=False):
        begins.append((one, clock.now))
        clock.now += work  # the second step takes longer than it should; the third makes up for it
    assert begins == [("a", 100.0), ("b", 105.0), ("c", 112.0)]
    assert clock.now == 115.0  # the last step, too


def test_utilisation_is_that_of_each_peer_over_all_its_rounds():
    def times(train, wait):
        return {"train": train, "wait": wait}

    rounds = [
        RoundClosed(round=0, seconds=4.0, timings={0: times(3, 1), 1: times(2, 0)}),
        RoundClosed(round=1, seconds=4.0, timings={0: times(1, 3), 1: times(2, 0)}),
    ]
    assert crowd._utilisations(rounds) == {"mean": 0.75, "worst": 0.5}


def test_the_specification_has_a_round_before_those_that_are_measured():
    text = crowd.specification(16, "llama-15m", "bpe:2048", (0.1, 0.5), 4, 3, "patience = 20")
    spec = specs.parse(text, "the scene")
    assert (spec.rounds.count, spec.rounds.peers, spec.inner.steps) == (9, 16, 3)
    assert spec.rounds.patience == 20


@pytest.mark.parametrize("name", ["nats", "links", "moves", "crowd"])
def test_the_tables_of_the_page_are_those_of_the_results(name):
    record = json.loads(table.RESULTS.read_text())
    assert table.tables({name: record[name]}) in table.PAGE.read_text("utf-8")
