"""What the ledger of a run claims, and the files beside it: the material of an audit."""

import re
from collections.abc import Iterator
from contextlib import closing

import msgspec

from duckweed.audit.findings import AuditError, NotHere
from duckweed.ledger.entries import (
    RUN,
    AuditEntry,
    Closed,
    GenesisEntry,
    PeerEntry,
    RoundEntry,
    Standing,
    StateEntry,
)
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.merge import trust
from duckweed.merge.round import blob_hash
from duckweed.net.identity import verify
from duckweed.round import signed
from duckweed.round.blocks import Span
from duckweed.round.engine import Engine, MemoryBlobs
from duckweed.round.round_record import assignments
from duckweed.run import spec as specs
from duckweed.run import state as states
from duckweed.run.folder import RunFolder
from duckweed.run.layout import Layout
from duckweed.run.state import State
from duckweed.wire.codec import codec_of


class Claims:
    """The run as its ledger tells it. Its chain and all signatures are checked as it is read."""

    def __init__(self, folder: RunFolder) -> None:
        """Raises LedgerError if the ledger does not hold, AuditError if there is none, or specification
        and layout in the folder are not those that the ledger names."""
        if not folder.ledger.is_file():
            raise AuditError(
                f"{folder.path}: there is no ledger in it. The coordinator of a run has one, and so have "
                "its successors; ask them for a copy of their folder"
            )
        self.folder, self.spec = folder, specs.load(folder.spec)
        self.rounds: dict[int, RoundEntry] = {}
        self.agreed: dict[int, str] = {}  # round -> hash of the state that it begins from
        self.peers: dict[int, str] = {}  # index -> public key
        self.story: list[Closed | AuditEntry] = []  # what trust follows from, in order
        self.audits: list[
            tuple[int, AuditEntry]
        ] = []  # round of the contribution, how its audit ended
        genesis: GenesisEntry | None = None
        with closing(Ledger(folder.ledger)) as ledger:
            self.entries, self.head = ledger.verify(verify), ledger.head
            for entry in ledger.entries(*RUN):
                match entry.body:
                    case GenesisEntry() as genesis:
                        self.agreed[0] = genesis.state
                    case PeerEntry(index=index, key=key):
                        self.peers[index] = key
                    case RoundEntry() as closed:
                        self.rounds[closed.closed.round] = closed
                        self.story.append(closed.closed)
                    case AuditEntry() as audit:
                        self.story.append(audit)
                        self.audits.append((entry.round, audit))
                    case StateEntry(hash=digest):
                        self.agreed[entry.round] = digest
            if genesis is None:
                raise LedgerError(
                    f"{folder.ledger}: has no genesis entry; this is not a run's ledger"
                )
            self.said = signed.check(ledger, verify)  # by the peers, of their contributions
        self.genesis = genesis
        self.layout = self._layout()
        if genesis.run != self.spec.identity:
            raise AuditError(
                f"{folder.spec} is not the specification that the ledger begins with; put the old one "
                "back (the ledger has it, in its first entry)"
            )

    def _layout(self) -> Layout:
        path = self.folder.path / "layout.json"
        try:
            layout = msgspec.json.decode(path.read_bytes(), type=Layout)
        except (FileNotFoundError, msgspec.DecodeError) as error:
            raise AuditError(
                f"{path} is missing or damaged; copy it from the coordinator"
            ) from error
        if layout.digest() != self.genesis.layout:
            raise AuditError(f"{path} is not the layout that the ledger names; it was changed")
        return layout

    def shared(self, round_: int) -> list[float]:
        """What the contributions of a round were encoded with (State.shared), [K]."""
        return self.rounds[round_ - 1].closed.shared if round_ else self.genesis.scales

    def memory(self, round_: int) -> dict[int, Standing]:
        """What was remembered of each peer when a round closed."""
        memory: dict[int, Standing] = {}
        for entry in self.story:
            if isinstance(entry, Closed) and entry.round >= round_:
                break
            trust.recall(memory, entry)
        return memory

    def span(self, round_: int, peer: int) -> Span | None:
        """What a peer was given to train in a round. Raises ValueError if there is no such span."""
        steps = self.spec.block_steps
        span = assignments(self.rounds[round_], steps).get(peer)
        if span and not (span.block >= 0 and 0 <= span.first < span.end <= steps):
            raise ValueError(
                f"steps {span.first} to {span.end} of block {span.block}: a block has {steps} steps"
            )
        return span

    def carried(self, peer: int, before: int) -> Iterator[int]:
        """The rounds before this one of which the peer carried on what its contribution left, in order."""
        rounds = sorted(n for n in self.rounds if n < before)
        return (n for n in rounds if peer in self.rounds[n].closed.carrying())


class CheckedBlobs(MemoryBlobs):
    """The blobs of a run's folder, each checked against its name. What is written stays in memory."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self._folder = folder

    def read(self, digest: str) -> bytes:
        """Raises NotHere."""
        if digest in self:
            return self[digest]
        if not re.fullmatch("[0-9a-f]{64}", digest):  # a path, say
            raise NotHere("what the ledger names is not the hash of a blob")
        path = self._folder.blob(digest)
        try:
            blob = path.read_bytes()
        except OSError as error:
            reason = "is not here" if isinstance(error, FileNotFoundError) else "cannot be read"
            raise NotHere(f"the blob {digest[:16]} {reason}") from error
        if blob_hash(blob) != digest:
            raise NotHere(f"{path} is damaged: its contents do not have the hash that is its name")
        return blob


class States:
    """The states of a run: those saved, and those that follow from them by the updates. Each is given
    only if it has the hash that the ledger names."""

    def __init__(self, claims: Claims) -> None:
        self.claims = claims
        self.blobs = CheckedBlobs(claims.folder)
        self.engine = Engine(claims.spec, claims.layout, self.blobs)
        self.additive = codec_of(claims.spec.wire, claims.layout).additive
        self._recent: list[State] = []
        self._kept = (
            2 if claims.spec.rounds.overlap else 1
        )  # a round begins with the state before it

    def at(self, round_: int) -> State:
        """The state that a round begins from. Raises NotHere."""
        claimed = self.claims.agreed.get(round_)
        if claimed is None:
            raise NotHere(f"the ledger names no state that round {round_} begins from")
        reason = "no state is saved in this folder"
        for begin in self._beginnings(round_):
            try:
                state = self._follow(begin, round_)
            except (NotHere, ValueError, ArithmeticError) as error:
                reason = str(error)
                continue
            if state.hash() == claimed:
                self._recent = [x for x in self._recent if x.round != round_][1 - self._kept :]
                self._recent.append(state)
                return state
            reason = f"what the files give has another hash than the ledger, {claimed[:16]}"
        raise NotHere(f"the state that round {round_} begins from: {reason}")

    def _beginnings(self, round_: int) -> Iterator[State | int]:
        """What the state can be reached from, the nearest first."""
        saved = [n for n in self.claims.folder.saved_rounds() if n <= round_]
        recent = max((x for x in self._recent if x.round <= round_), key=_round, default=None)
        if recent is not None and recent.round >= max(saved, default=0):
            yield recent
        yield from reversed(saved)

    def _follow(self, begin: State | int, round_: int) -> State:
        """From a state on, or from a saved one, to the one that a round begins from."""
        claims = self.claims
        state = begin if isinstance(begin, State) else self._saved(begin)
        for number in range(state.round, round_):
            if number not in claims.rounds:
                raise NotHere(f"the ledger has no round {number}")
            closed = claims.rounds[number].closed
            if closed.accepted and self.additive and not closed.update:
                raise NotHere(f"the ledger names no update of round {number}")
            state = self.engine.advance(state, closed)
        return state

    def _saved(self, round_: int) -> State:
        state = states.load(self.claims.folder.state(round_), self.claims.layout)
        if state.round != round_:
            raise NotHere(f"{self.claims.folder.state(round_)} is the state of another round")
        return state

    def after(self, closed: Closed) -> State:
        """The state after a round that closed so. Raises NotHere; MergeError, WireError."""
        return self.engine.advance(self.at(closed.round), closed)


def _round(state: State) -> int:
    return state.round
