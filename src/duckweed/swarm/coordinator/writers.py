"""The peers that only write: which span each has, what came of it, and from when on others learn from it.

A peer that only writes is given a span when a round opens, and `task.staleness` rounds for it. Then the entry of a round
lists its answers, the span goes back to the others, and the next round learns from the answers. What it has not handed
in, checked, by then is lost. A peer has one span at a time, so that with a staleness of k it writes in every k-th round.
"""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from duckweed.ledger.entries import Writing
from duckweed.net import clock
from duckweed.round.answers import span_of
from duckweed.round.blocks import Span
from duckweed.round.history import RunHistory
from duckweed.round.open_round import Member
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec
from duckweed.run.task.sections import Reinforce
from duckweed.run.task.written import Written
from duckweed.swarm.coordinator import handed_in


class Task(msgspec.Struct):
    """What a peer has to write, or has written."""

    round: int
    """By the weights that this round begins from."""
    span: Span
    begun: float = 0.0
    """When it was told."""
    said: Writing | None = None
    """What it handed in, whose blob is on disk."""
    told: Written = msgspec.field(default_factory=Written)
    checked: bool = False
    """Whether the rewards are what it says."""
    fault: str = ""
    """Why it cannot count."""


class WriterDesk:
    """The spans of the peers that only write, while this machine leads the run."""

    def __init__(self, folder: RunFolder, history: RunHistory, spec: RunSpec) -> None:
        self.folder, self.history = folder, history
        self.lag = spec.task.lag if isinstance(spec.task, Reinforce) else 1
        self._last = spec.schedule.rounds - 1 - self.lag  # what is written later nobody learns from
        self.tasks: dict[int, Task] = {}  # peer -> what it has to write
        for said, told in handed_in.writings(folder, self.history.number - self.lag + 1):
            self.history.blocks.hold([span_of(said)])
            self.tasks[said.peer] = Task(said.round, span_of(said), said=said, told=told)

    # --- what is given out

    def turn(self, member: Member, here: Sequence[Member], round_: int) -> bool:
        """Whether a peer that only writes begins with a span in this round. here: all that take part."""
        writers = [x.index for x in here if x.writes]
        place = writers.index(member.index) if member.index in writers else 0
        free = member.index not in self.tasks
        return free and round_ <= self._last and round_ % self.lag == place % self.lag

    def assign(self, member: Member, round_: int, budget: int, usual: int) -> None:
        """Give a peer a span of at most `budget` steps. usual: as of Blocks.take."""
        self.tasks[member.index] = Task(round_, self.history.blocks.take(budget, usual))

    def span(self, member: Member, round_: int) -> Span | None:
        """What a peer is to write by the weights that a round begins from; None: nothing, or nothing more."""
        task = self.tasks.get(member.index)
        if task is None or task.round != round_ or task.said or task.fault:
            return None
        task.begun = task.begun or clock.now()
        return task.span

    # --- what comes in

    def take(self, member: Member, said: Writing, told: Written) -> Task:
        """Note answers, whose blob is on disk. said: with its signature."""
        task = self.tasks[member.index]
        task.said, task.told = said, told
        handed_in.keep_writings(
            self.folder, [(x.said, x.told) for x in self.tasks.values() if x.said]
        )
        member.worked(late=False)
        if task.begun:
            member.pace = (clock.now() - task.begun) / task.span.steps
        return task

    # --- when a round closes

    def due(self, task: Task | None, round_: int) -> bool:
        """Whether the time for a span is over when this round closes."""
        return task is not None and task.round <= round_ - self.lag + 1

    def _due(self, round_: int) -> Iterator[tuple[int, Task]]:
        return ((peer, task) for peer, task in self.tasks.items() if self.due(task, round_))

    def wait(self, round_: int, expected: set[int]) -> bool:
        """Whether a round has to wait for answers. expected: peers that are waited for."""
        return any(
            peer in expected and not (task.checked or task.fault)
            for peer, task in self._due(round_)
        )

    def close(
        self, round_: int, member_of: Callable[[int], Member | None]
    ) -> list[tuple[int, Task]]:
        """Those whose time was over when this round closed, whose spans go back to the others."""
        due = sorted(self._due(round_), key=lambda one: one[0])
        for peer, task in due:
            del self.tasks[peer]
            member = member_of(peer)
            if task.said is None and not task.fault:
                task.fault = "no answers were handed in before the round closed"
                if member:
                    member.passed, member.idle = member.passed + 1, not member.works_for(task.round)
                    if task.begun:
                        took = clock.now() - task.begun
                        member.pace = max(member.pace, took / max(1, member.step))
            elif not task.checked and not task.fault:
                task.fault = "the rewards of its answers were not checked before the round closed"
        return due
