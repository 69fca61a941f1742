"""Storms are drawn from their seed, spare the end of a run, and are read back from their log."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bench.chaos import storm

PEERS = [f"p{n}" for n in range(6)]


@given(st.integers(0, 1 << 32), st.integers(5, 60), st.integers(0, 20))
def test_a_seed_is_a_storm(seed, rounds, others):
    def draw():
        return storm.draw(seed, "hub", PEERS, rounds, others=others, villain="v")

    blows = draw()
    assert blows == draw()
    assert all(0 <= b.after < rounds - 2 and b.delay >= 0 and b.lasts >= 0 for b in blows)
    assert {b.host for b in blows} <= {"hub", "v", *PEERS}


def test_half_of_the_peers_in_ten_rounds_and_the_coordinator_in_five():
    blows = storm.draw(3, "hub", PEERS, 102)
    for start in range(0, 100, 10):
        struck = [b.host for b in blows if start <= b.after < start + 10]
        assert struck.count("hub") == 2
        assert len([x for x in struck if x != "hub"]) == len(set(struck) - {"hub"}) == 3


def test_a_log_brings_the_storm_back(tmp_path):
    blows = storm.draw(1, "hub", PEERS, 30, others=10)
    head = {"peers": 6, "rounds": 30}
    lines = [head, *({"blow": msgspec.to_builtins(b), "round": b.after + 1} for b in blows)]
    log = tmp_path / "storm.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert storm.read(log) == (head, blows)
