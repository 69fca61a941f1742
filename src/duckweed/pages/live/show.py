"""One run as its viewers see it: looked at while somebody watches, each part sent when it has changed."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

import msgspec

from duckweed.ledger.ledger import LedgerError
from duckweed.pages.live.follow import Follower
from duckweed.pages.live.sections import Live, parts, shown, unit, unseen
from duckweed.run.folder import FolderError

log = logging.getLogger(__name__)

LOOK = 2.0  # seconds between two looks at the run
SLOW = 10.0  # seconds between two versions of the table of peers, but at every round
BEAT = 20.0  # seconds until a viewer hears at least that the page is there
SPOKEN = 30.0  # seconds between two sentences for screen readers


class Show:
    """The parts of one run's page, and who waits for news of them."""

    def __init__(self, run: Follower, live: Live | None = None) -> None:
        self.run, self.live = run, live
        self.parts: dict[str, str] = {}
        self.fault = ""
        """Why the run cannot be read at the moment."""
        self.viewers = 0
        self.closing = False
        self._version: dict[str, int] = {}
        self._encoded: dict[str, bytes] = {}
        self._count = 0
        self._said, self._spoken = "", -SPOKEN
        self._looked = self._slow = -SLOW
        self._lock, self._news = asyncio.Lock(), asyncio.Condition()
        self._watching: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Bring the parts up to date, unless that was done a moment ago."""
        async with self._lock:
            if time.monotonic() - self._looked < LOOK:
                return
            self._looked = time.monotonic()
            closed = len(self.run.rounds)
            try:
                await asyncio.to_thread(self.run.look)
                made = await asyncio.to_thread(parts, self.run, self.live)
            except (LedgerError, FolderError, OSError) as error:
                self.fault = str(error)
                log.warning("the page cannot show %s: %s", self.run.folder.path, error)
                return
            self.fault = ""
            slow = self._looked - self._slow >= SLOW or closed != len(self.run.rounds)
            if slow:
                self._slow = self._looked
            else:
                made.pop("peers", None)
            if self._take(made):
                self._speak(closed)
                async with self._news:
                    self._news.notify_all()

    def _take(self, made: dict[str, str]) -> bool:
        fresh = {name: html for name, html in made.items() if self.parts.get(name) != html}
        self._count += bool(fresh)
        for name, html in fresh.items():
            self.parts[name], self._version[name] = html, self._count
            self._encoded[name] = msgspec.json.encode(name) + b":" + msgspec.json.encode(html)
        return bool(fresh)

    def _speak(self, before: int) -> None:
        closed = len(self.run.rounds)
        if closed > before > 0 and self._looked - self._spoken >= SPOKEN:
            self._spoken = self._looked
            measured = unseen(self.run)
            loss = f"; {shown(self.run, measured[-1][1]):.3f} {unit(self.run)}" if measured else ""
            self._said = f"Round {closed} of {self.run.spec.schedule.rounds} has closed{loss}."

    @property
    def version(self) -> bytes:
        """Changes when a viewer's page must be loaded anew."""
        return self.run.spec.identity[:12].encode()

    async def news(self) -> AsyncIterator[bytes]:
        """Server-sent events for one viewer, until the page closes. What was not read is not kept: a slow
        viewer gets the newest version of each part."""
        seen, said = 0, self._said
        yield b"retry: 2000\n" + event("run", self.version)
        while True:
            await self.look()
            if fresh := [name for name, version in self._version.items() if version > seen]:
                seen = self._count
                yield event("parts", b"{" + b",".join(self._encoded[x] for x in fresh) + b"}")
            if self._said != said:
                said = self._said
                yield event("said", said.encode())
            if self.closing:
                return
            if not await self._wait(lambda seen=seen: self._count > seen or self.closing):  # type: ignore[misc]
                yield event("beat", b"")

    async def _wait(self, true: Callable[[], bool]) -> bool:
        try:
            async with asyncio.timeout(BEAT), self._news:
                await self._news.wait_for(true)
                return True
        except TimeoutError:
            return False

    def enter(self) -> None:
        """One more viewer: from the first on the run is looked at."""
        self.viewers += 1
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    def leave(self) -> None:
        """One viewer less."""
        self.viewers -= 1

    async def _watch(self) -> None:
        while self.viewers and not self.closing:
            await self.look()
            await asyncio.sleep(LOOK)
        self._watching = None

    async def close(self) -> None:
        """Let each viewer have the last version, and end."""
        self._looked = self._slow = -SLOW
        await self.look()
        self.closing = True
        async with self._news:
            self._news.notify_all()


def event(name: str, data: bytes) -> bytes:
    """One server-sent event; data: one line."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
