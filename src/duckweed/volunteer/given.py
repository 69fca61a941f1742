"""What a volunteer's peers have given to the runs that they took part in, kept on this machine over all of them."""

import contextlib
from pathlib import Path

import msgspec
from platformdirs import user_data_path

from duckweed.run.folder import write_atomically
from duckweed.run.units import show_count


class Given(msgspec.Struct, frozen=True):
    """What one peer has given to one run, by its copy of the ledger."""

    run: str
    """Identity of the run."""
    key: str
    """The peer's public key."""
    home: str
    """Its folder."""
    tokens: int
    """That it was trained on, in contributions that counted, or that it wrote for others to learn from."""
    rounds: int
    """In which its work counted."""
    share: float
    """Of the tokens of all peers."""
    place: int
    """Among the peers, by tokens; 1: nobody gave more."""
    peers: int
    """That were ever admitted."""
    over: bool
    """Whether the run is over."""
    head: str
    """Of the ledger that says so."""
    time: float
    """When this was found: seconds since 1970."""

    def sentence(self) -> str:
        """In words."""
        rounds = f"{self.rounds:,} {'round' if self.rounds == 1 else 'rounds'}"
        return (
            f"{show_count(self.tokens)} tokens in {rounds}, {self.share:.0%} of the run's tokens, place "
            f"{self.place} of {self.peers}"
        )


def _place() -> Path:
    return user_data_path("duckweed", appauthor=False) / "given"


def keep(given: Given) -> None:
    """Note it, in place of what was known of this peer in this run before."""
    name = f"{given.run[:16]}-{given.key[:16]}.json"
    write_atomically(_place() / name, msgspec.json.encode(given))


def known() -> list[Given]:
    """Of all runs, the newest first; files that cannot be read are passed over."""
    found = []
    for path in _place().glob("*.json"):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            found.append(msgspec.json.decode(path.read_bytes(), type=Given))
    return sorted(found, key=lambda x: -x.time)
