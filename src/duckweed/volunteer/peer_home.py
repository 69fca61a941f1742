"""Where a volunteer's peer lives on its machine: its folder, its key, its invitation, its lock."""

import os
from pathlib import Path

from duckweed.run.folder import RunFolder
from duckweed.run.lock import Busy, alone
from duckweed.swarm.protocol.invitation import Invitation, InvitationError, read

JOINED = Path("joined")


class PlaceError(ValueError):
    """There is no such peer here, or more than one that could be meant."""


class Place:
    """home: `joined/RUN` as a rule; peer: what is the peer's own in it."""

    def __init__(self, home: Path, invitation: Invitation) -> None:
        self.home, self.invitation = home, invitation
        self.peer = RunFolder(home).peer(0)
        self.lock = self.peer / "lock"

    @classmethod
    def of(cls, text: str | None, home: Path | None) -> "Place":
        """The place for an invitation, which is kept there for the next time; without one, the
        place of the folder. Raises InvitationError, PlaceError."""
        if text is None:
            return find(home)
        invitation = read(text)
        place = cls(home or JOINED / invitation.run[:12], invitation)
        kept = place._kept()
        if kept.is_file() and read(kept.read_text("ascii")).run != invitation.run:
            raise PlaceError(
                f"{place.home} is the folder of another run; choose another --home, one for each run"
            )
        place.peer.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(f"{invitation}\n")
        return place

    def taking_part(self) -> bool:
        """Whether a process is this peer at the moment."""
        try:
            with alone(self.lock, wait=False):
                return False
        except Busy:
            return True

    def _kept(self) -> Path:
        return self.peer / "invitation"


def find(home: Path | None) -> Place:
    """The peer that has taken part from this folder; None: the only one under joined/.

    Raises PlaceError.
    """
    if home is None:
        known = sorted(p.parents[2] for p in JOINED.glob("*/peers/0/invitation"))
        if len(known) != 1:
            which = f"name one of: {', '.join(map(str, known))}" if known else "join a run first"
            raise PlaceError(f"{len(known) or 'no'} peers live under {JOINED}/ here; {which}")
        home = known[0]
    kept = RunFolder(home).peer(0) / "invitation"
    try:
        return Place(home, read(kept.read_text("ascii")))
    except FileNotFoundError:
        raise PlaceError(f"{home}: no peer lives there; `duckweed join` makes one") from None
    except (InvitationError, UnicodeDecodeError) as error:
        raise PlaceError(f"{kept} is damaged ({error}); join with the invitation again") from error
