"""What a campaign and a machine that runs trials for it say to each other.

A question is one message, its body at most one parcel: files as a msgpack map of names and bytes.
What a campaign sends is what its own trials may see (plain recipe and training text); what comes
back are a trial's files. Names are taken from fixed lists, sizes are checked before anything
is read.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
from blake3 import blake3

from duckweed.evolve.campaign.folder import Campaign
from duckweed.evolve.decide.trial_spec import Cell
from duckweed.run.folder import write_atomically
from duckweed.swarm.protocol.message import Answer, Question

PROTOCOL = 2
RUN = blake3(b"duckweed trials 1").hexdigest()
"""Stands in an invitation where that of a training run has the run's identity."""
HEAD_LIMIT = 1 << 16
TEXT_LIMIT = 1 << 30  # bytes of a campaign's files
EXPORTED = ("declared.json", "config.json", "model.safetensors", "exchange.msgpack")
_PART = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}"
_GIVEN = re.compile(rf"plain\.toml|model\.json|training/{_PART}(/{_PART})?")


class ParcelError(ValueError):
    """A message or parcel that cannot be what it says; nothing of it was kept."""


class Holds(Answer, tag="holds"):
    """Whether the campaign's files are here."""

    holds: bool


class Trained(Answer, tag="trained"):
    """The cell was trained; the evaluator counts for itself."""


class Have(Question[Holds], tag="have"):
    """Do you hold the campaign's files already?"""

    protocol: int
    secret: str
    campaign: str


class Take(Question[Holds], tag="take"):
    """The body is the parcel of the campaign's files."""

    secret: str
    campaign: str


class Train(Question[Trained], tag="train"):
    """Train the cell. The body of the answer is the parcel of the export."""

    secret: str
    campaign: str
    cell: Cell


_questions = msgspec.msgpack.Decoder(Have | Take | Train)
_parcels = msgspec.msgpack.Decoder(dict[str, bytes])


def question(head: bytes) -> Have | Take | Train:
    """Raises msgspec.DecodeError or ValidationError."""
    return _questions.decode(head)


def campaign(folder: Campaign) -> bytes:
    """The parcel of what trials see: plain recipe, model file if there is one, training text."""
    paths = [folder.spec, folder.path / "model.json", *sorted(folder.training.rglob("*"))]
    return _packed(folder.path, (p for p in paths if p.is_file()))


def identity(parcel: bytes) -> str:
    """What a campaign's parcel is called by: blake3, 32 hex digits."""
    return blake3(parcel).hexdigest(16)


def unpack_campaign(parcel: bytes, into: Path) -> None:
    """Writes a campaign's files. Raises ParcelError before anything is written."""
    files = _unpacked(parcel)
    for name in files:
        if not _GIVEN.fullmatch(name):
            raise ParcelError(f"a campaign sends no file {name[:100]!r}")
    if "plain.toml" not in files:
        raise ParcelError("the campaign's files lack plain.toml")
    _write(files, into)


def export(out: Path) -> bytes:
    """The parcel of what a trial wrote; a run that diverged has no weights."""
    return _packed(out, (out / name for name in EXPORTED if (out / name).is_file()))


def unpack_export(parcel: bytes, out: Path) -> None:
    """Writes a trial's files. Raises ParcelError before anything is written."""
    files = _unpacked(parcel)
    if unknown := set(files) - set(EXPORTED):
        raise ParcelError(f"a trial exports no file {min(unknown)[:100]!r}")
    _write(files, out)


def _packed(root: Path, paths: Iterable[Path]) -> bytes:
    return msgspec.msgpack.encode({p.relative_to(root).as_posix(): p.read_bytes() for p in paths})


def _unpacked(parcel: bytes) -> dict[str, bytes]:
    try:
        return _parcels.decode(parcel)
    except msgspec.DecodeError as error:
        raise ParcelError(f"not a parcel of files: {error}") from error


def _write(files: dict[str, bytes], into: Path) -> None:
    for name, data in files.items():
        write_atomically(into / name, data)
