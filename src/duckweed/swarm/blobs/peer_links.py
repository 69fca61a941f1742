"""A peer among peers: gives what it has to members of the run, fetches pieces from them."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from duckweed.net.rate_limits import RateLimits
from duckweed.net.timeouts import PIECE_CHECK, PIECE_HELD, SHUN
from duckweed.net.transport import Endpoint, Link, LinkError
from duckweed.swarm.blobs.multi_fetch import Ask, Gather
from duckweed.swarm.blobs.pieces import Parts, length
from duckweed.swarm.blobs.store import Library
from duckweed.swarm.protocol import messages as m

STRANGERS = 1000  # keys that are remembered as unknown

Question = Callable[[m.Message, int], Awaitable[tuple[m.Answer, bytes]]]
"""(question, most bytes of body) -> the coordinator's answer."""


class Neighbours:
    """Links to other peers, made when they are needed. coordinator: asks it a question."""

    def __init__(self, endpoint: Endpoint, library: Library, coordinator: Question) -> None:
        self.endpoint, self.library, self.coordinator = endpoint, library, coordinator
        self.given = self.fetched = 0  # bytes
        self._members: set[str] = set()
        self._strangers: dict[str, float] = {}
        self._links: dict[str, asyncio.Task[Link]] = {}
        self._shunned: dict[str, float] = {}

    # --- giving

    async def serve(self) -> None:
        """Answer questions of other peers until the endpoint closes."""
        guard = RateLimits(self._members.__contains__)
        await self.endpoint.serve(self.answer, lambda key, head: 0, guard)

    async def answer(self, key: str, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Raises ValueError for anything that peers do not ask each other."""
        question = m.question(head)
        if not isinstance(question, m.Part | m.Snapshot | m.Piece):
            raise ValueError("not a question for a peer")
        if not await self._member(key):
            return m.encode(m.Refused("takes no part in this run")), b""
        answer, data = self.library.give(question)
        closes = time.monotonic() + PIECE_HELD
        while isinstance(answer, m.Wait) and time.monotonic() < closes:
            await asyncio.sleep(PIECE_CHECK)
            answer, data = self.library.give(question)
        self.given += len(data)
        return m.encode(answer), data

    def met(self, key: str) -> bool:
        """Whether the holder of a key is known to take part."""
        return key in self._members

    async def _member(self, key: str) -> bool:
        """Whether the holder of a key takes part: as was heard, or as the coordinator says."""
        if key in self._members:
            return True
        now = time.monotonic()
        if now - self._strangers.get(key, -SHUN) < SHUN or len(self._strangers) >= STRANGERS:
            return False
        self._strangers[key] = now
        answer, _ = await self.coordinator(m.Known(key), 0)
        if isinstance(answer, m.Noted):
            self._members.add(key)
            del self._strangers[key]
            return True
        return False

    # --- fetching

    async def blob(self, digest: str, held: m.Held) -> bytes:
        """A blob from the coordinator and from the peers that fetch it as well. Raises LinkError,
        ValueError."""
        parts = Parts(held.size, held.pieces)
        self.library.gather(digest, parts)
        self._members.update(x.key for x in held.at)
        keys = [x.key for x in held.at]

        async def from_coordinator(number: int) -> bytes | None:
            return _piece(*await self.coordinator(m.Part(digest, number), parts.step))

        others = [x for x in held.at if x.key != self.endpoint.id]
        holders = [from_coordinator, *(self._ask(x, m.Part, digest, parts.step) for x in others)]
        place = {x.key: 1 + i for i, x in enumerate(others)}
        first = [place.get(keys[n % len(keys)], 0) for n in range(len(parts.hashes))]
        await Gather(parts, holders, first).run()
        return parts.all()

    async def state(self, donated: m.Donated, coordinator: m.Saved | None) -> list["Donor"]:
        """Who can give the newest state that was agreed on: donors that offer the same pieces."""
        self._members.update(x.key for x in donated.at)

        async def offer(holder: m.Holder) -> Donor | None:
            try:
                answer, _ = await self._question(holder, m.Snapshot(), 0)
            except LinkError:
                return None
            return (
                Donor(answer, self._ask_state(holder, answer))
                if isinstance(answer, m.Saved)
                else None
            )

        found = [x for x in await asyncio.gather(*map(offer, donated.at)) if x]
        if coordinator:

            async def ask(number: int) -> bytes | None:
                question = m.Piece(coordinator.round, number)
                return _piece(*await self.coordinator(question, length(coordinator.size)))

            found.append(Donor(coordinator, ask))
        found = [x for x in found if x.saved.round in donated.agreed]
        if not found:
            return []
        newest = max(x.saved.round for x in found)
        groups: dict[bytes, list[Donor]] = {}
        for donor in found:
            if donor.saved.round == newest:
                groups.setdefault(m.encode(donor.saved), []).append(donor)
        return max(groups.values(), key=len)

    def _ask_state(self, holder: m.Holder, saved: m.Saved) -> Ask:
        return self._ask(holder, m.Piece, saved.round, length(saved.size))

    def _ask(self, holder: m.Holder, kind: Callable, of: object, limit: int) -> Ask:
        async def ask(number: int) -> bytes | None:
            answer, data = await self._question(holder, kind(of, number), limit)
            self.fetched += len(data)
            return _piece(answer, data)

        return ask

    async def _question(
        self, holder: m.Holder, question: m.Message, limit: int
    ) -> tuple[m.Answer, bytes]:
        link = await self._link(holder)
        try:
            head, data = await link.ask(m.encode(question), body_limit=limit)
            return m.answer(head), data
        except (LinkError, msgspec.DecodeError) as error:
            self._drop(holder.key)
            raise LinkError(f"peer {holder.key[:10]}: {error}") from error

    async def _link(self, holder: m.Holder) -> Link:
        if time.monotonic() - self._shunned.get(holder.key, -SHUN) < SHUN:
            raise LinkError(f"peer {holder.key[:10]} could not be reached a moment ago")
        task = self._links.get(holder.key)
        if task is None:
            dial = self.endpoint.connect(holder.key, holder.addresses)
            task = self._links[holder.key] = asyncio.create_task(dial)
        try:
            return await asyncio.shield(task)
        except LinkError:
            self._drop(holder.key)
            raise

    def _drop(self, key: str) -> None:
        self._shunned[key] = time.monotonic()
        task = self._links.pop(key, None)
        if task and task.done() and not task.cancelled() and not task.exception():
            task.result().close()

    def close(self) -> None:
        for task in self._links.values():
            task.cancel()
            if task.done() and not task.cancelled() and not task.exception():
                task.result().close()
        self._links.clear()


class Donor(msgspec.Struct):
    """What somebody offers to a newcomer, and how to ask for its pieces."""

    saved: m.Saved
    ask: Ask


def _piece(answer: m.Answer, data: bytes) -> bytes | None:
    """What an answer to a question for a piece holds. Raises LinkError if it was refused."""
    if isinstance(answer, m.Blob):
        return data
    if isinstance(answer, m.Wait):
        return None
    raise LinkError(getattr(answer, "reason", "no proper answer"))
