"""A peer's connections to other peers: it gives members of the run what it has, and fetches pieces from
them."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable

import msgspec

from duckweed.net import clock
from duckweed.net.carrier import Endpoint
from duckweed.net.framing import LinkError
from duckweed.net.rate_limits import Buckets, RateLimits
from duckweed.net.timeouts import DONOR_ANSWER, PIECE_CHECK, PIECE_HELD, SHUN, UNKNOWN, within
from duckweed.net.token_bucket import Bucket
from duckweed.swarm.blobs.multi_fetch import Ask, MultiFetch
from duckweed.swarm.blobs.pieces import Parts, length
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import A, Asks, Client, NotLeader, QuestionRefused
from duckweed.swarm.protocol.server import accepting

log = logging.getLogger(__name__)

STRANGERS = 1000  # keys that are remembered as unknown, of those asked about last
# How often the coordinator is asked about a key that is not known: per second, and at once. It takes 100
# questions per second of a peer, and strangers must not use them up.
ASKED_FROM_ONE_ADDRESS = 2.0, 20.0
ASKED = 20.0, 100.0
LIARS = 1000  # keys that are remembered as liars

COORDINATOR = ""
"""In place of a key: the coordinator, which is asked over its own connection."""

PeerQuestion = m.GetBlobPiece | m.GetSavedState | m.GetStatePiece | m.GetCopiedEntries
"""What peers ask each other."""

Copied = Callable[[m.GetCopiedEntries], tuple[m.Answer, bytes]]
"""What this machine's copy of the ledger has beyond the end of another."""


class PeerLinks:
    """Connections to other peers, made when they are needed. coordinator: can be asked who is a member,
    and for pieces."""

    def __init__(
        self,
        endpoint: Endpoint,
        store: Store,
        coordinator: Asks,
        liars: set[str] | None = None,
        rate_limits: RateLimits | None = None,
    ) -> None:
        """liars: keys of those who gave what is wrong: they are not asked again. rate_limits: of the
        endpoint, where it has others than those made here."""
        self.endpoint, self.store, self.coordinator = endpoint, store, coordinator
        self.given = self.fetched = 0  # bytes to and from other peers
        self.copied: Copied | None = None  # where this machine copies the ledger
        self._members: set[str] = set()  # keys
        self.liars = set() if liars is None else liars
        self.rate_limits = rate_limits or RateLimits(self._members.__contains__)
        # Key -> when the coordinator did not know it.
        self._strangers: OrderedDict[str, float] = OrderedDict()
        self._asked_from, self._asked = Buckets(*ASKED_FROM_ONE_ADDRESS), Bucket(*ASKED)
        self._links: dict[str, asyncio.Task[Client]] = {}  # by key
        self._shunned: dict[str, float] = {}  # key -> when it could not be reached

    # --- giving

    async def serve(self) -> None:
        """Answer questions of other peers until the endpoint closes."""
        await self.endpoint.serve(
            accepting(
                m.question, lambda key, question: 0, self.answer, fault=self.rate_limits.fault
            ),
            self.rate_limits,
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
        answer, data = self._give(question)
        closes = clock.now() + PIECE_HELD
        while isinstance(answer, m.Wait) and clock.now() < closes:
            await asyncio.sleep(PIECE_CHECK)
            answer, data = self._give(question)
        self.given += len(data)
        return answer, data

    def _give(self, question: PeerQuestion) -> tuple[m.Answer, bytes]:
        if not isinstance(question, m.GetCopiedEntries):
            return self.store.give(question)
        if self.copied is None:
            return m.Refused("this machine keeps no copy of the ledger"), b""
        return self.copied(question)

    def met(self, key: str) -> bool:
        """Whether the holder of a key is known to take part."""
        return key in self._members

    async def _member(self, key: str) -> bool:
        """Whether the holder of a key takes part, as the coordinator says."""
        if key in self._members:
            return True
        now = clock.now()
        if now - self._strangers.get(key, -UNKNOWN) < UNKNOWN:
            return False
        if not (self._asked_from.take(self.rate_limits.origin_of(key)) and self._asked.take()):
            return False  # too many are asked about: this one the next time
        self._strangers[key] = now
        self._strangers.move_to_end(key)
        while len(self._strangers) > STRANGERS:
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

        others = [x for x in manifest.at if x.key not in self.liars | {self.endpoint.id}]
        from_peers = [
            self._asking(x, lambda number: m.GetBlobPiece(digest, number), parts.step)
            for x in others
        ]
        place = {x.key: 1 + i for i, x in enumerate(others)}
        first = [place.get(keys[n % len(keys)], 0) for n in range(len(parts.hashes))]
        work = MultiFetch(parts, [from_coordinator, *from_peers], first)
        try:
            await work.run()
        finally:
            self.distrust([others[n - 1].key for n in work.liars if n])
        return parts.all()

    def distrust(self, keys: Iterable[str]) -> None:
        """Do not ask the holders of these keys again: they gave what is wrong."""
        for key in keys:
            log.warning("peer %s gave what is wrong; it is not asked again", key[:10])
            if len(self.liars) < LIARS:
                self.liars.add(key)

    async def donors(
        self, donors: m.DonorList, coordinator: m.SavedState | None
    ) -> list[list["Donor"]]:
        """Who can give a state that was agreed on, in groups that offer the same pieces: the largest
        group first, of equals the one with the newest state. That one donor offers a newer state than
        all others makes it none to be asked first: its offer is only its word, until the state is here
        and has the agreed hash. coordinator: what it offers."""
        self._members.update(x.key for x in donors.at)
        asked = [x for x in donors.at if x.key not in self.liars]

        async def offer(peer: m.PeerAddress) -> Donor | None:
            try:
                saved, _ = await within(DONOR_ANSWER, self.ask(peer, m.GetSavedState()))
            except (LinkError, TimeoutError) as error:
                log.info("no state from %s: %s", peer.key[:10], error or "no answer")
                return None
            return Donor(peer.key, saved, self._asking(peer, *_pieces_of(saved)))

        found = [x for x in await asyncio.gather(*map(offer, asked)) if x]
        if coordinator:
            piece, limit = _pieces_of(coordinator)

            async def ask(number: int) -> bytes | None:
                return _piece(*await self.coordinator.ask(piece(number), body_limit=limit))

            found.append(Donor(COORDINATOR, coordinator, ask))
        groups: dict[bytes, list[Donor]] = {}
        for donor in found:
            if donor.saved.round in donors.agreed:
                groups.setdefault(m.encode(donor.saved), []).append(donor)
        return sorted(groups.values(), key=lambda x: (len(x), x[0].saved.round), reverse=True)

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

    key: str  # its public key, or COORDINATOR
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
