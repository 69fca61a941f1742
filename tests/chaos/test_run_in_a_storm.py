"""A real run between hosts of the laboratory, with everything that can go wrong, from a seed."""

import pytest
from fixtures import commands

from bench.chaos import __main__ as bench
from bench.chaos import storm
from bench.chaos.__main__ import VILLAIN, hosts, play
from bench.wan.lab import Lab, unavailable
from bench.wan.runs import DUCKWEED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(unavailable()), reason=f"no laboratory: {unavailable()}"),
]
PEERS, ROUNDS = 3, 8


class ForkingLab(Lab):
    """A laboratory whose commands are forked."""

    def run(self, host, command, *, stdout, cwd, env, **more):
        if list(command[: len(DUCKWEED)]) != DUCKWEED:
            return super().run(host, command, stdout=stdout, cwd=cwd, env=env, **more)
        words = command[len(DUCKWEED) :]
        self._processes.append(
            commands.Command(words, cwd, stdout.name, env=env, space=self.space(host))
        )
        return self._processes[-1]


def test_a_run_survives_kills_hangs_partitions_slow_links_and_a_villain(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "Lab", ForkingLab)
    hub, *names = (h.name for h in hosts(PEERS))
    blows = storm.draw(18, hub, names, ROUNDS, others=4, villain=VILLAIN)
    assert {b.kind for b in blows} == {"kill", "stop", "cut", "slow", "villain"}
    verdict, fallen = play(tmp_path / "storm", blows, peers=PEERS, rounds=ROUNDS, steps=10, seed=18)
    assert verdict.faults == []
    assert fallen == {}
    assert verdict.rounds == ROUNDS
