"""A round from what was handed in to the next state: the one place where rounds are closed and applied.

The coordinator, the peers, the trials of `evolve` and the export all call it. What a round takes and leaves
are blobs by their hashes: in a run's folder, or in memory.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import UNSET

from duckweed.ledger.entries import OfPath
from duckweed.merge import trunk
from duckweed.merge.announcement import Announcement
from duckweed.merge.arrivals import Arrivals, Read
from duckweed.merge.round import Closed, advance, close
from duckweed.merge.rules import find_rule
from duckweed.merge.trust import NOTHING, Memory
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.state import State
from duckweed.wire.codec import codec_of


class Blobs(Protocol):
    """Contributions and updates by their hashes (blake3, hex)."""

    def read(self, digest: str) -> bytes:
        """Raises KeyError or OSError if it is not here."""
        ...

    def write(self, digest: str, blob: bytes) -> None: ...


class FolderBlobs:
    """The blobs of a run's folder; each write is atomic."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def read(self, digest: str) -> bytes:
        return self._folder.blob(digest).read_bytes()

    def write(self, digest: str, blob: bytes) -> None:
        write_atomically(self._folder.blob(digest), blob)


class MemoryBlobs(dict[str, bytes]):
    """Blobs that are needed for a moment only."""

    read = dict.__getitem__
    write = dict.__setitem__


class Engine:
    """The rounds of one run: pure arithmetic over blobs. Who is here, who may contribute and what the
    ledger says is decided elsewhere."""

    def __init__(self, spec: RunSpec, layout: Layout, blobs: Blobs) -> None:
        self.spec, self.layout, self.blobs = spec, layout, blobs

    def arrivals(self, shared: Sequence[float]) -> Arrivals:
        """Nothing yet, of a round whose contributions are encoded with what is shared, [K]."""
        return Arrivals(codec_of(self.spec.wire, self.layout), shared)

    def take(self, arrivals: Arrivals, said: Announcement) -> None:
        """Check a contribution, whose blob is here, and add it up, unless that was done: `close` has less to do then."""
        if not find_rule(self.spec.rule).filter:  # it looks at all of them when all are here
            tokens = self.spec.schedule.steps_of(said.round) * self.spec.tokens_per_step
            arrivals.early(said, self.blobs.read, tokens)

    def close(
        self,
        shared: Sequence[float],
        handed: Sequence[Announcement],
        memory: Memory = NOTHING,
        arrivals: Arrivals | None = None,
    ) -> Closed:
        """Check, weigh and merge the contributions of a round, whose blobs are here, one at a time.
        shared: what they were encoded with (State.shared), [K]. memory: what the rounds before have left
        of each peer. arrivals: those of this round, if some were taken. The blobs that the record names are written
        before this returns."""
        if arrivals:
            for said in handed:
                self.take(arrivals, said)
        closed, made = close(
            self.spec, self.layout, shared, handed, self.blobs.read, memory, arrivals
        )
        for digest, blob in made.items():
            self.blobs.write(digest, blob)
        return closed

    def join(
        self,
        shared: Sequence[float],
        closed: Closed,
        given: Mapping[int, OfPath],
        sizes: Sequence[Sequence[float]],
        read: Read,
    ) -> Closed:
        """A round that a path has closed by itself, with what all paths of its family give to the tensors that they have
        in common: arguments as of `duckweed.merge.trunk.joined`. The update of these is written before this returns."""
        split = trunk.split_of(self.spec, self.layout)
        assert split
        joined, update = trunk.joined(self.spec, split, closed, shared, given, sizes, read)
        if update is not None:
            assert joined.trunk is not UNSET
            assert joined.trunk.update is not None
            self.blobs.write(joined.trunk.update, update)
        return joined

    def advance(self, state: State, closed: Closed) -> State:
        """The state after a closed round whose needed blobs are here. Raises MergeError, WireError."""
        return advance(self.spec, self.layout, state, closed, self.blobs.read)

    def replay(self, state: State, rounds: Sequence[Closed]) -> State:
        """The state after all of these closed rounds that follow on it."""
        for closed in rounds:
            if closed.round == state.round:
                state = self.advance(state, closed)
        return state
