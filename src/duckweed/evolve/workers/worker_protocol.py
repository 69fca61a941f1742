"""The messages between a campaign and a machine that runs trials for it.

A question is one message, its body at most one archive: files as a msgpack map of names and bytes.
A campaign sends what its own trials may see (plain recipe and training text) and gets back a trial's
files. Names must be on fixed lists, and sizes are checked before anything is read.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
from blake3 import blake3

from duckweed.evolve.folder import CampaignFolder
from duckweed.evolve.trial_spec import TrialSpec
from duckweed.run.folder import write_atomically
from duckweed.swarm.protocol.message import Answer, Question

PROTOCOL = 2
RUN = blake3(b"duckweed trials 1").hexdigest()
"""In the place of a run's identity in invitations to run trials."""
HEAD_LIMIT = 1 << 16  # bytes of a message
TEXT_LIMIT = 1 << 30  # bytes of a campaign's files
EXPORTED = ("declared.json", "config.json", "model.safetensors", "exchange.msgpack")
"""Files of a trial."""
_PART = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}"
_GIVEN = re.compile(rf"plain\.toml|model\.json|training/{_PART}(/{_PART})?")


class WorkerProtocolError(ValueError):
    """A message or archive that is not valid; nothing of it was kept."""


class Holds(Answer, tag="holds"):
    """Whether the campaign's files are here."""

    holds: bool


class Trained(Answer, tag="trained"):
    """The trial was trained."""


class Have(Question[Holds], tag="have"):
    """Do you have the campaign's files already?"""

    protocol: int
    secret: str  # of the invitation
    campaign: str  # hash of its archive


class Take(Question[Holds], tag="take"):
    """The body is the archive of the campaign's files."""

    secret: str
    campaign: str


class Train(Question[Trained], tag="train"):
    """Run the trial. The body of the answer is the archive of the export."""

    secret: str
    campaign: str
    trial: TrialSpec = msgspec.field(name="cell")


Asked = Have | Take | Train
_questions = msgspec.msgpack.Decoder(Asked)
_archives = msgspec.msgpack.Decoder(dict[str, bytes])


def question(head: bytes) -> Asked:
    """Raises msgspec.DecodeError or ValidationError."""
    return _questions.decode(head)


def pack_campaign(folder: CampaignFolder) -> bytes:
    """The archive of what trials see: plain recipe, model file if there is one, training text."""
    paths = [folder.spec, folder.model, *sorted(folder.training.rglob("*"))]
    return _packed(folder.path, (p for p in paths if p.is_file()))


def archive_hash(archive: bytes) -> str:
    """The name of a campaign's archive: blake3, 32 hex digits."""
    return blake3(archive).hexdigest(16)


def unpack_campaign(archive: bytes, into: Path) -> None:
    """Writes a campaign's files. Raises WorkerProtocolError before anything is written."""
    files = _unpacked(archive)
    for name in files:
        if not _GIVEN.fullmatch(name):
            raise WorkerProtocolError(f"a campaign sends no file {name[:100]!r}")
    if "plain.toml" not in files:
        raise WorkerProtocolError("the campaign's files lack plain.toml")
    _write(files, into)


def pack_export(out: Path) -> bytes:
    """The archive of what a trial wrote; a run that diverged has no weights."""
    return _packed(out, (out / name for name in EXPORTED if (out / name).is_file()))


def unpack_export(archive: bytes, out: Path) -> None:
    """Writes a trial's files. Raises WorkerProtocolError before anything is written."""
    files = _unpacked(archive)
    if unknown := set(files) - set(EXPORTED):
        raise WorkerProtocolError(f"a trial exports no file {min(unknown)[:100]!r}")
    _write(files, out)


def _packed(root: Path, paths: Iterable[Path]) -> bytes:
    return msgspec.msgpack.encode({p.relative_to(root).as_posix(): p.read_bytes() for p in paths})


def _unpacked(archive: bytes) -> dict[str, bytes]:
    try:
        return _archives.decode(archive)
    except msgspec.DecodeError as error:
        raise WorkerProtocolError(f"not an archive of files: {error}") from error


def _write(files: dict[str, bytes], into: Path) -> None:
    for name, data in files.items():
        write_atomically(into / name, data)
