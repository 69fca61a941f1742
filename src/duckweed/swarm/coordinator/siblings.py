"""The other paths of a family whose paths hold something in common: what each has for the open round, and what it waits for.

All coordinators of such a family run on one machine and know each other by its folder. A path that has gathered its
contributions to a round offers what they come to; the round of each path closes when all have offered. An
offer is on disk before anybody sees it and is never changed, so that it does not matter who is killed, and when.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from duckweed.ledger.entries import Closed, OfPath
from duckweed.merge.announcement import Announcement
from duckweed.merge.trunk import Part
from duckweed.run.family import name_of, paths_of
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.spec import RunSpec

KEPT = 2  # rounds before the open one whose offers are kept: no path is more than one behind


class Offer(msgspec.Struct, frozen=True):
    """What a path has for a round."""

    round: int
    handed: list[str]
    """Hashes of the contributions that were looked at."""
    given: OfPath
    """What they come to in the tensors that all paths have in common."""
    sizes: list[list[float]]
    """Announced of these tensors, by those contributions that count."""
    pace: float = 0.0
    """Seconds of an inner step, of the middle one of the peers whose contribution came; 0: nobody's is known."""


class Siblings:
    """All paths of the family as the coordinator of one of them sees them."""

    def __init__(self, folder: RunFolder, spec: RunSpec) -> None:
        assert spec.path is not None
        self._own, self._spec = spec.path, spec
        around = folder.path.parent
        self._folders = {
            path: RunFolder(around / name_of(path)) for path in range(paths_of(spec).count)
        }
        self._folders[self._own] = folder
        self._seen: dict[int, Offer] = {}  # path -> its offer for the round that was asked for last

    def own(self, round_: int) -> Offer | None:
        """What this path has offered for a round: before a restart, say."""
        return self._offer(self._own, round_)

    def offer(
        self, closed: Closed, handed: Sequence[Announcement], trunk: Part, pace: float
    ) -> None:
        """Offer what a round has come to here. handed: the contributions that were looked at; pace: as of Offer."""
        assert closed.trunk is not msgspec.UNSET
        counted = set(closed.accepted)
        made = Offer(
            closed.round,
            [said.blob for said in handed],
            closed.trunk.paths[self._own],
            [trunk.pick(said.rms) for said in handed if said.peer in counted],
            pace,
        )
        folder = self._folders[self._own]
        folder.offers.mkdir(exist_ok=True)
        write_atomically(folder.offer(closed.round), msgspec.json.encode(made))
        if closed.round >= KEPT:
            folder.offer(closed.round - KEPT).unlink(missing_ok=True)

    def missing(self, round_: int) -> list[int]:
        """The paths that have not offered anything for a round yet."""
        return [path for path in self._folders if self._offer(path, round_) is None]

    def going_on(self, round_: int) -> bool:
        """Whether another path has offered work for a round."""
        others = (self._offer(path, round_) for path in self._folders if path != self._own)
        return any(one is not None and one.given.update for one in others)

    def paces(self, round_: int) -> list[float]:
        """Of the other paths in a round, where they are known."""
        others = (self._offer(path, round_) for path in self._folders if path != self._own)
        return [one.pace for one in others if one is not None and one.pace > 0]

    def offers(self, round_: int) -> dict[int, Offer]:
        """path -> what it has for a round; of the paths that have offered something."""
        found = {path: self._offer(path, round_) for path in self._folders}
        return {path: one for path, one in found.items() if one is not None}

    def read(self, digest: str) -> bytes:
        """The sum that a path has given. Raises FileNotFoundError."""
        for folder in self._folders.values():
            if (path := folder.blob(digest)).is_file():
                return path.read_bytes()
        raise FileNotFoundError(f"what a path gave for the trunk is gone: no {digest}")

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


def words(missing: Sequence[int]) -> str:
    """Which paths are waited for."""
    return ", ".join(name_of(path) for path in missing)
