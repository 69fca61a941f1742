"""The other paths of a family whose paths hold something in common: what each has for the open round, and what it waits for.

All coordinators of such a family run on one machine and know each other by its folder. A path that has gathered its
contributions to a round offers what they come to; the round of each path closes when all have offered. An
offer is on disk before anybody sees it, with all that it follows from, and is never changed, so that it does not matter
who is killed, and when.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from duckweed.ledger.entries import Closed, OfPath
from duckweed.ledger.ledger import LedgerError
from duckweed.merge.round import blob_hash
from duckweed.merge.trunk import Part
from duckweed.net import clock
from duckweed.net.timeouts import GATHER
from duckweed.round.blocks import SLOWER
from duckweed.round.open_round import Member, OpenRound
from duckweed.run.family import name_of, paths_of
from duckweed.run.folder import RunFolder, write_for_good
from duckweed.run.spec import RunSpec
from duckweed.swarm.coordinator.handed_in import Handed
from duckweed.wire.exact import median

KEPT = 2  # rounds before the open one whose offers are kept: no path is more than one behind


class Offer(msgspec.Struct, frozen=True):
    """What a path has for a round."""

    round: int
    given: OfPath
    """What its contributions come to in the tensors that all paths have in common."""
    sizes: list[list[float]]
    """Announced of these tensors, by those contributions that count."""
    handed: list[Handed]
    """The contributions that were looked at, from which all that is above follows."""
    left_out: dict[int, str]
    """Peer -> why its contribution was not looked at."""
    seconds: float
    """From the opening of the round here to this offer."""
    pace: float
    """Seconds of an inner step, of the middle one of the peers that handed in; 0: nobody's is known."""


class Siblings:
    """All paths of the family as the coordinator of one of them sees them."""

    def __init__(self, folder: RunFolder, spec: RunSpec) -> None:
        assert spec.path is not None
        self._own = spec.path
        around = folder.path.parent
        self._folders = {
            path: RunFolder(around / name_of(path)) for path in range(paths_of(spec).count)
        }
        self._folders[self._own] = folder
        self._seen: dict[int, Offer] = {}  # path -> its offer for the round that was asked for last
        self._attended = clock.now()  # when a peer that trains was here last

    def own(self, round_: int) -> Offer | None:
        """What this path has offered for a round: before a restart, say."""
        return self._offer(self._own, round_)

    def offer(
        self, closed: Closed, handed: Sequence[Handed], left_out: dict[int, str], trunk: Part,
        seconds: float, paces: Sequence[float],
    ) -> None:  # fmt: skip
        """Offer what a round has come to here. handed, left_out, seconds: as of Offer; paces: of the peers that handed in,
        0 where one is not known."""
        assert closed.trunk is not msgspec.UNSET
        counted = set(closed.accepted)
        said = [one.announcement for one in handed]
        sizes = [trunk.pick(one.rms) for one in said if one.peer in counted]
        given = closed.trunk.paths[self._own]
        known = [pace for pace in paces if pace > 0]
        pace = median(known) if known else 0.0
        made = Offer(closed.round, given, sizes, list(handed), left_out, seconds, pace)
        folder = self._folders[self._own]
        write_for_good(folder.offer(closed.round), msgspec.json.encode(made))
        if closed.round >= KEPT:
            folder.offer(closed.round - KEPT).unlink(missing_ok=True)

    def complete(self, round_: int) -> bool:
        """Whether all paths have offered something for a round."""
        return next(self.missing(round_), None) is None

    def missing(self, round_: int) -> Iterator[int]:
        """The paths that have not."""
        return (path for path in self._folders if self._offer(path, round_) is None)

    def others(self, round_: int) -> list[Offer]:
        """What other paths have for a round, of those that have work."""
        found = (self._offer(path, round_) for path in self._folders if path != self._own)
        return [one for one in found if one is not None and one.given.update]

    def rests(
        self, number: int, open_: OpenRound | None, trainers: Sequence[Member], patience: float
    ) -> bool:
        """Whether this path lets the round that is open, or opens next, pass, because others have work for it and nobody
        here has: its peers are away, or are much slower than those of the others, or their work does not count. It
        begins with all its peers, as any run does. trainers: peers that are here; patience: rounds.patience."""
        now = clock.now()
        if trainers:
            self._attended = now
        begun = number > 0 or open_ is not None
        if not begun or not (others := self.others(number)):
            return False
        if open_ is None or not trainers:
            return now - self._attended > GATHER
        if open_.contributions:
            return False
        late = now - open_.opened > SLOWER * min(one.seconds for one in others) + patience
        return late or all(member.index in open_.refused for member in trainers)

    def given(self, closed: Closed) -> tuple[dict[int, OfPath], list[list[float]]]:
        """What all paths have given, once they have, for a round that this one has closed by itself; and the announced
        sizes. Raises LedgerError."""
        found = {path: self._offer(path, closed.round) for path in self._folders}
        offers = {path: one for path, one in found.items() if one is not None}
        given = {path: one.given for path, one in offers.items()}
        assert closed.trunk is not msgspec.UNSET
        if not closed.trunk.paths.items() <= given.items():
            raise LedgerError(
                f"{self._folders[self._own].offers}: what this path has offered for round {closed.round} does not "
                "follow from what was handed in; a file of the folder was changed. Put the old one back"
            )
        return given, [size for _, one in sorted(offers.items()) for size in one.sizes]

    def read(self, digest: str) -> bytes:
        """The sum that a path has given. Raises FileNotFoundError where none is whole."""
        for folder in self._folders.values():
            path = folder.blob(digest)
            if path.is_file() and blob_hash(data := path.read_bytes()) == digest:
                return data
        raise FileNotFoundError(
            f"{digest}: what a path gave to the trunk is not among its blobs any more, or is damaged"
        )

    def _offer(self, path: int, round_: int) -> Offer | None:
        seen = self._seen.get(path)
        if seen is None or seen.round != round_:
            try:
                data = self._folders[path].offer(round_).read_bytes()
            except FileNotFoundError:
                return None
            seen = self._seen[path] = msgspec.json.decode(data, type=Offer)
        return seen


def siblings_of(folder: RunFolder, spec: RunSpec) -> Siblings | None:
    """None of a run that has nothing in common with others."""
    return Siblings(folder, spec) if spec.in_common else None


def waiting_for(siblings: Siblings, round_: int) -> str:
    """What a path that has offered something waits for, in words."""
    missing = ", ".join(name_of(path) for path in siblings.missing(round_))
    return f"round {round_}: " + (f"waiting for {missing}" if missing else "the trunk is added up")
