"""The clock of rounds by arithmetic alone: when each peer would have done what, from the seconds of each phase."""

from collections.abc import Sequence

import msgspec


class Costs(msgspec.Struct, frozen=True):
    """Seconds that one round costs one peer, by phase; ahead: how much of `train` needs no more than
    the state before."""

    train: float
    compress: float
    send: float
    fetch: float
    apply: float
    ahead: float = 0.0


class Clock:
    """Seconds since the run began. A peer begins with what can be trained ahead as soon as its work
    for the round before is compressed, and with the rest as soon as it holds the state as well."""

    def __init__(self, peers: int) -> None:
        self.now = 0.0  # when all peers hold the newest state
        self._held = [0.0] * peers  # when each holds it
        self._ready = [0.0] * peers  # when its work for the round before was done
        self._free = [0.0] * peers  # and compressed

    def round(self, costs: Sequence[Costs]) -> dict[int, dict[str, float]]:
        """Pass one round; returns peer -> phase -> seconds. `wait` is that for the slowest peer;
        `wall` the time since the work for the round before was done."""
        ready = [
            max(held, free + cost.ahead) + cost.train - cost.ahead
            for held, free, cost in zip(self._held, self._free, costs, strict=True)
        ]
        handed = [at + cost.compress + cost.send for at, cost in zip(ready, costs, strict=True)]
        closes = max(handed)
        times = {
            peer: {
                "train": cost.train,
                "compress": cost.compress,
                "send": cost.send,
                "wait": closes - handed[peer],
                "fetch": cost.fetch,
                "apply": cost.apply,
                "wall": ready[peer] - self._ready[peer],
            }
            for peer, cost in enumerate(costs)
        }
        self._ready = ready
        self._free = [at + cost.compress for at, cost in zip(ready, costs, strict=True)]
        self._held = [closes + cost.fetch + cost.apply for cost in costs]
        self.now = max(self._held)
        return times
