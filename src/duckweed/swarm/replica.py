"""A machine's copy of the ledger: kept up to date, given to others, and, on the machines that the
specification names, voting on who is in charge. Rules: duckweed.swarm.succession."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from duckweed.merge.round import PEER_LIMIT, Closed, blob_hash
from duckweed.merge.rules import WEIGHT_LIMIT
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.ledger import Ledger, LedgerError, Row
from duckweed.run.sections import Integer
from duckweed.run.spec import RunSpec
from duckweed.swarm import messages as m
from duckweed.swarm.identity import Identity, verify
from duckweed.swarm.library import Library
from duckweed.swarm.succession import Seat, Vote
from duckweed.swarm.timing import CANVASS, IN_TOUCH, POLL, RETRY
from duckweed.swarm.transport import Endpoint, Link, LinkError
from duckweed.wire.contribution import max_size
from duckweed.wire.update import max_update_size

PAGE = 4 << 20  # bytes of entries in one answer, more only if one entry has more
PAGE_LIMIT = 64 << 20

_rows = msgspec.msgpack.Decoder(list[Row])


class Known(msgspec.Struct):
    """What a machine remembers of the others that vote: who is in charge, in which term, and where they
    listen. Only a hint where to ask; what counts stands in the ledger."""

    term: int
    key: str
    at: dict[str, list[str]]


def blob_limit(spec: RunSpec, layout: Layout) -> int:
    """Most bytes of a blob that leads to the next state."""
    if isinstance(spec.wire, Integer):
        return max_update_size(layout, spec.wire.levels, PEER_LIMIT, WEIGHT_LIMIT)
    return max_size(spec.wire, layout)


class Replica:
    """The copy of one machine. first: key and addresses of who is in charge, as an invitation says; for
    those who vote, `turn` keeps it up to date, for others `pull`."""

    def __init__(
        self,
        folder: RunFolder,
        identity: Identity,
        endpoint: Endpoint,
        first: tuple[str, list[str]],
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.identity, self.endpoint, self.say = folder, identity, endpoint, say
        self.ledger = Ledger(folder.ledger, identity.sign, folder.path / "ledger-dropped.jsonl")
        self.library = Library(folder)
        self.limit = 0  # bytes of a blob
        self.advanced: Callable[[], None] = lambda: None  # a voter acknowledged something
        self.seat: Seat | None = None
        self.heard = time.monotonic()
        self._acknowledged: dict[str, float] = {}
        self._links: dict[str, Link] = {}
        self._members: tuple[int, set[str]] = (-2, set())
        self._grown = asyncio.Event()
        self.ledger.grown = self._grown.set
        self._file = folder.path / "voters.json"
        self.known = self._recall(first)
        self.take_seat()

    def _recall(self, first: tuple[str, list[str]]) -> Known:
        try:
            known = msgspec.json.decode(self._file.read_bytes(), type=Known)
        except (FileNotFoundError, msgspec.DecodeError):
            known = Known(0, first[0], {})
        if first[1]:
            known.at[first[0]] = first[1]
        charge = self.ledger.charge
        if charge and charge.term >= known.term:
            known.term, known.key = charge.term, charge.key
        return known

    def take_seat(self) -> None:
        """Once the genesis is here: vote, if this machine is one of those that do."""
        charge = self.ledger.charge
        if self.seat is None and charge and self.identity.id in charge.voters:
            promise = _Promise(self.folder.path / "promise.json")
            self.seat = Seat(
                self.identity.id, self.ledger, self.identity.sign, verify, promise.read(), promise.keep
            )  # fmt: skip

    @property
    def me(self) -> str:
        return self.identity.id

    def close(self) -> None:
        for key in list(self._links):
            self._drop(key)
        self.ledger.close()

    # --- what others ask

    def knows(self, key: str) -> bool:
        """Whether the holder of a key takes part in the run, as the ledger has it."""
        charge = self.ledger.charge
        if charge and key in charge.voters:
            return True
        if key not in self._members[1] and self._members[0] != self.ledger.number:
            keys = {entry.body["key"] for entry in self.ledger.entries("peer")}
            self._members = self.ledger.number, keys
        return key in self._members[1]

    async def answer(
        self, key: str, question: m.Entries | m.Extract | m.Promise | m.Who
    ) -> tuple[m.Answer, bytes]:
        """Raises ValueError if this machine has no part in that."""
        if not self.knows(key):
            raise ValueError("takes no part in this run")
        match question:
            case m.Who():
                return self.in_charge(), b""
            case m.Entries():
                return await self._entries(key, question)
            case m.Promise() if self.seat:
                return self._promise(self.seat, key, question), b""
            case m.Extract() if self.ledger.hash_at(question.number) == question.head:
                rows = self.ledger.rows(max(0, question.start), PAGE, question.number)
                said = m.Copied(self.known.term, question.number, question.head, True, -1)
                return said, msgspec.msgpack.encode(rows)
        raise ValueError("does not vote")

    def in_charge_at(self) -> tuple[str, list[str]]:
        """Key and addresses of who is in charge, as far as is known here."""
        return self.known.key, self.known.at.get(self.known.key, [])

    def in_charge(self) -> m.InCharge:
        """Who is in charge, as far as is known here."""
        if self.seat and self.seat.in_charge:
            return m.InCharge(self.seat.charge.term, self.me, self._holders())
        return m.InCharge(self.known.term, self.known.key, self._holders())

    def _holders(self) -> list[m.Holder]:
        at = self.known.at | {self.me: self.endpoint.reachable}
        return [m.Holder(key, addresses[:16]) for key, addresses in at.items()]

    async def _entries(self, key: str, question: m.Entries) -> tuple[m.Answer, bytes]:
        seat = self.seat
        if seat is None or not seat.in_charge:
            return self.in_charge(), b""
        votes = key in seat.charge.voters
        if votes and question.term > seat.charge.term:
            self.heard = -1e9  # stand at once
            seat.overtaken(question.term)
            return self.in_charge(), b""
        same = seat.acknowledged(key, question.term, question.number, question.head)
        if votes and same:
            self._acknowledged[key] = time.monotonic()
            self.advanced()
        closes = time.monotonic() + POLL
        while votes and same and seat.in_charge and self.ledger.number <= question.number:
            self._grown.clear()
            try:
                await asyncio.wait_for(self._grown.wait(), closes - time.monotonic())
            except TimeoutError:
                break
        last = self.ledger.number if votes else seat.committed
        rows = self.ledger.rows(question.number + 1, PAGE, last) if same and seat.in_charge else []
        said = m.Copied(
            seat.charge.term, question.number, question.head, same, seat.committed, self._holders()
        )
        return said if seat.in_charge else self.in_charge(), msgspec.msgpack.encode(rows)

    def _promise(self, seat: Seat, key: str, question: m.Promise) -> m.Promised:
        reason = self._content(seat, key) or seat.refuses(question.term, key) or ""
        vote = None
        if question.binding and not reason:
            vote = seat.promise(question.term, key)
            self.say(f"promised to follow {key[:10]} in term {question.term}")
        return m.Promised(max(seat.seen, seat.promised), vote, reason)

    def _content(self, seat: Seat, candidate: str) -> str:
        """Why no other coordinator is wanted at the moment; "" if one is."""
        if seat.in_charge:
            return "this machine is in charge, and heard by a majority" if self.in_touch() else ""
        silent = time.monotonic() - self.heard
        if self.known.key in (candidate, self.me) or silent >= seat.charge.absence:
            return ""
        return f"{self.known.key[:10]}, in charge, was heard {silent:.0f} s ago"

    def in_touch(self) -> bool:
        """Whether a majority of the voters, this one included, was heard of late."""
        assert self.seat is not None
        since = time.monotonic() - IN_TOUCH
        recent = sum(when > since for when in self._acknowledged.values())
        return recent + 1 >= self.seat.charge.majority

    # --- what this machine asks

    async def ask(self, key: str, question: m.Message, limit: int = 0) -> tuple[m.Answer, bytes]:
        """Raises LinkError."""
        if key == self.me:
            raise LinkError("this machine is not in charge itself")
        try:
            if key not in self._links:
                self._links[key] = await self.endpoint.connect(key, self.known.at.get(key, []))
            link = self._links[key]
            head, body = await link.ask(m.encode(question), body_limit=limit, patience=2 * POLL)
            return m.answer(head), body
        except (LinkError, msgspec.DecodeError, ValueError) as error:
            self._drop(key)
            raise LinkError(str(error)) from error

    def _drop(self, key: str) -> None:
        if link := self._links.pop(key, None):
            link.close()

    def note(self, term: int, key: str, at: list[m.Holder]) -> None:
        """Remember who is in charge, if this is news, and where the voters listen."""
        before = msgspec.json.encode(self.known)
        self.known.at |= {x.key: x.addresses for x in at if x.addresses and x.key != self.me}
        if term > self.known.term:
            if key != self.me:
                self.say(f"{key[:10]} is in charge now (term {term})")
            self.known.term, self.known.key = term, key
        if msgspec.json.encode(self.known) != before:
            write_atomically(self._file, msgspec.json.encode(self.known))

    async def look_round(self) -> None:
        """Ask all that keep the ledger who is in charge."""

        async def look(key: str) -> None:
            with contextlib.suppress(LinkError, TimeoutError):
                answer, _ = await asyncio.wait_for(self.ask(key, m.Who()), CANVASS)
                if isinstance(answer, m.InCharge):
                    self.note(answer.term, answer.key, answer.at)
                    if self.seat:
                        self.seat.overtaken(answer.term)

        await asyncio.gather(*(look(key) for key in list(self.known.at) if key != self.me))

    async def pull(self) -> bool:
        """Take over what is new with who is in charge. True if there may be more. Raises LinkError,
        LedgerError."""
        key, number, back = self.known.key, self.ledger.number, 1
        promised = self.seat.promised if self.seat else 0
        while True:
            head = self.ledger.hash_at(number) or ""
            answer, body = await self.ask(key, m.Entries(promised, number, head), PAGE_LIMIT)
            if isinstance(answer, m.InCharge):
                self.note(answer.term, answer.key, answer.at)
                raise LinkError("it is not in charge any more")
            if not isinstance(answer, m.Copied):
                raise LinkError(getattr(answer, "reason", "no proper answer"))
            if answer.same or number < 0:
                break
            number, back = max(-1, number - back), 2 * back
        self.note(answer.term, key, answer.at)
        rows = _decoded(body)
        if self.seat:
            await self._fetch_blobs([x for x in rows if x.number > answer.committed], [key])
            done = self.seat.follow(answer.term, number, head, rows, answer.committed)
            if not done:
                raise LinkError("another was promised to be followed")
        else:
            for row in rows:
                self.ledger.take(row, verify)
        self.heard = time.monotonic()
        return bool(rows)

    async def _fetch_blobs(self, rows: list[Row], keys: list[str]) -> None:
        """Who acknowledges a round has what leads to the state after it. Raises LinkError."""
        for row in rows:
            if row.kind != "round":
                continue
            closed = msgspec.convert(
                msgspec.json.decode(row.body)["closed"], Closed, strict=False
            )
            for digest in closed.needed():
                if not self.folder.blob(digest).exists():
                    await self._fetch_blob(digest, keys)

    async def _fetch_blob(self, digest: str, keys: list[str]) -> None:
        for key in keys:
            with contextlib.suppress(LinkError):
                answer, blob = await self.ask(key, m.Fetch(digest, whole=True), self.limit)
                if isinstance(answer, m.Blob) and blob_hash(blob) == digest:
                    write_atomically(self.folder.blob(digest), blob)
                    return
        raise LinkError(f"nobody gives blob {digest[:10]}")

    # --- standing for office

    async def turn(self) -> None:
        """Follow who is in charge for a moment; if nobody is heard for too long, stand for office."""
        assert self.seat is not None
        try:
            await self.pull()
            return
        except LinkError:
            pass
        await self.look_round()
        charge = self.seat.charge
        if time.monotonic() - self.heard > charge.absence * charge.in_line(self.me):
            await self._stand(self.seat)
        await asyncio.sleep(RETRY)

    async def _stand(self, seat: Seat) -> None:
        others = [key for key in seat.charge.voters if key != self.me]
        term = seat.next_term()
        would = await self._canvass(others, m.Promise(term, binding=False))
        if sum(not x.reason for x in would.values()) + 1 < seat.charge.majority:
            return
        mine = seat.promise(term, self.me)
        if mine is None:
            return
        given = await self._canvass(others, m.Promise(term, binding=True))
        votes = {key: x.vote for key, x in given.items() if x.vote} | {self.me: mine}
        newest = seat.newest(term, votes)
        if newest is None:
            return
        if newest != self.me and not await self._adopt(seat, term, newest, votes):
            return
        if seat.take_office(term, votes):
            self._acknowledged.clear()
            self.note(term, self.me, [])
            self.say(f"in charge of the run from here on (term {term}, {len(votes)} votes)")

    async def _canvass(self, keys: list[str], question: m.Promise) -> dict[str, m.Promised]:
        """Their answers, of those that can be reached."""
        found: dict[str, m.Promised] = {}

        async def one(key: str) -> None:
            with contextlib.suppress(LinkError, TimeoutError):
                answer, _ = await asyncio.wait_for(self.ask(key, question), CANVASS)
                if isinstance(answer, m.Promised):
                    found[key] = answer
                    assert self.seat is not None
                    self.seat.seen = max(self.seat.seen, answer.seen)

        await asyncio.gather(*map(one, keys))
        return found

    async def _adopt(self, seat: Seat, term: int, newest: str, votes: dict[str, Vote]) -> bool:
        """Take over what the newest copy has more, with its blobs. False if that cannot be had."""
        vote, start = votes[newest], self.ledger.number + 1
        keys = [newest, *(key for key in self.known.at if key not in (newest, self.me))]
        try:
            while self.ledger.hash_at(vote.number) != vote.head:
                question = m.Extract(start, vote.number, vote.head)
                answer, body = await self.ask(newest, question, PAGE_LIMIT)
                rows = _decoded(body)
                if not isinstance(answer, m.Copied) or not rows:
                    return False
                await self._fetch_blobs([x for x in rows if x.number >= vote.number - 8], keys)
                try:
                    seat.adopt(term, rows)
                    start = self.ledger.number + 1
                except LedgerError:  # the copies differ before these entries
                    if start <= 1:
                        raise
                    start = max(1, start - 64)
            return True
        except LinkError as error:
            self.say(f"cannot take over the ledger of {newest[:10]}: {error}")
            return False


class _Promise:
    """The term that was promised, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> int:
        if not self.path.exists():
            return 0
        return msgspec.json.decode(self.path.read_bytes(), type=dict[str, int])["promised"]

    def keep(self, term: int) -> None:
        write_atomically(self.path, msgspec.json.encode({"promised": term}))


def _decoded(body: bytes) -> list[Row]:
    try:
        return _rows.decode(body) if body else []
    except msgspec.DecodeError as error:
        raise LinkError(f"entries that make no sense: {error}") from error


