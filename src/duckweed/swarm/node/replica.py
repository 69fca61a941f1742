"""A machine's copy of the ledger, kept up to date and given to others, and what the machine knows of
the voters. Rules: duckweed.ledger.succession."""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from duckweed.ledger.entries import PeerEntry, RoundEntry
from duckweed.ledger.leadership import Leadership
from duckweed.ledger.ledger import Ledger, LedgerError, Row
from duckweed.ledger.succession import Voter
from duckweed.merge.round import blob_hash, fetch_limit
from duckweed.net import clock
from duckweed.net.carrier import Endpoint, Link
from duckweed.net.framing import LinkError
from duckweed.net.identity import Identity, verify
from duckweed.net.timeouts import CANVASS, IN_TOUCH, POLL, STALL, within
from duckweed.run.folder import RunFolder, write_atomically, write_for_good
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.task.rollouts import blob_limit
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.node.relay_tree import WORTH, RelayTree
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol import offers
from duckweed.swarm.protocol.client import A, Client, NotLeader, QuestionRefused
from duckweed.swarm.protocol.copied import PAGE, AskPeer, take
from duckweed.swarm.protocol.ledger import PAGE_LIMIT, decoded, encoded

log = logging.getLogger(__name__)


class Known(msgspec.Struct):
    """What a machine remembers of the voters. Only a hint where to ask; what counts is in the ledger."""

    term: int  # the newest one heard of
    key: str  # the leader in that term
    at: dict[str, list[str]]  # key of a voter -> addresses


class Replica:
    """The copy of one machine.

    first: key and addresses of the leader, as an invitation says. acknowledged: called when a voter has
    acknowledged entries. deposed: called when this machine is no longer the leader. ask_peer: asks a peer
    that does not lead.
    """

    def __init__(
        self,
        folder: RunFolder,
        identity: Identity,
        endpoint: Endpoint,
        ledger: Ledger,
        spec: RunSpec,
        layout: Layout,
        first: tuple[str, list[str]],
        say: Callable[[str], None],
        acknowledged: Callable[[], None],
        deposed: Callable[[], None],
        ask_peer: AskPeer,
    ) -> None:
        self.folder, self.identity, self.endpoint, self.say = folder, identity, endpoint, say
        self.ledger, self.me, self.spec = ledger, identity.id, spec
        self.store = Store(folder)
        self._acknowledged, self._deposed, self._ask_peer = acknowledged, deposed, ask_peer
        self._tree = RelayTree()
        self._page: tuple[tuple[int, int], bytes] = (0, -1), b""  # entries as they were last given
        self.heard = clock.now()  # when the leader was heard
        self._limit = max(fetch_limit(spec, layout), blob_limit(spec))
        self._recent = 4 * spec.rounds.checkpoint  # entries whose blobs may still be needed
        self._voters: dict[str, float] = {}  # key of a voter -> when it acknowledged entries
        self._clients: dict[str, Client] = {}  # by key
        self._dialling: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._members: tuple[int, set[str]] = (-2, set())
        self._grown = asyncio.Event()
        ledger.grown = self._grown.set
        self._file = folder.path / "voters.json"
        self.known = self._recall(first)
        self.voter: Voter | None = None
        self._become_voter()

    def _recall(self, first: tuple[str, list[str]]) -> Known:
        try:
            known = msgspec.json.decode(self._file.read_bytes(), type=Known)
        except (FileNotFoundError, msgspec.DecodeError):
            known = Known(0, first[0], {})
        known.at.pop(self.me, None)
        if first[1] and first[0] != self.me:
            known.at[first[0]] = first[1]
        leadership = self.ledger.leadership
        if leadership and leadership.term >= known.term:
            known.term, known.key = leadership.term, leadership.leader
        return known

    def _become_voter(self) -> None:
        """Vote, if the genesis is here and names this machine as one that does."""
        leadership = self.ledger.leadership
        if self.voter is None and leadership and self.me in leadership.voters:
            file = self.folder.path / "promise.json"
            promised = msgspec.json.decode(file.read_bytes(), type=int) if file.exists() else 0

            def keep(term: int) -> None:
                write_for_good(file, msgspec.json.encode(term))

            sign = self.identity.sign
            self.voter = Voter(self.me, self.ledger, sign, verify, promised, keep, self._deposed)
            self._remember()

    @property
    def leadership(self) -> Leadership | None:
        return self.ledger.leadership

    def votes(self, key: str) -> bool:
        """Whether the holder of a key votes."""
        return self.leadership is not None and key in self.leadership.voters

    def knows(self, key: str) -> bool:
        """Whether the holder of a key takes part in the run, as the ledger has it."""
        if self.votes(key):
            return True
        if key not in self._members[1] and self._members[0] != self.ledger.number:
            keys = {entry.body.key for entry in self.ledger.entries(PeerEntry)}
            self._members = self.ledger.number, keys
        return key in self._members[1]

    def name(self, key: str) -> str:
        """What people call the holder of a key."""
        return self.leadership.name(key) if self.leadership else key[:10]

    def close(self) -> None:
        for key in list(self._clients):
            self._drop(key)

    # --- the leader

    def leader(self) -> m.Leader:
        """The leader, as far as is known here."""
        if self.voter and self.voter.leads:
            return m.Leader(self.voter.leadership.term, self.me, self._voters_at())
        return m.Leader(self.known.term, self.known.key, self._voters_at())

    def leader_address(self) -> tuple[str, list[str]]:
        """Key and addresses of the leader, as far as is known here."""
        return self.known.key, self.known.at.get(self.known.key, [])

    def note_leader(self, leader: m.Leader) -> None:
        """Remember which machine leads, if this is news, and where the voters listen."""
        term, key = leader.term, leader.key
        possible = self.leadership is None or self.leadership.owner(term) == key
        news = term > self.known.term and possible
        if news:
            log.info("%s leads the run in term %d", self.name(key), term)
            if key != self.me:
                self.say(f"{self.name(key)} is the leader of the run now (term {term})")
            self.known.term, self.known.key = term, key
            self.heard = clock.now()  # it is given time to be heard
        if not self.note_voters(leader.at) and news:
            self._remember()

    def note_voters(self, at: Sequence[m.PeerAddress]) -> bool:
        """Remember where voters listen. True if that is news."""
        heard = {x.key: x.addresses for x in at if x.addresses and x.key != self.me}
        news = {key: x for key, x in heard.items() if self.known.at.get(key) != x}
        if news:
            self.known.at |= news
            self._remember()
        return bool(news)

    def _remember(self) -> None:
        at = self.known.at | {self.me: self.endpoint.offered}
        known = msgspec.structs.replace(self.known, at=at)  # commands of this machine read it, too
        write_atomically(self._file, msgspec.json.encode(known))

    def in_touch(self, voter: Voter) -> bool:
        """Whether a majority of the voters, this one included, has acknowledged entries recently."""
        since = clock.now() - IN_TOUCH
        recent = sum(t > since for key, t in self._voters.items() if key != self.me)
        return recent + 1 >= voter.leadership.majority

    def elected(self, term: int, voters: Iterable[str]) -> None:
        """These voters, who have just been heard, have made this machine the leader."""
        self._voters = dict.fromkeys(voters, clock.now())
        self.note_leader(m.Leader(term, self.me))

    async def look_for_leader(self) -> None:
        """Ask all known voters which machine leads, and tell them where this one listens. Those of a path are also made
        known by the common start of its family."""
        if self.spec.path is not None:
            told = offers.voters(self.folder, self.spec.identity)
            self.note_voters([voter for voter in told if self.votes(voter.key)])

        async def look(key: str) -> None:
            try:
                question = m.GetLeader(self.endpoint.offered)
                leader, _ = await within(self._patience(CANVASS), self.ask(key, question))
            except (LinkError, TimeoutError) as error:
                log.debug("%s does not say who leads: %s", self.name(key), error)
                return
            self.note_leader(leader)
            if self.voter:
                self.voter.overtaken(leader.term)

        await asyncio.gather(*(look(key) for key in list(self.known.at) if key != self.me))

    def _voters_at(self) -> list[m.PeerAddress]:
        at = self.known.at | {self.me: self.endpoint.offered}
        return [m.PeerAddress(key, addresses) for key, addresses in at.items() if self.votes(key)]

    # --- what others ask

    async def entries(
        self, key: str, question: m.GetEntries, addresses: list[str]
    ) -> tuple[m.Answer, bytes]:
        """What follows on the end of another machine's copy. A voter is told as soon as there is
        something; a peer may be referred to another one. addresses: where others reach the asker."""
        voter = self.voter
        if voter is None or not voter.leads:
            return self.leader(), b""
        votes = self.votes(key)
        if votes and question.term > voter.leadership.term:
            self.heard = -1e9  # to be elected anew at once
            voter.overtaken(question.term)
            return self.leader(), b""
        same = voter.acknowledged(key, question.term, question.number, question.head)
        if votes and same:
            self._voters[key] = clock.now()
            self._acknowledged()
            await self._more_than(question.number, voter)
        if not voter.leads:
            return self.leader(), b""
        last = self.ledger.number if votes else voter.committed
        body, source = self._packed(question.number + 1, last) if same else b"", None
        if not votes and len(body) >= WORTH:
            source = self._tree.source(last, m.PeerAddress(key, addresses), question.number)
        said = m.LedgerEntries(
            voter.leadership.term,
            question.number,
            question.head,
            same,
            voter.committed,
            self._voters_at(),
            source,
        )
        return said, b"" if source else body

    def _packed(self, start: int, last: int) -> bytes:
        """Entries as they travel; most machines ask for the same ones."""
        if self._page[0] != (start, last):
            self._page = (start, last), encoded(self.ledger.rows(start, PAGE, last))
        return self._page[1]

    async def _more_than(self, number: int, voter: Voter) -> None:
        closes = clock.now() + min(POLL, voter.leadership.absence / 3)
        while voter.leads and self.ledger.number <= number:
            self._grown.clear()
            try:
                await within(closes - clock.now(), self._grown.wait())
            except TimeoutError:
                return

    def extract(self, question: m.GetEntryRange) -> tuple[m.Answer, bytes]:
        """Entries that a candidate lacks. Raises ValueError if they are not here."""
        if self.ledger.hash_at(question.number) != question.head:
            raise ValueError("entries that are not here")
        rows = self.ledger.rows(max(0, question.start), PAGE, question.number)
        said = m.LedgerEntries(self.known.term, question.number, question.head, True, -1)
        return said, encoded(rows)

    # --- what this machine asks

    async def ask(self, key: str, question: m.Question[A], limit: int = 0) -> tuple[A, bytes]:
        """Ask the holder of a key. limit: most bytes of the answer's body. Raises LinkError."""
        if key == self.me:
            raise LinkError("this machine does not lead the run, and knows no other that does")
        try:
            client = await self._client(key)
            return await client.ask(question, body_limit=limit, patience=2 * POLL)
        except (QuestionRefused, NotLeader):
            raise
        except LinkError:
            self._drop(key)
            raise

    async def _client(self, key: str) -> Client:
        async with self._dialling[key]:
            if key not in self._clients:
                self._clients[key] = Client(await self._dial(key))
            return self._clients[key]

    async def _dial(self, key: str) -> Link:
        """Raises LinkError, after the time that a leader may be silent at most: who waits for one that is gone does not
        hear the next one, which then seems to be silent too."""
        dialling = self.endpoint.connect(key, self.known.at.get(key, []))
        try:
            return await within(self._patience(STALL), dialling)
        except TimeoutError as error:
            raise LinkError(f"{self.name(key)} does not answer") from error

    def _patience(self, most: float) -> float:
        """Seconds to wait for another machine, `most` at most."""
        return min(most, self.leadership.absence) if self.leadership else most

    def _drop(self, key: str) -> None:
        if client := self._clients.pop(key, None):
            client.close()

    async def pull(self) -> bool:
        """Copy what the leader has more; a machine that does not vote gets what a majority holds. True
        if there may be more. Raises LinkError, LedgerError."""
        key, number, back = self.known.key, self.ledger.number, 1
        promised = self.voter.promised if self.voter else 0
        while True:
            head = self.ledger.hash_at(number) or ""
            answer, body = await self.ask(key, m.GetEntries(promised, number, head), PAGE_LIMIT)
            if isinstance(answer, m.Leader):
                self.note_leader(answer)
                raise LinkError(f"{self.name(key)} is no longer the leader")
            if answer.same or number < 0:
                break
            number, back = max(-1, number - back), 2 * back
        self.note_leader(m.Leader(answer.term, key, answer.at))
        rows = decoded(body)
        if self.voter:
            await self.fetch_blobs(rows, [key, *self.known.at], answer.committed)
            if not self.voter.follow(answer.term, number, head, rows, answer.committed):
                raise LinkError(f"this voter has promised a higher term than {answer.term}")
        elif answer.source:
            return await self._pull_from(answer.source, number, head)
        else:
            self._keep(rows)
        self.heard = clock.now()
        return bool(rows)

    async def _pull_from(self, source: m.PeerAddress, number: int, head: str) -> bool:
        """Copy what a peer has more. Always True: the leader knows whether that is all, and gives itself what
        the peer did not."""
        self.heard = clock.now()
        try:
            self._keep(await take(self._ask_peer, source, number, head))
        except LedgerError as error:
            log.warning("peer %s gave entries that are wrong: %s", source.key[:10], error)
        return True

    def _keep(self, rows: Sequence[Row]) -> None:
        """Raises LedgerError."""
        for row in rows:
            self.ledger.take(row, verify)
            self._become_voter()
            if self.voter:  # the rest as one that votes
                break

    async def fetch_blobs(self, rows: Sequence[Row], keys: Sequence[str], held: int) -> None:
        """Fetch the blobs that lead to the state after the rounds among the entries, and the answers that the next
        round learns from. A voter that
        acknowledges a round must have its blobs, so that they cannot be lost. Of the entries up to
        `held`, which others have already, the newest are fetched if possible. Raises LinkError."""
        for row in rows:
            if row.kind != RoundEntry.kind or row.number <= held - self._recent:
                continue
            for digest in _needed(row):
                if not await self.fetch_blob(digest, keys) and row.number > held:
                    raise LinkError(
                        f"no machine that was asked has blob {digest[:10]} of round {row.round}"
                    )

    async def fetch_blob(self, digest: str, keys: Sequence[str]) -> bool:
        """Fetch a blob from the first of these machines that gives it; False where none does."""
        place = self.folder.blob(digest)
        for key in () if place.exists() else dict.fromkeys(keys):
            with contextlib.suppress(LinkError):
                _, blob = await self.ask(key, m.Fetch(digest, whole=True), self._limit)
                if blob_hash(blob) == digest:
                    write_atomically(place, blob)
                    break
        return place.exists()


def _needed(row: Row) -> list[str]:
    """Hashes of the blobs that others will ask for after the round of an entry. Raises LinkError."""
    try:
        entry = msgspec.json.decode(row.body, type=RoundEntry)
        return [*entry.closed.needed(), *(said.rollouts for said in entry.writings.values())]
    except msgspec.DecodeError as error:
        raise LinkError(f"entry {row.number} makes no sense: {error}") from error
