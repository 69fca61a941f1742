"""The paths of a family that is served: noted in the folder of its common start, whose coordinator tells of them,
and how a peer chooses one. No trust is needed: a peer decides for itself."""

from collections.abc import Sequence

import msgspec

from duckweed.net import timeouts
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.swarm.protocol.message import PeerAddress
from duckweed.swarm.protocol.status import PathOffer

FILE = "paths.json"
COMMON = "common"
"""Name of the run that all peers train first, in the folder of a family."""


def note(folder: RunFolder, offers: Sequence[PathOffer]) -> None:
    """Write down which paths are served. folder: of the common start."""
    write_atomically(folder.path / FILE, msgspec.json.encode(list(offers)))
    (folder.path / FILE).chmod(0o600)  # it holds secrets


def read(folder: RunFolder) -> list[PathOffer]:
    """What was noted; none before the common start is done."""
    try:
        return msgspec.json.decode((folder.path / FILE).read_bytes(), type=list[PathOffer])
    except FileNotFoundError:
        return []


def read_beside(folder: RunFolder) -> list[PathOffer]:
    """The same, by a machine that votes in a path. folder: of that path; the organiser's common start lies beside it, a
    successor's around it."""
    around = folder.path.parent
    return read(RunFolder(around)) or read(RunFolder(around / COMMON))


def voters(folder: RunFolder, run: str) -> list[PeerAddress]:
    """Machines that vote in a path, as far as this one was told. folder: as of `read_beside`; run: of that path."""
    mine = [offer for offer in read_beside(folder) if offer.run == run]
    leaders = [PeerAddress(offer.coordinator, offer.addresses) for offer in mine]
    return [*leaders, *(voter for offer in mine for voter in offer.voters or ())]


def open_to(offers: Sequence[PathOffer]) -> list[int]:
    """The paths that a peer can train: led, and not over."""
    return [number for number, offer in enumerate(offers) if offer.addresses and not offer.over]


def mirror_of(url: str, path: str) -> str:
    """Where the mirror of a path lies, given that of its family and the path's name; the common start has the
    family's own."""
    return f"{url.rstrip('/')}/{path}"


def choose(offers: Sequence[PathOffer], own: int = 0) -> int | None:
    """The path that a newcomer trains; None if there is none. First one that waits for its last peers, so that it can
    begin; else the one with the fewest accepted tokens, of those the one with the fewest peers, and of equal ones one
    by the peer's `own` number, so that those who come at once spread; unless it would leave that one at once."""
    left = open_to(offers)
    if not left:
        return None

    def rank(number: int) -> tuple[int, int, int]:
        return offers[number].tokens, offers[number].here, (number - own) % len(offers)

    waiting = [
        number
        for number in left
        if not offers[number].rounds and 0 < offers[number].here < offers[number].wanted
    ]
    if waiting:
        return min(waiting, key=rank)
    found = min(left, key=rank)
    come = list(offers)
    come[found] = msgspec.structs.replace(offers[found], here=offers[found].here + 1)
    return _spread(come, found)


def going(path: int, to: int) -> str:
    """Why a peer leaves a path for another, in words."""
    return f"path {to} has fewer peers for its work than path {path}: going there"


def stay_or_go(offers: Sequence[PathOffer], kept: int, together: bool = False) -> int:
    """The path that a peer of path `kept` goes on with: its own, unless that still waits for peers while another is
    trained, or another has less than half the peers (`_spread`). together: as of `look_after`; then also where its own
    has more peers than it begins with, and another waits for its last."""
    mine = offers[kept]
    waiting = [
        number
        for number in open_to(offers)
        if not offers[number].rounds and offers[number].here < offers[number].wanted
    ]
    if together and waiting and not mine.rounds and mine.here > mine.wanted:
        return min(waiting, key=lambda number: (offers[number].here, number))
    trained = [number for number in open_to(offers) if offers[number].rounds]
    if trained and not mine.over and not mine.rounds and mine.here < mine.wanted:
        return min(trained, key=lambda number: (offers[number].tokens, number))
    return _spread(offers, kept)


def look_after(offers: Sequence[PathOffer], together: bool) -> float:
    """Seconds after which a peer looks again whether another path needs it more. together: whether paths are trained at
    the same time, so that all wait for one that has too few peers to begin."""
    begun = all(offer.rounds or offer.over for offer in offers)
    return timeouts.PATHS_BEGIN if together and not begun else timeouts.PATHS_LOOK


def urge(offers: Sequence[PathOffer], kept: int, to: int) -> float:
    """The probability with which a peer of path `kept` goes to `to` at once: until those who went are there, others see
    the same, and no more than would leave both alike should go."""
    here, there = offers[kept].here, offers[to].here
    return max(1, (here - there) // 2) / max(1, here)


def _spread(offers: Sequence[PathOffer], kept: int) -> int:
    """The path of a peer of path `kept`: its own, unless another has less than half the peers, could train with one more,
    and would not have more than this one once the peer has moved."""
    able = [
        number
        for number in open_to(offers)
        if offers[number].rounds or offers[number].here + 1 >= offers[number].wanted
    ]
    if not able or offers[kept].over:
        return kept
    here = offers[kept].here
    fewest = min(able, key=lambda number: (offers[number].here, number))
    others = offers[fewest].here
    return fewest if 2 * others < here and others + 1 <= here - 1 else kept
