"""A machine's copy of the ledger, kept up to date and given to others, and what the machine knows of
those that keep it too. Rules: duckweed.ledger.succession."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from duckweed.ledger.ledger import Ledger, Row
from duckweed.ledger.succession import Seat
from duckweed.ledger.term import Charge
from duckweed.merge.round import Closed, blob_hash, fetch_limit
from duckweed.net.identity import Identity, verify
from duckweed.net.timeouts import CANVASS, IN_TOUCH, POLL, within
from duckweed.net.transport import Endpoint, Link, LinkError
from duckweed.run.folder import RunFolder, write_atomically, write_for_good
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.swarm.blobs.store import Library
from duckweed.swarm.protocol import messages as m

PAGE = 4 << 20  # bytes of entries in one answer, more only if one entry has more
PAGE_LIMIT = 64 << 20

_rows = msgspec.msgpack.Decoder(list[Row])


class Known(msgspec.Struct):
    """What a machine remembers of the others that vote: who is in charge, in which term, and where they
    listen. Only a hint where to ask; what counts stands in the ledger."""

    term: int
    key: str
    at: dict[str, list[str]]


class Replica:
    """The copy of one machine. first: key and addresses of who is in charge, as an invitation says.
    advanced: called when a voter has acknowledged entries."""

    def __init__(
        self,
        folder: RunFolder,
        identity: Identity,
        endpoint: Endpoint,
        ledger: Ledger,
        first: tuple[str, list[str]],
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.identity, self.endpoint, self.say = folder, identity, endpoint, say
        self.ledger, self.me = ledger, identity.id
        self.library = Library(folder)
        self.advanced: Callable[[], None] = lambda: None
        self.seat: Seat | None = None
        self.heard = time.monotonic()  # when who is in charge was heard
        self._limit, self._recent = 0, 0  # bytes of a blob; entries whose blobs may still be needed
        self._acknowledged: dict[str, float] = {}  # voter -> when it was heard
        self._links: dict[str, Link] = {}
        self._dialling: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._members: tuple[int, set[str]] = (-2, set())
        self._grown = asyncio.Event()
        ledger.grown = self._grown.set
        self._file = folder.path / "voters.json"
        self.known = self._recall(first)

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

    def begin(self, spec: RunSpec, layout: Layout) -> None:
        """What the run is."""
        self._limit, self._recent = fetch_limit(spec, layout), 4 * spec.rounds.checkpoint
        self.take_seat()

    def take_seat(self) -> None:
        """Once the genesis is here: vote, if this machine is one of those that do."""
        charge = self.ledger.charge
        if self.seat is None and charge and self.me in charge.voters:
            file = self.folder.path / "promise.json"
            promised = msgspec.json.decode(file.read_bytes(), type=int) if file.exists() else 0

            def keep(term: int) -> None:
                write_for_good(file, msgspec.json.encode(term))

            sign = self.identity.sign
            self.seat = Seat(self.me, self.ledger, sign, verify, promised, keep)

    @property
    def charge(self) -> Charge | None:
        return self.ledger.charge

    def votes(self, key: str) -> bool:
        """Whether the holder of a key votes."""
        return self.charge is not None and key in self.charge.voters

    def knows(self, key: str) -> bool:
        """Whether the holder of a key takes part in the run, as the ledger has it."""
        if self.votes(key):
            return True
        if key not in self._members[1] and self._members[0] != self.ledger.number:
            keys = {entry.body["key"] for entry in self.ledger.entries("peer")}
            self._members = self.ledger.number, keys
        return key in self._members[1]

    def name(self, key: str) -> str:
        """What people call the holder of a key."""
        return self.charge.name(key) if self.charge else key[:10]

    def close(self) -> None:
        for key in list(self._links):
            self._drop(key)

    # --- who is in charge

    def in_charge(self) -> m.InCharge:
        """Who is in charge, as far as is known here."""
        if self.seat and self.seat.in_charge:
            return m.InCharge(self.seat.charge.term, self.me, self._holders())
        return m.InCharge(self.known.term, self.known.key, self._holders())

    def in_charge_at(self) -> tuple[str, list[str]]:
        """Key and addresses of who is in charge, as far as is known here."""
        return self.known.key, self.known.at.get(self.known.key, [])

    def note(self, term: int, key: str, at: Sequence[m.Holder] = ()) -> None:
        """Remember who is in charge, if this is news, and where the voters listen."""
        before = msgspec.json.encode(self.known)
        self.known.at |= {x.key: x.addresses for x in at if x.addresses and x.key != self.me}
        possible = self.charge is None or self.charge.owner(term) == key
        if term > self.known.term and possible:
            if key != self.me:
                self.say(f"{self.name(key)} is in charge of the run now (term {term})")
            self.known.term, self.known.key = term, key
            self.heard = time.monotonic()  # it is given time to be heard
        if msgspec.json.encode(self.known) != before:
            write_atomically(self._file, msgspec.json.encode(self.known))

    def in_touch(self) -> bool:
        """Whether a majority of the voters, this one included, was heard of late."""
        assert self.seat is not None
        since = time.monotonic() - IN_TOUCH
        recent = sum(t > since for key, t in self._acknowledged.items() if key != self.me)
        return recent + 1 >= self.seat.charge.majority

    def chosen(self, voters: Iterable[str]) -> None:
        """This machine is put in charge by voters, who have just been heard."""
        assert self.seat is not None
        self._acknowledged = dict.fromkeys(voters, time.monotonic())
        self.note(self.seat.charge.term, self.me)

    async def look_round(self) -> None:
        """Ask all that are known to keep the ledger who is in charge, and tell them where this
        machine is."""

        async def look(key: str) -> None:
            with contextlib.suppress(LinkError, TimeoutError):
                question = m.Who(self.endpoint.offered)
                answer, _ = await within(CANVASS, self.ask(key, question))
                if isinstance(answer, m.InCharge):
                    self.note(answer.term, answer.key, answer.at)
                    if self.seat:
                        self.seat.overtaken(answer.term)

        await asyncio.gather(*(look(key) for key in list(self.known.at) if key != self.me))

    def _holders(self) -> list[m.Holder]:
        at = self.known.at | {self.me: self.endpoint.offered}
        return [m.Holder(key, addresses) for key, addresses in at.items() if self.votes(key)]

    # --- what others ask

    async def entries(self, key: str, question: m.Entries) -> tuple[m.Answer, bytes]:
        """What follows on the end of another's copy. A voter is told as soon as there is something."""
        seat = self.seat
        if seat is None or not seat.in_charge:
            return self.in_charge(), b""
        votes = self.votes(key)
        if votes and question.term > seat.charge.term:
            self.heard = -1e9  # to be elected anew at once
            seat.overtaken(question.term)
            return self.in_charge(), b""
        same = seat.acknowledged(key, question.term, question.number, question.head)
        if votes and same:
            self._acknowledged[key] = time.monotonic()
            self.advanced()
            await self._more_than(question.number, seat)
        if not seat.in_charge:
            return self.in_charge(), b""
        last = self.ledger.number if votes else seat.committed
        rows = self.ledger.rows(question.number + 1, PAGE, last) if same else []
        said = m.Copied(
            seat.charge.term, question.number, question.head, same, seat.committed, self._holders()
        )
        return said, msgspec.msgpack.encode(rows)

    async def _more_than(self, number: int, seat: Seat) -> None:
        closes = time.monotonic() + min(POLL, seat.charge.absence / 3)
        while seat.in_charge and self.ledger.number <= number:
            self._grown.clear()
            try:
                await within(closes - time.monotonic(), self._grown.wait())
            except TimeoutError:
                return

    def extract(self, question: m.Extract) -> tuple[m.Answer, bytes]:
        """Entries that a candidate lacks. Raises ValueError if they are not here."""
        if self.ledger.hash_at(question.number) != question.head:
            raise ValueError("entries that are not here")
        rows = self.ledger.rows(max(0, question.start), PAGE, question.number)
        said = m.Copied(self.known.term, question.number, question.head, True, -1)
        return said, msgspec.msgpack.encode(rows)

    # --- what this machine asks

    async def ask(self, key: str, question: m.Message, limit: int = 0) -> tuple[m.Answer, bytes]:
        """Raises LinkError."""
        if key == self.me:
            raise LinkError("this machine is not in charge itself")
        try:
            link = await self._link(key)
            head, body = await link.ask(m.encode(question), body_limit=limit, patience=2 * POLL)
            return m.answer(head), body
        except (LinkError, msgspec.DecodeError) as error:
            self._drop(key)
            raise LinkError(str(error)) from error

    async def _link(self, key: str) -> Link:
        async with self._dialling[key]:
            if key not in self._links:
                self._links[key] = await self.endpoint.connect(key, self.known.at.get(key, []))
            return self._links[key]

    def _drop(self, key: str) -> None:
        if link := self._links.pop(key, None):
            link.close()

    async def pull(self) -> bool:
        """Take over what is new with who is in charge; whoever does not vote gets what a majority
        holds. True if there may be more. Raises LinkError, LedgerError."""
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
        rows = decoded(body)
        if self.seat:
            await self.fetch_blobs(rows, [key, *self.known.at], answer.committed)
            if not self.seat.follow(answer.term, number, head, rows, answer.committed):
                raise LinkError("another was promised to be followed")
        else:
            for row in rows:
                self.ledger.take(row, verify)
                self.take_seat()
                if self.seat:  # the rest as one that votes
                    break
        self.heard = time.monotonic()
        return bool(rows)

    async def fetch_blobs(self, rows: Sequence[Row], keys: Sequence[str], held: int) -> None:
        """Get what leads to the state after the rounds among the entries. Whoever acknowledges a
        round must have it, so that it cannot be lost; of the entries up to `held`, which others keep
        already, the newest are fetched if they can be had. Raises LinkError."""
        for row in rows:
            if row.kind != "round" or row.number <= held - self._recent:
                continue
            facts = msgspec.json.decode(row.body)["closed"]
            for digest in msgspec.convert(facts, Closed, strict=False).needed():
                if not await self._fetch_blob(digest, keys) and row.number > held:
                    raise LinkError(f"nobody gives blob {digest[:10]}")

    async def _fetch_blob(self, digest: str, keys: Sequence[str]) -> bool:
        place = self.folder.blob(digest)
        for key in () if place.exists() else dict.fromkeys(keys):
            with contextlib.suppress(LinkError):
                answer, blob = await self.ask(key, m.Fetch(digest, whole=True), self._limit)
                if isinstance(answer, m.Blob) and blob_hash(blob) == digest:
                    write_atomically(place, blob)
                    break
        return place.exists()


def decoded(body: bytes) -> list[Row]:
    """Entries as they came. Raises LinkError."""
    try:
        return _rows.decode(body) if body else []
    except msgspec.DecodeError as error:
        raise LinkError(f"entries that make no sense: {error}") from error
