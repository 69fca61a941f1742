"""A real run between hosts of the laboratory, with everything that can go wrong, from a seed."""

import pytest

from bench.chaos import storm
from bench.chaos.__main__ import VILLAIN, hosts, play
from bench.wan.lab import unavailable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(unavailable()), reason=f"no laboratory: {unavailable()}"),
]
PEERS, ROUNDS = 3, 8


def test_a_run_survives_kills_hangs_partitions_slow_links_and_a_villain(tmp_path):
    hub, *names = (h.name for h in hosts(PEERS))
    blows = storm.draw(18, hub, names, ROUNDS, others=4, villain=VILLAIN)
    assert {b.kind for b in blows} == {"kill", "stop", "cut", "slow", "villain"}
    verdict, fallen = play(tmp_path / "storm", blows, peers=PEERS, rounds=ROUNDS, steps=10, seed=18)
    assert verdict.faults == []
    assert fallen == {}
    assert verdict.rounds == ROUNDS
