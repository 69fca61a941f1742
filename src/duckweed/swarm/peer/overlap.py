"""The work that a peer does ahead: the next round begun in the background while one is exchanged."""

import asyncio
import threading
from collections.abc import Callable

from duckweed.round.blocks import Span
from duckweed.round.worker import Trained, Worker
from duckweed.run.state import State
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.errors import HandedBack

Report = Callable[[int, float], None]


def span_of(task: m.Train, steps: int) -> Span:
    """What a task names; steps: those of a whole block."""
    return Span(task.block, task.first, task.steps or steps)


class Overlap:
    """The first steps of at most one span, trained in a thread of their own. The model is busy with
    them until `take` or `drop` has returned."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._task: asyncio.Task[Trained] | None = None
        self._wanted: tuple[int, Span] | None = None
        self._halt = threading.Event()

    @property
    def round(self) -> int | None:
        """The round that is being, or has been, begun ahead."""
        return self._wanted[0] if self._wanted else None

    @property
    def done(self) -> bool:
        """Whether what can be done ahead is done."""
        return self._task is not None and self._task.done()

    def begin(self, state: State, task: m.Train, report: Report) -> None:
        """Begin with `task`, which is for the round after the one that follows on `state`."""
        assert self._task is None
        self._halt = halt = threading.Event()

        def stepped(step: int, loss: float) -> None:
            if halt.is_set():
                raise HandedBack
            report(step, loss)

        span = span_of(task, self.worker.spec.block_steps)
        self._wanted = task.round, span
        work = asyncio.to_thread(self.worker.ahead, state, span, stepped)
        self._task = asyncio.create_task(work)

    async def take(self, task: m.Train) -> Trained | None:
        """What was begun of this task, waited for if need be; None if there is nothing of the kind.
        Raises Diverged."""
        if self._wanted != (task.round, span_of(task, self.worker.spec.block_steps)):
            await self.drop()
            return None
        assert self._task is not None
        try:
            return await asyncio.shield(self._task)
        except HandedBack:
            return None
        finally:
            if self._task.done():
                self._task = self._wanted = None

    async def drop(self) -> None:
        """Forget the work; what is being trained ends with its next step."""
        self._halt.set()
        if self._task:
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.exception()  # looked at: nobody wants it any more
        self._task = self._wanted = None
