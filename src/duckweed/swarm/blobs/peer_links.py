"""A peer's connections to other peers: it gives members of the run what it has, and fetches pieces from
them."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from duckweed.net import clock
from duckweed.net.carrier import Endpoint
from duckweed.net.framing import LinkError
from duckweed.net.rate_limits import RateLimits
from duckweed.net.timeouts import PIECE_CHECK, PIECE_HELD, SHUN, UNKNOWN
from duckweed.net.token_bucket import Bucket
from duckweed.swarm.blobs.multi_fetch import Ask, MultiFetch
from duckweed.swarm.blobs.pieces import Parts, length
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import A, Asks, Client, NotLeader, QuestionRefused
from duckweed.swarm.protocol.server import accepting

log = logging.getLogger(__name__)

STRANGERS = 1000  # keys that are remembered as unknown, the last ones
INQUIRIES = 5.0, 50.0  # questions to the coordinator about unknown keys: per second, and at once

PeerQuestion = m.GetBlobPiece | m.GetSavedState | m.GetStatePiece
"""What peers ask each other."""


class PeerLinks:
    """Connections to other peers, made when they are needed. coordinator: can be asked who is a member,
    and for pieces."""

    def __init__(self, endpoint: Endpoint, store: Store, coordinator: Asks) -> None:
        self.endpoint, self.store, self.coordinator = endpoint, store, coordinator
        self.given = self.fetched = 0  # bytes to and from other peers
        self._members: set[str] = set()  # keys
        # key -> when the coordinator did not know it
        self._strangers: OrderedDict[str, float] = OrderedDict()
        self._inquiries = Bucket(*INQUIRIES)
        self._links: dict[str, asyncio.Task[Client]] = {}  # by key
        self._shunned: dict[str, float] = {}  # key -> when it could not be reached

    # --- giving

    async def serve(self) -> None:
        """Answer questions of other peers until the endpoint closes."""
        rate_limits = RateLimits(self._members.__contains__)
        await self.endpoint.serve(
            accepting(m.question, lambda key, question: 0, self.answer, fault=rate_limits.fault),
            rate_limits,
        )

    async def answer(
        self, key: str, question: m.AnyQuestion, body: bytes
    ) -> tuple[m.Answer, bytes]:
        """Answer the peer with this key. Raises ValueError for anything that peers do not ask each
        other."""
        if not isinstance(question, PeerQuestion):
            raise ValueError("not a question for a peer")
        if not await self._member(key):
            log.info("refused %s to %s: not a member", type(question).__name__, key[:10])
            return m.Refused("the asker takes no part in this run"), b""
        answer, data = self.store.give(question)
        closes = clock.now() + PIECE_HELD
        while isinstance(answer, m.Wait) and clock.now() < closes:
            await asyncio.sleep(PIECE_CHECK)
            answer, data = self.store.give(question)
        self.given += len(data)
        return answer, data

    def met(self, key: str) -> bool:
        """Whether the holder of a key is known to take part."""
        return key in self._members

    async def _member(self, key: str) -> bool:
        """Whether the holder of a key takes part, as the coordinator says."""
        if key in self._members:
            return True
        now = clock.now()
        if now - self._strangers.get(key, -UNKNOWN) < UNKNOWN or not self._inquiries.take():
            return False
        self._strangers[key] = now  # before it is asked about: once at a time
        self._strangers.move_to_end(key)
        if len(self._strangers) > STRANGERS:
            self._strangers.popitem(last=False)
        try:
            await self.coordinator.ask(m.IsMember(key))
        except QuestionRefused:
            return False
        self._members.add(key)
        self._strangers.pop(key, None)
        return True

    # --- fetching

    async def blob(self, digest: str, manifest: m.BlobManifest) -> bytes:
        """A blob from the coordinator and from the peers that fetch it as well. Raises LinkError,
        ValueError."""
        parts = Parts(manifest.size, manifest.pieces)
        self.store.gather(digest, parts)
        self._members.update(x.key for x in manifest.at)
        keys = [x.key for x in manifest.at]

        async def from_coordinator(number: int) -> bytes | None:
            question = m.GetBlobPiece(digest, number)
            return _piece(*await self.coordinator.ask(question, body_limit=parts.step))

        others = [x for x in manifest.at if x.key != self.endpoint.id]
        from_peers = [
            self._asking(x, lambda number: m.GetBlobPiece(digest, number), parts.step)
            for x in others
        ]
        place = {x.key: 1 + i for i, x in enumerate(others)}
        first = [place.get(keys[n % len(keys)], 0) for n in range(len(parts.hashes))]
        await MultiFetch(parts, [from_coordinator, *from_peers], first).run()
        return parts.all()

    async def state(self, donors: m.DonorList, coordinator: m.SavedState | None) -> list["Donor"]:
        """Who can give the newest state that was agreed on: donors that offer the same pieces.
        coordinator: what it offers."""
        self._members.update(x.key for x in donors.at)

        async def offer(peer: m.PeerAddress) -> Donor | None:
            try:
                saved, _ = await self.ask(peer, m.GetSavedState())
            except LinkError as error:
                log.info("no state from %s: %s", peer.key[:10], error)
                return None
            return Donor(saved, self._asking(peer, *_pieces_of(saved)))

        found = [x for x in await asyncio.gather(*map(offer, donors.at)) if x]
        if coordinator:
            piece, limit = _pieces_of(coordinator)

            async def ask(number: int) -> bytes | None:
                return _piece(*await self.coordinator.ask(piece(number), body_limit=limit))

            found.append(Donor(coordinator, ask))
        found = [x for x in found if x.saved.round in donors.agreed]
        if not found:
            return []
        newest = max(x.saved.round for x in found)
        groups: dict[bytes, list[Donor]] = {}
        for donor in found:
            if donor.saved.round == newest:
                groups.setdefault(m.encode(donor.saved), []).append(donor)
        return max(groups.values(), key=len)

    def _asking(
        self,
        peer: m.PeerAddress,
        piece: Callable[[int], m.Question[m.Blob | m.Wait]],
        limit: int,
    ) -> Ask:
        async def ask(number: int) -> bytes | None:
            answer, data = await self.ask(peer, piece(number), limit)
            self.fetched += len(data)
            return _piece(answer, data)

        return ask

    async def ask(
        self, peer: m.PeerAddress, question: m.Question[A], limit: int = 0
    ) -> tuple[A, bytes]:
        """Ask another peer. limit: most bytes of the answer's body. Raises LinkError."""
        client = await self._client(peer)
        try:
            return await client.ask(question, body_limit=limit)
        except (QuestionRefused, NotLeader):
            raise
        except LinkError as error:
            log.info("connection to peer %s lost: %s", peer.key[:10], error)
            self._drop(peer.key)
            raise LinkError(f"peer {peer.key[:10]}: {error}") from error

    async def _client(self, peer: m.PeerAddress) -> Client:
        if clock.now() - self._shunned.get(peer.key, -SHUN) < SHUN:
            raise LinkError(f"peer {peer.key[:10]} could not be reached a moment ago")
        task = self._links.get(peer.key)
        if task is None:
            task = self._links[peer.key] = asyncio.create_task(self._dial(peer))
        try:
            return await asyncio.shield(task)
        except LinkError:
            self._drop(peer.key)
            raise

    async def _dial(self, peer: m.PeerAddress) -> Client:
        return Client(await self.endpoint.connect(peer.key, peer.addresses))

    def _drop(self, key: str) -> None:
        self._shunned[key] = clock.now()
        if task := self._links.pop(key, None):
            _hang_up(task)

    def close(self) -> None:
        for task in self._links.values():
            task.cancel()
            _hang_up(task)
        self._links.clear()


class Donor(msgspec.Struct):
    """Somebody who can give a newcomer its state."""

    saved: m.SavedState  # what is offered
    ask: Ask  # asks for one piece of it


def _hang_up(dialling: asyncio.Task[Client]) -> None:
    if dialling.done() and not dialling.cancelled() and not dialling.exception():
        dialling.result().close()


def _pieces_of(saved: m.SavedState) -> tuple[Callable[[int], m.GetStatePiece], int]:
    """How to ask for a piece of a saved state by its number, and the most bytes that it has."""
    return lambda number: m.GetStatePiece(saved.round, number), length(saved.size)


def _piece(answer: m.Blob | m.Wait, data: bytes) -> bytes | None:
    """A piece; None if the other side does not have it yet."""
    return data if isinstance(answer, m.Blob) else None
