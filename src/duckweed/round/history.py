"""The history of a run, as its ledger tells it: who came, what was given out, closed and agreed on.

Read from the ledger when a machine begins to lead, and written into it from then on: what is not in the
ledger has not happened, so that the next coordinator knows as much as one that was killed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing

from msgspec import UNSET, UnsetType

from duckweed.ledger.entries import (
    RUN,
    AuditEntry,
    Body,
    Closed,
    Contributed,
    GenesisEntry,
    PeerEntry,
    RoundEntry,
    Standing,
    StateEntry,
    Writing,
)
from duckweed.ledger.ledger import Entry, Ledger, LedgerError, Row
from duckweed.merge import trust
from duckweed.merge.announcement import Announcement
from duckweed.round.answers import span_of
from duckweed.round.blocks import Blocks, Span
from duckweed.round.round_record import assignments, ledger_entry
from duckweed.run.folder import RunFolder
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec

REPLAYS = 64  # for so many rounds a contribution is not taken a second time


class RunHistory:
    """What the ledger of a run says, kept up to date while this machine leads the run."""

    def __init__(self, folder: RunFolder, spec: RunSpec, layout: Layout, ledger: Ledger) -> None:
        """Raises LedgerError if the ledger is not that of this run, or not the whole of it."""
        self.ledger = ledger
        self.peers: list[str] = []  # public keys, by the peers' indices
        self.index_of: dict[str, int] = {}  # public key -> the peer's index
        self.closed: dict[int, Closed] = {}  # round -> how it closed
        self.memory: dict[int, Standing] = {}  # peer -> what is remembered of it
        self.carried: dict[int, str] = {}  # peer -> hash of what it carries on (Closed.carrying)
        self.carrying_since: dict[
            int, int
        ] = {}  # peer -> the round of the contribution that left it
        self.audited: dict[tuple[int, int], AuditEntry] = {}  # round and peer -> how its audit went
        self.out: set[int] = set()  # peers that are put out, since an audit failed
        self.agreed: dict[int, str] = {}  # round -> hash of the state that it begins from
        self.blocks = Blocks(spec.block_steps)  # which data is still to be trained
        self.shared: list[float] = []  # what the peers share in the next round, [K]
        self.tokens = ""  # hash of the training data
        self.start: str | UnsetType = UNSET  # hash of the first weights, where peers need them
        self.windows = 1  # sequences in it
        self.wanted = spec.rounds.peers  # peers that the run begins with
        self.handed: dict[
            int, dict[int, Contributed]
        ] = {}  # the last rounds -> what peers handed in
        self.recent_blobs: dict[str, int] = {}  # hash of a contribution -> the round it was for
        self.recent_rollouts: dict[str, int] = {}  # hash of rollouts -> the round they were for
        self.writings: list[Writing] = []  # answers of others that the next round learns from
        self.wrote: Counter[int] = Counter()  # peer that only writes -> tokens of its answers
        self.genesis_hash = ledger.hash_at(0) or ""  # by which peers tell this run from others
        self._spans: dict[int, dict[int, Span]] = {}  # the same -> what they were given
        self._entry_of: dict[int, int] = {}  # round -> its entry in the ledger
        for entry in ledger.entries(*RUN):
            if isinstance(entry.body, GenesisEntry):
                _check(entry.body, folder, spec, layout)
            self._replay(entry)
        saved = folder.saved_rounds()
        if saved and saved[-1] > self.number:
            raise LedgerError(
                f"{ledger.path}: ends with round {self.number}, but there is a state after "
                f"round {saved[-1]}; entries were cut off. Put the whole ledger back"
            )

    def _replay(self, entry: Entry[Body]) -> None:
        match entry.body:
            case GenesisEntry() as genesis:
                self.agreed[0], self.shared = genesis.state, genesis.scales
                self.tokens, self.windows = genesis.tokens, genesis.windows
                self.start = genesis.start
            case PeerEntry(key=key):
                self._add(key)
            case RoundEntry() as round_:
                spans = assignments(round_, self.blocks.steps)
                self.blocks.replay(spans, round_.closed.accepted)
                answered = [span_of(said) for said in round_.writings.values()]
                self.blocks.hold(answered)
                self.blocks.give_back(answered)
                self._note(entry.number, round_)
            case StateEntry(hash=digest):
                self.agreed[entry.round] = digest
            case AuditEntry() as audit:
                self._note_audit(entry.round, audit)

    def _note_audit(self, round_: int, audit: AuditEntry) -> None:
        self.audited[round_, audit.peer] = audit
        self.out.update(audit.out)
        trust.recall(self.memory, audit)

    def _note(self, number: int, entry: RoundEntry) -> None:
        closed = entry.closed
        self.closed[closed.round], self.shared = closed, closed.shared
        trust.recall(self.memory, closed)
        for peer in closed.carrying():
            self.carrying_since[peer] = closed.round
            if said := entry.contributions.get(peer):
                self.carried[peer] = said.after
        self.handed[closed.round] = entry.contributions
        self._spans[closed.round] = assignments(entry, self.blocks.steps)
        for of_rounds in (self.handed, self._spans):
            of_rounds.pop(closed.round - REPLAYS, None)
        self._entry_of[closed.round] = number
        self.writings = [said for _, said in sorted(entry.writings.items())]
        self.wrote.update({said.peer: said.tokens for said in self.writings})
        self.blocks.written = [span_of(said) for said in self.writings]
        handed = entry.contributions.values()
        rollouts = [one.rollouts for one in handed if one.rollouts is not UNSET]
        rollouts += [said.rollouts for said in self.writings]
        _remember(self.recent_blobs, (one.blob for one in handed), closed.round)
        _remember(self.recent_rollouts, rollouts, closed.round)

    @property
    def genesis(self) -> Row:
        """The first entry of the ledger, as peers are shown it."""
        return self.ledger.rows(0, 0, 0)[0]

    @property
    def number(self) -> int:
        """How many rounds are closed."""
        return len(self.closed)

    def counted(self, number: int) -> Iterator[list[int]]:
        """Whose work counted in the rounds before this one, the last first."""
        return (self.closed[n].accepted for n in range(number - 1, -1, -1))

    def counted_last(self) -> list[int]:
        """Whose work counted in the last round in which any did."""
        return next(filter(None, self.counted(self.number)), [])

    def entry_of(self, round_: int) -> int:
        """The entry of a closed round in the ledger; -1 where there is none."""
        return self._entry_of.get(round_, -1)

    # --- what is added

    def admit(self, key: str, round_: int) -> int:
        """A new peer; returns its index, which is its own for good."""
        index = len(self.peers)
        self.ledger.append(round_, PeerEntry(index, key))
        self._add(key)
        return index

    def _add(self, key: str) -> None:
        self.index_of[key] = len(self.peers)
        self.peers.append(key)

    def close(
        self,
        closed: Closed,
        assigned: dict[int, Span],
        handed: list[Announcement],
        signatures: Mapping[int, bytes],
        writings: dict[int, Writing] | None = None,
        answered: Iterable[Span] = (),
    ) -> None:
        """A round, with what was assigned in it and handed in, signed by each peer. What did not count is
        given out again. writings: of peers that only write, for the next round; answered: spans that such peers had
        until now, whatever became of them."""
        body = ledger_entry(closed, assigned, handed, signatures, self.blocks.steps, writings)
        entry = self.ledger.append(closed.round, body)
        self.blocks.close_round(assigned, closed.accepted)
        self.blocks.give_back(answered)
        self._note(entry.number, body)

    def audit(self, round_: int, audit: AuditEntry) -> None:
        """How the audit of a contribution to a round went."""
        self.ledger.append(round_, audit)
        self._note_audit(round_, audit)

    def audits(self) -> Iterator[tuple[int, AuditEntry]]:
        """The round of each contribution that was audited, and how its audit ended; in the order of the ledger."""
        return ((round_, audit) for (round_, _), audit in self.audited.items())

    def spans(self, round_: int) -> dict[int, Span]:
        """What each peer was given to train in one of the last rounds."""
        return self._spans.get(round_, {})

    def beacon(self, round_: int) -> str:
        """What nobody knew before a round closed: the hash of its entry, by which its audits are drawn."""
        return self.ledger.hash_at(self.entry_of(round_)) or ""

    def agree(self, round_: int, digest: str, peers: int) -> None:
        """Note the state that a round begins from. peers: how many of them hold it."""
        self.ledger.append(round_, StateEntry(digest, peers))
        self.agreed[round_] = digest


def _remember(recent: dict[str, int], hashes: Iterable[str], round_: int) -> None:
    """Add the hashes of a round, and forget those of rounds that are long past."""
    recent.update(dict.fromkeys(hashes, round_))
    while recent and next(iter(recent.values())) <= round_ - REPLAYS:
        del recent[next(iter(recent))]


def _check(genesis: GenesisEntry, folder: RunFolder, spec: RunSpec, layout: Layout) -> None:
    """Whether the genesis is that of this run. Raises LedgerError."""
    if genesis.run != spec.identity:
        raise LedgerError(
            f"{folder.spec} is not the specification that the run began with; put the old "
            "one back (the ledger has it, in its first entry), or start a new run with it"
        )
    if genesis.layout != layout.digest():
        raise LedgerError(f"{folder.path}: layout.json was changed after the run began")


def complete(folder: RunFolder) -> bool:
    """Whether all is here that leads from the newest saved state to the end of the ledger. Raises LedgerError."""
    saved = folder.saved_rounds()
    with closing(Ledger(folder.ledger)) as ledger:
        rounds = [entry.body.closed for entry in ledger.entries(RoundEntry)]
    needed = [digest for one in rounds[saved[-1] :] for digest in one.needed()] if saved else []
    return bool(saved) and all(folder.blob(digest).is_file() for digest in needed)
