"""The virtual clock of a simulated run: when each peer would have done what."""

from collections.abc import Sequence

import msgspec


class Costs(msgspec.Struct, frozen=True):
    """Seconds that one round costs one peer, by phase."""

    train: float
    compress: float
    send: float
    fetch: float
    apply: float


class Clock:
    """Seconds since the run began. overlap: as in the specification (rounds.overlap).

    With overlap a peer begins to train for round r + 1 as soon as its work for round r is done
    ("delayed"), or compressed ("eager"), and it holds the state after r rounds.
    """

    def __init__(self, peers: int, overlap: str) -> None:
        self.overlap = overlap
        self.now = 0.0  # when all peers hold the newest state
        self._held = [0.0] * peers  # when each holds it
        self._ready = [0.0] * peers  # when its work for the round before could be handed in
        self._free = [0.0] * peers  # when it could go on to the next

    def round(self, costs: Sequence[Costs]) -> dict[int, dict[str, float]]:
        """Pass one round; returns peer -> phase -> seconds. `wait` is that for the slowest peer; with
        overlap `wall` is the time since the work for the round before was ready."""
        begun = self._held if self.overlap == "none" else self._free
        ready = [
            max(held, start + cost.train)
            for held, start, cost in zip(self._held, begun, costs, strict=True)
        ]
        handed = [at + cost.compress + cost.send for at, cost in zip(ready, costs, strict=True)]
        closes = max(handed)
        times = {}
        for peer, cost in enumerate(costs):
            times[peer] = msgspec.structs.asdict(cost) | {"wait": closes - handed[peer]}
            if self.overlap != "none":
                times[peer]["wall"] = ready[peer] - self._ready[peer]
        eager = self.overlap == "eager"
        self._free = [
            at + (cost.compress if eager else 0.0) for at, cost in zip(ready, costs, strict=True)
        ]
        self._ready = ready
        self._held = [closes + cost.fetch + cost.apply for cost in costs]
        self.now = max(self._held)
        return times
