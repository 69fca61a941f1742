"""What a peer takes from a mirror of its run: the ledger, a state, and the blobs that lead on from it. All of it
is checked by the ledger, whose entries the run's leaders have signed; whoever wrote the mirror need not be
trusted.
"""

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from duckweed.ledger.entries import Closed, GenesisEntry, RoundEntry
from duckweed.ledger.ledger import Ledger, LedgerError, Row
from duckweed.merge.round import blob_hash, fetch_limit
from duckweed.net.framing import LinkError
from duckweed.net.identity import Identity, verify
from duckweed.round.engine import Engine, FolderBlobs
from duckweed.run import spec as specs
from duckweed.run import state as states
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.state import State, StateError
from duckweed.swarm.blobs.mirror import Index, Mirror, MirrorError, part_name
from duckweed.swarm.protocol.invitation import Invitation
from duckweed.swarm.protocol.ledger import PAGE_LIMIT, decoded

log = logging.getLogger(__name__)
Say = Callable[[str], None]


class FromMirror:
    """The mirror of the run that an invitation is to. folder: of the peer."""

    def __init__(
        self,
        mirror: Mirror,
        invitation: Invitation,
        folder: RunFolder,
        identity: Identity,
        say: Say,
    ) -> None:
        self.mirror, self.invitation, self.folder = mirror, invitation, folder
        self._identity, self.say = identity, say

    def _index(self) -> Index:
        found = self.mirror.index()
        if found is None:
            raise MirrorError(f"mirror {self.mirror.url}: nothing is there yet")
        if found.run != self.invitation.run:
            raise MirrorError(
                f"mirror {self.mirror.url}: it is that of run {found.run[:12]}, and the invitation is to run "
                f"{self.invitation.run[:12]}"
            )
        return found

    # --- the ledger

    def ledger(self) -> None:
        """Copy the entries that are new. Raises MirrorError; nothing that is wrong is kept."""
        index = self._index()
        try:
            with closing(Ledger(self.folder.ledger, self._identity.sign)) as ledger:
                for number, start in enumerate(index.ledger):
                    follows = index.ledger[number + 1 : number + 2]
                    if not follows or follows[0] > ledger.number + 1:
                        self._take(ledger, self._part(start))
        except LedgerError as error:
            raise MirrorError(
                f"mirror {self.mirror.url}: its ledger does not hold: {error}"
            ) from error

    def _part(self, start: int) -> list[Row]:
        try:
            return decoded(self.mirror.read(part_name(start), PAGE_LIMIT))
        except FileNotFoundError:
            return []
        except LinkError as error:
            raise MirrorError(f"mirror {self.mirror.url}: {error}") from error

    def _take(self, ledger: Ledger, rows: list[Row]) -> None:
        """Raises LedgerError, MirrorError."""
        for row in rows:
            if row.number <= ledger.number:
                continue
            if row.number == 0:
                self._check_founder(row)
            ledger.take(row, verify)

    def _check_founder(self, row: Row) -> None:
        """Whether the first entry is that of the run, before it is kept."""
        with closing(Ledger(Path(":memory:"), self._identity.sign)) as ledger:
            ledger.take(row, verify)
            leadership = ledger.leadership
        assert leadership is not None
        invited = leadership.run == self.invitation.run
        if not invited or self.invitation.coordinator not in leadership.voters:
            raise MirrorError(
                f"mirror {self.mirror.url}: its ledger was begun by somebody else than the machine that the "
                "invitation names"
            )

    def genesis(self) -> GenesisEntry:
        """The first entry of the ledger that is here. Raises LedgerError."""
        with closing(Ledger(self.folder.ledger)) as ledger:
            return next(ledger.entries(GenesisEntry)).body

    def spec(self) -> RunSpec:
        """The specification, as the ledger has it. Raises MirrorError, SpecError."""
        text = self.genesis().spec
        spec = specs.parse(text, "the run's specification")
        if spec.identity != self.invitation.run:
            raise MirrorError(f"mirror {self.mirror.url}: its ledger has another specification")
        write_atomically(self.folder.spec, text.encode())
        return spec

    def router(self, place: Path, limit: int) -> None:
        """Put the router of a path's family, whose hash is the name of `place`, there. Raises MirrorError."""
        try:
            data = self.mirror.read(f"blobs/{place.name}", limit)
        except FileNotFoundError:
            data = b""
        if blob_hash(data) != place.name:
            raise MirrorError(f"mirror {self.mirror.url}: the router of the run is not there")
        write_atomically(place, data)

    # --- states

    def state(self, layout: Layout, agreed: dict[int, str], after: int = -1) -> int | None:
        """Put the newest state that the mirror has, and the peers have agreed on, into the folder; returns its
        round. agreed: round -> hash; after: states up to this round are of no use. Raises MirrorError."""
        held = set(self.folder.saved_rounds())
        for round_ in sorted(self._index().states, reverse=True):
            if round_ <= after:
                return None
            if round_ not in agreed:
                continue
            if round_ in held or self._download(round_, layout, agreed[round_]):
                return round_
        return None

    def _download(self, round_: int, layout: Layout, agreed: str) -> bool:
        path = self.folder.state(round_)
        part = path.with_suffix(".mirrored")
        self.say(f"fetching the state after round {round_} from the mirror")
        try:
            self.mirror.fetch(f"states/{path.name}", part, states.file_limit(layout))
            if states.load(part, layout).hash() != agreed:
                raise StateError("it is not the state that the peers agreed on")
        except (FileNotFoundError, StateError, MirrorError) as error:
            self.say(f"the state after round {round_} that the mirror has is not used: {error}")
            part.unlink(missing_ok=True)
            return False
        part.replace(path)
        return True

    def blobs(self, spec: RunSpec, layout: Layout, since: int) -> None:
        """Fetch the blobs that lead on from a state, as far as the mirror has them. Raises MirrorError."""
        limit = fetch_limit(spec, layout)
        for closed in self._rounds():
            for digest in closed.needed() if closed.round >= since else ():
                place = self.folder.blob(digest)
                if place.is_file():
                    continue
                try:
                    blob = self.mirror.read(f"blobs/{digest}", limit)
                except FileNotFoundError:
                    return
                if blob_hash(blob) != digest:
                    raise MirrorError(
                        f"mirror {self.mirror.url}: blob {digest[:10]} is something else"
                    )
                write_atomically(place, blob)

    def newest(self, spec: RunSpec, layout: Layout) -> State | None:
        """With nobody to ask: the state after as many rounds as ledger, states and blobs of the mirror reach;
        it is in the folder then. None where there is none. Raises MirrorError, LedgerError."""
        with closing(Ledger(self.folder.ledger)) as ledger:
            agreed = ledger.agreed_states()
        round_ = self.state(layout, agreed)
        if round_ is None:
            return None
        self.blobs(spec, layout, round_)
        state = states.load(self.folder.state(round_), layout)
        rounds = [x for x in self._rounds() if x.round >= round_]
        if rounds:
            self.say(f"applying the rounds from {round_} on")
        engine = Engine(spec, layout, FolderBlobs(self.folder))
        for closed in rounds:
            if not all(self.folder.blob(x).is_file() for x in closed.needed()):
                break
            state = engine.advance(state, closed)
        if state.round > round_:
            if agreed.get(state.round, digest := state.hash()) != digest:
                raise MirrorError(
                    f"the rounds since {round_} lead to another state here than the peers agreed on"
                )
            state.save(self.folder.state(state.round))
        return state

    def _rounds(self) -> list[Closed]:
        with closing(Ledger(self.folder.ledger)) as ledger:
            return [entry.body.closed for entry in ledger.entries(RoundEntry)]
