"""What a successor of a family does for the paths that it does not train: it keeps their ledgers, votes, and leads them
should that fall to it."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from duckweed.ledger.entries import GenesisEntry, RoundEntry, StateEntry
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.net.identity import Identity, load_or_create
from duckweed.net.timeouts import HANDOVER, PATHS_KEEP, PATHS_NOTE, RETRY
from duckweed.net.transport import Endpoint, LinkError
from duckweed.round import founding
from duckweed.round.engine import Engine, FolderBlobs
from duckweed.run import spec as specs
from duckweed.run import state as states
from duckweed.run.folder import RunFolder, write_atomically
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
from duckweed.swarm.protocol.invitation import InvitationError, published
from duckweed.volunteer import controls, peer_home
from duckweed.volunteer.peer_home import PeerHome, PeerHomeError

Say = Callable[[str], None]


class Keeper:
    """The paths that a machine keeps, one task for each. around: the folder in which those of the paths lie."""

    def __init__(self, around: RunFolder, say: Say) -> None:
        self._around, self._say = around, say
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._noting: asyncio.Task[None] | None = None

    async def all_but(self, trained: int, homes: Mapping[int, PeerHome]) -> None:
        """Keep these paths from here on, but the one that this machine trains, and keeps by that."""
        for home in homes.values():
            _adopt(home)
        if task := self._tasks.pop(trained, None):
            task.cancel()
            await asyncio.wait([task])
        for path, home in homes.items():
            if path != trained and (path not in self._tasks or self._tasks[path].done()):
                self._tasks[path] = asyncio.create_task(self._keep(path, home))
        self._noting = self._noting or asyncio.create_task(self._note())

    async def close(self) -> None:
        """Once all paths are over: let others copy the end of their ledgers, then end."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=HANDOVER)
        tasks = [*self._tasks.values(), *([self._noting] if self._noting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _note(self) -> None:
        """Write down what is known here of the paths, for those who ask this machine as the leader of one."""
        key = load_or_create(self._around.peer(0) / "key").id
        while True:
            if found := await asyncio.to_thread(noted, self._around, key):
                offers.note(self._around, found)
            await asyncio.sleep(PATHS_NOTE)

    async def _keep(self, path: int, home: PeerHome) -> None:
        folder, told = RunFolder(home.home), ""

        def say(text: str) -> None:
            self._say(f"path {path}: {text}")

        for part in (folder.states, folder.blobs, folder.logs):
            part.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                await self._until_over(home, folder, say)
                return
            except LinkError as error:
                if told != f"{error}":
                    told = f"{error}"
                    say(f"not kept at the moment: {error}; trying again")
                await asyncio.sleep(RETRY)

    async def _layout(self) -> Layout:
        """Of the family's models, once this machine has one of them."""
        while True:
            for folder in (self._around, *map(RunFolder, self._around.path.glob("path-*"))):
                with contextlib.suppress(FileNotFoundError):
                    return founding.layout(folder)
            await asyncio.sleep(RETRY)

    async def _until_over(self, home: PeerHome, folder: RunFolder, say: Say) -> None:
        """Raises LinkError."""
        invitation, key = home.invitation, load_or_create(home.peer / "key")
        limits = controls.load(folder.peer(0))
        async with Bootstrap(invitation, folder, key, limits, say) as bootstrap:
            if not bootstrap.voting:
                client = await bootstrap.meet()
                info, spec = await terms(client, invitation)
                write_atomically(folder.spec, info.spec.encode())
                await fetch_router(client, spec, invitation.secret, folder)
                client.close()
                layout = await self._layout()
                if node := await bootstrap.settle(spec, layout):
                    await node.replica.look_for_leader()  # and say where this machine listens
            assert bootstrap.voting is not None
            assert bootstrap.node is not None
            carrying = asyncio.create_task(_carry(self._around, folder, bootstrap.node, say))
            try:
                await bootstrap.voting
            finally:
                carrying.cancel()


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
            guests.adopt(secret, "family")


def present(folder: RunFolder, offer: m.PathOffer, me: str) -> m.PathOffer:
    """What a machine that copies the ledger of a path knows of it beyond what it was told: who leads it now, and how far
    it is. me: this machine's key."""
    if not folder.ledger.is_file() or not folder.spec.is_file():
        return offer
    with contextlib.closing(Ledger(folder.ledger)) as ledger:
        rounds = [entry.body for entry in ledger.entries(RoundEntry)]
        last = ledger.last_round(StateEntry)
    tokens = sum(x.contributions[peer].tokens for x in rounds for peer in x.closed.accepted)
    here = len(rounds[-1].closed.accepted) if rounds else 0
    found = msgspec.structs.replace(offer, rounds=len(rounds), tokens=tokens, here=here)
    found.over |= last == specs.load(folder.spec).schedule.rounds
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError, InvitationError):
        known = msgspec.json.decode((folder.path / "voters.json").read_bytes(), type=Known)
        at = list(published(folder).addresses) if known.key == me else known.at.get(known.key, [])
        if at:
            found.coordinator, found.addresses = known.key, at
    return found


def noted(around: RunFolder, me: str) -> list[m.PathOffer]:
    """The paths as a successor knows them: what it was told, and what its copies of the ledgers say since."""
    folders = [RunFolder(around.path / f"path-{n}") for n in range(len(offers.read(around)))]
    found = zip(folders, offers.read(around), strict=True)
    return [present(folder, offer, me) for folder, offer in found]


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
