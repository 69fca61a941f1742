"""Where a volunteer's peer lives on its machine: its folder, its key, its invitation, its lock."""

import os
from pathlib import Path

from duckweed.run.folder import RunFolder, inside, private
from duckweed.run.lock import Busy, alone
from duckweed.swarm.protocol.invitation import Invitation, InvitationError, read

JOINED = Path("joined")


class PeerHomeError(ValueError):
    """The peer is not on this machine, or more than one could be meant."""


class PeerHome:
    """The folder of one peer, and the invitation by which it takes part."""

    def __init__(self, home: Path, invitation: Invitation) -> None:
        self.home = home
        """Holds states and blobs as the folder of a run does; `joined/RUN` unless --home is given."""
        self.invitation = invitation
        self.peer = RunFolder(home).peer(0)
        """Key, invitation and controls of this peer."""
        self.lock = self.peer / "lock"
        """Held while a process is this peer."""

    @classmethod
    def of(cls, text: str | None, home: Path | None) -> "PeerHome":
        """The home for an invitation (`text`), which is kept there for the next time; without an
        invitation, the peer that lives in `home`. Raises InvitationError, PeerHomeError."""
        if text is None:
            return find(home)
        invitation = read(text)
        peer_home = cls(home or inside(JOINED, invitation.run[:12]), invitation)
        kept = peer_home._kept()
        if kept.is_file() and read(kept.read_text("ascii")).run != invitation.run:
            raise PeerHomeError(
                f"{peer_home.home} is the folder of another run; choose another --home, one for each run"
            )
        private(peer_home.home)
        peer_home.peer.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            kept.chmod(0o600)  # it may have been there
            file.write(f"{invitation}\n")
        return peer_home

    def taking_part(self) -> bool:
        """Whether a process is this peer at the moment."""
        try:
            with alone(self.lock, wait=False):
                return False
        except Busy:
            return True

    def _kept(self) -> Path:
        return self.peer / "invitation"


def find(home: Path | None) -> PeerHome:
    """The peer that has taken part from this folder; None: the only one under joined/.

    Raises PeerHomeError.
    """
    if home is None:
        known = sorted(p.parents[2] for p in JOINED.glob("*/peers/0/invitation"))
        if len(known) != 1:
            which = f"name one of: {', '.join(map(str, known))}" if known else "join a run first"
            raise PeerHomeError(f"{len(known) or 'no'} peers live under {JOINED}/ here; {which}")
        home = known[0]
    kept = RunFolder(home).peer(0) / "invitation"
    try:
        return PeerHome(home, read(kept.read_text("ascii")))
    except FileNotFoundError:
        raise PeerHomeError(f"{home}: no peer lives there; `duckweed join` makes one") from None
    except (InvitationError, UnicodeDecodeError) as error:
        raise PeerHomeError(
            f"{kept} is damaged ({error}); join with the invitation again"
        ) from error
