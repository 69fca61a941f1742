"""Fetching pieces from several holders at once: others help out a slow one and replace one that is gone."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from duckweed.net import clock
from duckweed.net.framing import LinkError
from duckweed.net.timeouts import (
    EMPTY_RETRY,
    EMPTY_RETRY_MOST,
    FETCH_IDLE,
    HOLDER_EMPTY,
    HOLDER_SILENT,
)
from duckweed.swarm.blobs.pieces import Parts

log = logging.getLogger(__name__)
TOGETHER = 3  # questions to one holder at a time: a round trip is not waited out...
MANY = 6  # ... if there are fewer holders; of more, each has many to answer, and its link is full

Ask = Callable[[int], Awaitable[bytes | None]]
"""number of a piece -> its bytes, or None: not there yet. Raises LinkError if the holder is gone."""


class MultiFetch:
    """Fetches one file from several holders.

    first: for each piece the position of the holder that is asked before all others, so that no holder
    gives more than its share. Others are asked as well when that one is gone, sends something else, or
    has said nothing for HOLDER_SILENT or given nothing for HOLDER_EMPTY.
    """

    def __init__(self, parts: Parts, holders: Sequence[Ask], first: Sequence[int]) -> None:
        self.parts, self.holders = parts, list(holders)
        self.queues: list[deque[int]] = [deque() for _ in holders]
        for number, holder in enumerate(first):
            if number not in parts.here:
                self.queues[holder].append(number)
        self.gave = [clock.now()] * len(holders)  # when each last gave a piece
        self.heard = list(self.gave)  # and when it last answered at all
        self._rest = [EMPTY_RETRY] * len(holders)  # seconds until it is asked again
        self.given_up: set[int] = set()
        self.asked: list[set[int]] = [set() for _ in holders]  # and not yet answered
        self.given = [0] * len(self.holders)  # pieces that each holder gave
        self.faults: dict[int, str] = {}  # holder -> why it was given up
        self.liars: set[int] = set()  # holders of which a piece was not the one asked for

    async def run(self) -> None:
        """Until all pieces are here. Raises LinkError if no holder is left, OSError if a piece cannot
        be kept."""
        workers = [
            asyncio.create_task(self._work(holder))
            for holder in range(len(self.holders))
            for _ in range(TOGETHER if len(self.holders) < MANY else 1)
        ]
        whole = asyncio.create_task(self._whole())
        going = set(workers)
        try:  # what is still on its way when all is here need not be waited for
            while going and not whole.done():
                done, _ = await asyncio.wait({whole, *going}, return_when=asyncio.FIRST_COMPLETED)
                going -= done
                for worker in done - {whole}:
                    worker.result()  # a full disk ends all of them, for a piece is lost with it
        finally:
            for task in (whole, *workers):
                task.cancel()
            await asyncio.gather(whole, *workers, return_exceptions=True)
        if not self.parts.whole:
            reasons = "; ".join(sorted(set(self.faults.values())))
            raise LinkError(f"no holder of the file is left ({reasons})")

    async def _whole(self) -> None:
        async with self.parts.came:
            await self.parts.came.wait_for(lambda: self.parts.whole)

    async def _work(self, holder: int) -> None:
        while not self.parts.whole and holder not in self.faults:
            number = self._next(holder)
            if number is None:
                await asyncio.sleep(FETCH_IDLE)
                continue
            self.asked[holder].add(number)
            try:
                data = await self.holders[holder](number)
            except LinkError as error:
                self._give_up(holder, str(error), number)
                return
            self.asked[holder].discard(number)
            self.heard[holder] = clock.now()
            if data is None:
                self._put_back(holder, number)
                rest = self._rest[holder]
                self._rest[holder] = min(2 * rest, EMPTY_RETRY_MOST)
                await asyncio.sleep(rest)
            else:
                self.gave[holder] = self.heard[holder]
                self._rest[holder] = EMPTY_RETRY
                self.given[holder] += 1  # before others hear of it, the last piece ends all work
                if not await self.parts.take(number, data):
                    self.given[holder] -= 1
                    self.liars.add(holder)
                    self._give_up(holder, "a piece was not the one asked for", number)

    def _next(self, holder: int) -> int | None:
        own = self.queues[holder]
        while own:
            if (number := own.popleft()) not in self.parts.here:
                return number
        for number in sorted(self.given_up - self.parts.here):
            self.given_up.discard(number)
            return number
        late = (h for h in range(len(self.holders)) if h != holder and self._late(h))
        missing = (n for h in late for n in (*self.queues[h], *sorted(self.asked[h])))
        taken = self.parts.here | self.asked[holder]
        return next((n for n in missing if n not in taken), None)

    def _late(self, holder: int) -> bool:
        now = clock.now()
        return now - self.heard[holder] > HOLDER_SILENT or now - self.gave[holder] > HOLDER_EMPTY

    def _put_back(self, holder: int, number: int) -> None:
        if self._late(holder):
            self.given_up.add(number)
        else:
            self.queues[holder].append(number)

    def _give_up(self, holder: int, why: str, number: int) -> None:
        log.info("holder %d of %d is not asked again: %s", holder, len(self.holders), why)
        self.faults[holder] = why
        self.given_up.update(self.queues[holder], {number})
        self.queues[holder].clear()
