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
    HOLDER_LEAST,
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
    gives more than its share. Others are asked as well when that one is gone, sends something else, is
    far behind the others, or has said nothing for HOLDER_SILENT or given nothing for HOLDER_EMPTY.

    How far behind is a matter of a holder and its whole share, not of a piece: one that gives a piece now and
    then, or asks for patience again and again, delays no more than one that is silent.
    """

    def __init__(self, parts: Parts, holders: Sequence[Ask], first: Sequence[int]) -> None:
        self.parts, self.holders = parts, list(holders)
        self.queues: list[deque[int]] = [deque() for _ in holders]
        for number, holder in enumerate(first):
            if number not in parts.here:
                self.queues[holder].append(number)
        self.gave = [clock.now()] * len(holders)  # when each last gave a piece
        self.heard = list(self.gave)  # and when it last answered at all
        self._began = clock.now()
        self._shares = [len(own) for own in self.queues]  # pieces that are still to come
        self._sharing = sum(map(bool, self._shares))  # holders that are to give anything
        self._done: list[float] = []  # seconds after which a holder had given its share, ascending
        self._owner = list(first)
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
                new = number not in self.parts.here
                if await self.parts.take(number, data):
                    if new:
                        self._came(number)
                else:
                    self.given[holder] -= 1
                    self.liars.add(holder)
                    self._give_up(holder, "a piece was not the one asked for", number)

    def _next(self, holder: int) -> int | None:
        own = self.queues[holder]
        while own:
            if (number := own.popleft()) not in self.parts.here:
                return number
        missing = set(self.given_up)
        for other in range(len(self.holders)):
            if other != holder and self._late(other):
                missing.update(self.queues[other], self.asked[other])
        missing -= self.parts.here | self.asked[holder]
        # Who else has them is not known: every free holder is asked, for another piece if it can be.
        return min(missing, key=lambda n: (sum(n in x for x in self.asked), n), default=None)

    def _came(self, number: int) -> None:
        """A piece is here, whoever gave it."""
        owner = self._owner[number]
        self._shares[owner] -= 1
        if self._shares[owner] == 0 and self.given[owner]:
            self._done.append(clock.now() - self._began)

    def _late(self, holder: int) -> bool:
        now = clock.now()
        if self._shares[holder] and 2 * len(self._done) >= self._sharing:
            middle = self._done[(self._sharing + 1) // 2 - 1]
            if now - self._began > middle + max(middle, HOLDER_LEAST):
                return True
        return now - self.heard[holder] > HOLDER_SILENT or now - self.gave[holder] > HOLDER_EMPTY

    def _put_back(self, holder: int, number: int) -> None:
        if self._owner[number] != holder or self._late(holder):
            self.given_up.add(number)
        else:
            self.queues[holder].append(number)

    def _give_up(self, holder: int, why: str, number: int) -> None:
        log.info("holder %d of %d is not asked again: %s", holder, len(self.holders), why)
        self.faults[holder] = why
        self.given_up.update(self.queues[holder], {number})
        self.queues[holder].clear()
