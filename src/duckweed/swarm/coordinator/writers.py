"""The peers that only write: which span each has, what came of it, and from when on others learn from it.

A peer that only writes is given a span when a round opens, and `task.staleness` rounds for it. Then the entry of a round
lists its answers, the span goes back to the others, and the next round learns from the answers. What it has not handed
in, checked, by then is lost. A peer has one span at a time, so that with a staleness of k it writes in every k-th round.

Nothing here is on disk: after a restart a peer that is given the same span again hands in again what it has.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from duckweed.ledger.entries import Writing
from duckweed.net import clock
from duckweed.round.blocks import Blocks, Span
from duckweed.round.open_round import Member
from duckweed.run.spec import RunSpec
from duckweed.run.task.sections import Reinforce


class Task(msgspec.Struct):
    """What a peer has to write, or has written."""

    round: int
    """By the weights that this round begins from."""
    span: Span
    begun: float
    said: Writing | None = None
    """What it handed in, whose blob is on disk."""
    checked: bool = False
    """Whether the rewards are what it says."""
    fault: str = ""
    """Why it cannot count."""


class WriterDesk:
    """The spans of the peers that only write, while this machine leads the run."""

    def __init__(self, spec: RunSpec) -> None:
        self.lag = spec.task.lag if isinstance(spec.task, Reinforce) else 1
        self._last = spec.schedule.rounds - 1 - self.lag  # what is written later nobody learns from
        self.tasks: dict[int, Task] = {}  # peer -> what it has to write

    def turn(self, member: Member, here: Sequence[Member], round_: int) -> bool:
        """Whether a peer that only writes begins with a span in this round. here: all that take part."""
        place = sum(x.writes and x.index < member.index for x in here)
        free = member.index not in self.tasks
        return free and round_ <= self._last and (round_ - place) % self.lag == 0

    def assign(self, member: Member, round_: int, blocks: Blocks, budget: int, usual: int) -> None:
        """Give a peer a span; blocks, budget, usual: as of Blocks.take. It is waited for from here on."""
        member.idle = member.idle and member.passed > 0
        self.tasks[member.index] = Task(round_, blocks.take(budget, usual), clock.now())

    def span(self, member: Member, round_: int) -> Span | None:
        """What a peer is to write by the weights that a round begins from; None: nothing, or nothing more."""
        task = self.tasks.get(member.index)
        open_ = task is not None and task.round == round_ and not (task.said or task.fault)
        return task.span if task and open_ else None

    def _due(self, round_: int) -> list[tuple[int, Task]]:
        """Those whose time is over when this round closes, by their peers' indices."""
        return sorted((p, x) for p, x in self.tasks.items() if x.round <= round_ - self.lag + 1)

    def wait(self, round_: int, expected: Collection[int]) -> bool:
        """Whether a round has to wait for answers. expected: peers that are waited for."""
        due = self._due(round_)
        return any(peer in expected and not (task.checked or task.fault) for peer, task in due)

    def close(self, round_: int, members: Mapping[int, Member]) -> list[tuple[int, Task]]:
        """Those whose time was over when this round closed; their spans go back to the others."""
        due = self._due(round_)
        for peer, task in due:
            del self.tasks[peer]
            if task.checked or task.fault:
                continue
            task.fault = "no answers were handed in, and checked, before the round closed"
            if (member := members.get(peer)) and not task.said:
                member.passed, member.idle = member.passed + 1, not member.works_for(task.round)
                took = clock.now() - task.begun
                member.pace = max(member.pace, took / max(1, member.step))
        return due
