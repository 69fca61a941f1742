"""What was handed in for the open round, on disk: a coordinator that is killed must not lose it.

One line for each contribution whose blob is on disk. Lines of closed rounds are passed over, and overwritten
with the first contribution of the next round.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import UNSET, UnsetType

from duckweed.merge.announcement import Announcement
from duckweed.round.open_round import OpenRound, Timings
from duckweed.run.folder import RunFolder
from duckweed.run.task.written import Written


class Handed(msgspec.Struct):
    """A contribution that was taken."""

    announcement: Announcement
    signature: bytes
    timings: Timings
    nats: tuple[float, int]
    """Held-out loss of its share of the text: sum in nats, tokens."""
    written: Written | UnsetType = UNSET
    """What the peer's model wrote, in reinforcement learning."""


def of_open(open_: OpenRound, peer: int) -> Handed:
    """The contribution of a peer to the open round."""
    return Handed(
        open_.contributions[peer],
        open_.signatures[peer],
        open_.timings[peer],
        open_.nats.get(peer, (0.0, 0)),
        open_.written.get(peer, UNSET),
    )


def note(folder: RunFolder, handed: Handed, first: bool) -> None:
    """Add a contribution. first: of its round."""
    with folder.handed_in.open("wb" if first else "ab") as file:
        file.write(msgspec.json.encode(handed) + b"\n")


def of_round(folder: RunFolder, number: int) -> Iterator[Handed]:
    """What was handed in for a round, whose blobs are here. A line that a crash cut off is passed over."""
    if not folder.handed_in.is_file():
        return
    for line in folder.handed_in.read_bytes().split(b"\n"):
        try:
            handed = msgspec.json.decode(line, type=Handed)
        except msgspec.DecodeError:
            continue
        said = handed.announcement
        blobs = [said.blob] if said.rollouts is UNSET else [said.blob, said.rollouts]
        if said.round == number and all(folder.blob(x).is_file() for x in blobs):
            yield handed
