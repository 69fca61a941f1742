"""What will go wrong in a run, drawn from a seed: pure, so that a storm can be had again."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

Kind = Literal["kill", "stop", "cut", "slow", "villain"]


class Blow(msgspec.Struct, frozen=True):
    """One event. It falls `delay` seconds after round `after` has closed.

    kill: SIGKILL to all processes of the host, started again after `lasts` seconds. stop: SIGSTOP,
    SIGCONT after `lasts`. cut: no packet reaches or leaves the host. slow: its link has 1 Mbit/s. villain:
    a process of the host throws nonsense at the coordinator, as a stranger and as a member."""

    after: int
    delay: float
    kind: Kind
    host: str
    lasts: float


def draw(
    seed: int, hub: str, peers: Sequence[str], rounds: int, *,
    kills: float = 0.5, hub_every: int = 5, others: int = 0, villain: str = "",
) -> list[Blow]:  # fmt: skip
    """A storm. kills: share of the peers that is killed in every ten rounds; hub_every: rounds between
    two kills of the coordinator; others: how many blows of the other kinds; villain: a host that has it
    in for the run. The last two rounds are left in peace, so that all can come home."""
    dice = random.Random(seed)
    last = rounds - 2
    blows: list[Blow] = []

    def add(after: int, kind: Kind, host: str, lasts: tuple[float, float]) -> None:
        if after < last:
            delay, time = dice.uniform(0.0, 3.0), dice.uniform(*lasts)
            blows.append(Blow(after, round(delay, 2), kind, host, round(time, 2)))

    for start in range(0, rounds, 10):
        for host in dice.sample(list(peers), round(kills * len(peers))):
            add(start + dice.randrange(10), "kill", host, (0.0, 4.0))
    if hub_every:
        for start in range(0, rounds, hub_every):
            add(start + dice.randrange(hub_every), "kill", hub, (0.0, 4.0))
    for _ in range(others):
        kind: Kind = dice.choice(("stop", "cut", "slow"))
        host = dice.choice([hub, *peers])
        add(dice.randrange(max(1, last)), kind, host, (2.0, 15.0))
    if villain:
        add(1, "villain", villain, (0.0, 0.0))
    return sorted(blows, key=lambda blow: (blow.after, blow.delay))


def read(log: Path) -> tuple[dict, list[Blow]]:
    """Head and blows of a storm's log."""
    head, *lines = (json.loads(line) for line in log.read_text().splitlines())
    return head, [msgspec.convert(line["blow"], Blow) for line in lines if "blow" in line]
