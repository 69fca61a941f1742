"""What a successor of a family does for the runs that it does not train: it keeps their ledgers, votes, and leads them
should that fall to it. Paths that nobody leads it begins."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from duckweed.ledger.entries import GenesisEntry, RoundEntry, StateEntry
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.net.identity import Identity, lend, load_or_create
from duckweed.net.timeouts import HANDOVER, PATHS_KEEP, PATHS_NOTE, RETRY
from duckweed.net.transport import Endpoint, LinkError
from duckweed.round import branching, founding
from duckweed.round.engine import Engine, FolderBlobs
from duckweed.run import family
from duckweed.run import spec as specs
from duckweed.run import state as states
from duckweed.run.error_words import EXPECTED, words
from duckweed.run.folder import FolderError, RunFolder, private, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.state import StateError
from duckweed.swarm.coordinator.guest_book import GuestBook
from duckweed.swarm.node.node import Node
from duckweed.swarm.node.replica import Known
from duckweed.swarm.peer.bootstrap import Bootstrap
from duckweed.swarm.peer.join import terms
from duckweed.swarm.peer.newest_state import NotAgreed, state_of
from duckweed.swarm.peer.preparation import fetch_router
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol import offers
from duckweed.swarm.protocol.client import A, Client
from duckweed.swarm.protocol.invitation import Invitation
from duckweed.volunteer import controls, peer_home
from duckweed.volunteer.peer_home import PeerHome, PeerHomeError

Say = Callable[[str], None]
FAMILY = "family"
"""Name of the invitation to a path that those have who come from the common start."""


class Keeper:
    """What a successor keeps of its family, beside the path that it trains: the common start, where the machines of the
    family find each other, and the other paths; each as a task. home: of the common start, around those of the paths."""

    def __init__(self, home: PeerHome, say: Say) -> None:
        self._home, self._around, self._say = home, RunFolder(home.home), say
        self._key = load_or_create(home.peer / "key")
        self._trained: int | None = None
        self._known: dict[int, m.PathOffer] = {}  # as its folder here was last told of a path
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._common: Node | None = None
        _adopt(home)
        self._writing = asyncio.Lock()  # held while a path is begun here
        self._always = [
            asyncio.create_task(_again(self._keep_common, self._say_of("common start"))),
            asyncio.create_task(_again(self._look, say)),
        ]

    def offered(self) -> list[m.PathOffer]:
        """The paths, as far as is known here; none before somebody has begun them."""
        return noted(self._around)

    async def all_but(self, trained: int | None) -> None:
        """From here on this machine trains that path, and keeps it by that."""
        self._trained = trained
        if trained is not None and (task := self._tasks.pop(trained, None)):
            async with self._writing:
                task.cancel()
            await asyncio.wait([task])

    async def close(self) -> None:
        """Once all paths are over: let others copy the end of their ledgers, then end."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=HANDOVER)
        tasks = [*self._tasks.values(), *self._always]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        """Keep what is offered. While this machine leads the common start, it is the one that offers."""
        while True:
            found = await asyncio.to_thread(self.offered)
            if self._leads():
                found = found or await asyncio.to_thread(first_offers, self._around)
                offers.note(self._around, found)
            for path, offer in enumerate(found):
                self._get_to_know(path, offer)
                idle = path not in self._tasks or self._tasks[path].done()
                if idle and path != self._trained and not offer.over:
                    self._tasks[path] = asyncio.create_task(self._keep(path))
            await asyncio.sleep(PATHS_NOTE)

    def _leads(self) -> bool:
        """Whether this machine leads the common start, and a majority of those who vote holds its end: what the paths
        begin from can change no more."""
        node = self._common
        if node is None or node.coordinator is None or node.replica.voter is None:
            return False
        return node.replica.voter.committed == node.replica.ledger.number

    def _get_to_know(self, path: int, offer: m.PathOffer) -> None:
        known = self._known.get(path)
        if known is None or _door(known) != _door(offer):
            self._known[path] = offer
            _adopt(home_of(self._home, path, offer))

    async def _keep_common(self) -> None:
        say = self._say_of("common start")
        try:
            async with self._voting(self._home, say, stays=True) as bootstrap:
                self._common = bootstrap.node
                await _end_of(bootstrap)
        finally:
            self._common = None

    async def _keep(self, path: int) -> None:
        folder = RunFolder(self._around.path / family.name_of(path))
        for part in (folder.states, folder.blobs, folder.logs):
            part.mkdir(parents=True, exist_ok=True)
        await _again(lambda: self._until_over(path, folder), self._say_of(f"path {path}"))

    async def _until_over(self, path: int, folder: RunFolder) -> None:
        say = self._say_of(f"path {path}")
        if not has_begun(folder) and not self.offered()[path].addresses:
            await self._begin(path, folder)
        try:
            async with self._voting(peer_home.find(folder.path), say) as bootstrap:
                assert bootstrap.node is not None
                carrying = asyncio.create_task(_carry(self._around, folder, bootstrap.node, say))
                try:
                    await _end_of(bootstrap)
                finally:
                    carrying.cancel()
        except LinkError:
            if not has_begun(folder):  # who began it is gone, and its first entry with it
                await self._begin(path, folder)
            raise

    async def _begin(self, path: int, folder: RunFolder) -> None:
        """Begin a path here, as others that vote in it do, to the same bytes. Raises FolderError, DataError, StateError,
        LedgerError, OSError."""
        self._say(f"beginning path {path}, which nobody leads: the text that is routed to it")
        async with self._writing:
            try:
                await asyncio.to_thread(_begin, self._around, path, folder, self._key)
            except EXPECTED as error:
                raise FolderError(
                    f"it cannot be begun on this machine: {words(error, folder.path)}. Two machines that vote in it "
                    "have to begin it; the organiser's is one of them, once it is back"
                ) from error

    @contextlib.asynccontextmanager
    async def _voting(
        self, home: PeerHome, say: Say, stays: bool = False
    ) -> AsyncIterator[Bootstrap]:
        """Vote in a run, whose specification is fetched where it is not here. stays: as of Bootstrap. Raises LinkError."""
        invitation, folder = home.invitation, RunFolder(home.home)
        limits = controls.load(home.peer)
        async with Bootstrap(invitation, folder, self._key, limits, say, stays) as bootstrap:
            if not bootstrap.voting:
                client, (info, spec) = await bootstrap.meet(lambda x: terms(x, invitation))
                write_atomically(folder.spec, info.spec.encode())
                await fetch_router(client, spec, invitation.secret, folder)
                client.close()
                layout = await self._layout()
                if node := await bootstrap.settle(spec, layout):
                    await node.replica.look_for_leader()  # and say where this machine listens
            yield bootstrap

    async def _layout(self) -> Layout:
        """Of the family's models, once this machine has one of them."""
        while True:
            for folder in (self._around, *map(RunFolder, self._around.path.glob("path-*"))):
                with contextlib.suppress(FileNotFoundError):
                    return founding.layout(folder)
            await asyncio.sleep(RETRY)

    def _say_of(self, what: str) -> Say:
        return lambda text: self._say(f"{what}: {text}")


async def _again(work: Callable[[], Coroutine[Any, Any, None]], say: Say) -> None:
    """Do something until it ends well; what kept it from that is said once."""
    told = ""
    while True:
        try:
            await work()
            return
        except EXPECTED as error:
            if told != words(error):
                told = words(error)
                say(f"not kept at the moment: {told}; trying again")
            await asyncio.sleep(RETRY)


async def _end_of(bootstrap: Bootstrap) -> None:
    """Wait until this machine does not vote any more. Raises what broke."""
    assert bootstrap.voting is not None
    await bootstrap.voting


def home_of(home: PeerHome, path: int, offer: m.PathOffer) -> PeerHome:
    """The folder of this machine in a path of the family whose common start it trained in `home`. In a path that nobody
    leads it is its own contact, and listens as in the common start."""
    key = home.peer / "key"
    at = (
        (offer.coordinator, tuple(offer.addresses))
        if offer.addresses
        else (load_or_create(key).id, home.invitation.addresses)
    )
    own = PeerHome.of(
        str(Invitation(offer.run, *at, offer.secret)), home.home / family.name_of(path)
    )
    lend(key, own.peer / "key")
    controls.save(own.peer, controls.load(home.peer))
    return own


def _door(offer: m.PathOffer) -> tuple[str, list[str], str]:
    """How one gets into a path."""
    return offer.coordinator, offer.addresses, offer.secret


def has_begun(folder: RunFolder) -> bool:
    """Whether the first entry of a run is here."""
    with (
        contextlib.suppress(LedgerError),  # of a file that is being made
        contextlib.closing(Ledger(folder.ledger)) as ledger,
    ):
        return ledger.number >= 0
    return False


def first_offers(around: RunFolder) -> list[m.PathOffer]:
    """The paths of a family whose common start this machine leads, and which nobody has begun: an offer to those who vote
    in them, who all begin them. Raises FolderError."""
    spec = specs.load(around.spec)
    keys, found = branching.coordinators(spec), []
    assert spec.branch is not UNSET
    for path, key in enumerate(keys):
        own = family.of_path(family.whole(spec), path, spec.branch.router)
        folder, secret = RunFolder(private(around.path / family.name_of(path))), ""
        if spec.members.join == "invited":
            with contextlib.closing(GuestBook(folder.guests)) as guests:
                secret = guests.unlimited(FAMILY)
        found.append(m.PathOffer(own.identity, key, [], secret, own.rounds.peers))
    return found


def _begin(around: RunFolder, path: int, folder: RunFolder, identity: Identity) -> None:
    branching.begin(branching.start_of_heir(around), path, folder, identity)


def _first_state(around: RunFolder, folder: RunFolder, layout: Layout) -> None:
    """Where a path begins: the last state of the common start, if this machine has trained that."""
    last = around.state(specs.load(around.spec).schedule.rounds)
    if folder.saved_rounds() or not last.is_file():
        return
    state = msgspec.structs.replace(states.load(last, layout), round=0)
    with contextlib.closing(Ledger(folder.ledger)) as ledger:
        if next(ledger.entries(GenesisEntry)).body.state == state.hash():
            state.save(folder.state(0))


async def _carry(around: RunFolder, folder: RunFolder, node: Node, say: Say) -> None:
    """Keep a state that others can go on from, should nobody train the path when this machine comes to lead it."""
    while True:
        with contextlib.suppress(OSError, LedgerError, StateError, LinkError, NotAgreed):
            if not folder.saved_rounds():
                await asyncio.to_thread(_first_state, around, folder, node.layout)
            if not folder.saved_rounds():
                await fetch_state(folder, node, say)
            await _fetch_blobs(folder, node)
            await asyncio.to_thread(_carry_on, folder)
        await asyncio.sleep(PATHS_KEEP)


async def fetch_state(folder: RunFolder, node: Node, say: Say) -> None:
    """The newest state of a path from a machine that votes in it too, since this one came after the common start. Raises
    LinkError, NotAgreed, LedgerError."""
    for key in _others(node):
        with contextlib.suppress(LinkError, NotAgreed):
            agreed = node.replica.ledger.agreed_states()
            await state_of(_Asked(node, key), node.endpoint, folder, node.layout, agreed, say)
            return


async def _fetch_blobs(folder: RunFolder, node: Node) -> None:
    """What leads on from the newest state that is here, where it is missing: a voter fetches the latest by itself. Raises
    LinkError, LedgerError."""
    if not folder.saved_rounds():
        return
    newest = folder.saved_rounds()[-1]
    closed = [entry.body.closed for entry in node.replica.ledger.entries(RoundEntry)][newest:]
    for digest in [digest for one in closed for digest in one.needed()]:
        await node.replica.fetch_blob(digest, _others(node))


def _others(node: Node) -> list[str]:
    """Keys of the machines that vote beside this one, the leader first."""
    known = node.replica.known
    return [key for key in dict.fromkeys([known.key, *known.at]) if key != node.endpoint.id]


class _Asked:
    """Questions to one of the machines that vote in a path."""

    def __init__(self, node: Node, key: str) -> None:
        self._node, self._key = node, key

    async def ask(
        self, question: m.Question[A], body: bytes = b"", *, body_limit: int = 0
    ) -> tuple[A, bytes]:
        """The answer and its body. Raises LinkError."""
        return await self._node.replica.ask(self._key, question, body_limit)


def _carry_on(folder: RunFolder) -> None:
    """Apply the rounds that closed since the newest state that is here, once they are as many as lie between two saved
    ones. Raises OSError, LedgerError, StateError."""
    if not folder.saved_rounds():
        return
    spec, layout, newest = (
        specs.load(folder.spec),
        founding.layout(folder),
        folder.saved_rounds()[-1],
    )
    with contextlib.closing(Ledger(folder.ledger)) as ledger:
        closed = [entry.body.closed for entry in ledger.entries(RoundEntry)][newest:]
        agreed = ledger.agreed_states()
    if len(closed) < spec.rounds.checkpoint:
        return
    state, engine = (
        states.load(folder.state(newest), layout),
        Engine(spec, layout, FolderBlobs(folder)),
    )
    for one in closed:
        if not all(folder.blob(x).is_file() for x in one.needed()):
            break
        state = engine.advance(state, one)
    if agreed.get(state.round) == state.hash():
        state.save(folder.state(state.round))
        for old in folder.saved_rounds()[:-2]:
            folder.state(old).unlink(missing_ok=True)


def _adopt(home: PeerHome) -> None:
    """Let those who have the invitation that this machine has come to a run that it may come to lead."""
    if secret := home.invitation.secret:
        with contextlib.closing(GuestBook(RunFolder(home.home).guests)) as guests:
            guests.adopt(secret, FAMILY)


def present(folder: RunFolder, offer: m.PathOffer) -> m.PathOffer:
    """What a machine that copies the ledger of a path knows of it beyond what it was told: who leads it now, where those
    listen who vote in it, and how far it is."""
    if not folder.spec.is_file() or not has_begun(folder):
        return offer
    with contextlib.closing(Ledger(folder.ledger)) as ledger:
        rounds = [entry.body for entry in ledger.entries(RoundEntry)]
        last = ledger.last_round(StateEntry)
    tokens = sum(x.contributions[peer].tokens for x in rounds for peer in x.closed.accepted)
    here = len(rounds[-1].closed.accepted) if rounds else 0
    found = msgspec.structs.replace(offer, rounds=len(rounds), tokens=tokens, here=here)
    found.over |= last == specs.load(folder.spec).schedule.rounds
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
        known = msgspec.json.decode((folder.path / "voters.json").read_bytes(), type=Known)
        found.voters = [m.PeerAddress(key, at) for key, at in known.at.items() if at]
        if at := known.at.get(known.key):
            found.coordinator, found.addresses = known.key, at
    return found


def noted(around: RunFolder) -> list[m.PathOffer]:
    """The paths as a successor knows them: what it was told, and what its copies of the ledgers say since."""
    told = offers.read(around)
    folders = [RunFolder(around.path / family.name_of(path)) for path in range(len(told))]
    return [present(folder, offer) for folder, offer in zip(folders, told, strict=True)]


async def ask_voters(homes: Sequence[Path]) -> list[m.PathOffer]:
    """The paths of a family, as the leader of one of them tells. homes: of paths that this machine has trained."""
    for home in homes:
        with contextlib.suppress(OSError, msgspec.DecodeError, PeerHomeError):
            secret = peer_home.find(home).invitation.secret
            known = msgspec.json.decode((home / "voters.json").read_bytes(), type=Known)
            for key, addresses in known.at.items():
                with contextlib.suppress(LinkError):
                    return await _ask(key, addresses, secret)
    return []


async def _ask(key: str, addresses: list[str], secret: str) -> list[m.PathOffer]:
    """Raises LinkError."""
    asking = Identity(os.urandom(32))  # the key of this machine may be at work
    endpoint = await Endpoint.toward(asking, m.HEAD_LIMIT, addresses)
    try:
        client = Client(await endpoint.connect(key, addresses))
        answer, _ = await client.ask(m.GetPaths(m.PROTOCOL, secret))
        return answer.paths
    finally:
        await endpoint.close()
