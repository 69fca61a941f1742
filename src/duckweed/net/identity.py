"""Who a peer is: an Ed25519 key, which is also its network address."""

import os
import re
import tempfile
from pathlib import Path

from iroh import EndpointId, IrohError, SecretKey, Signature
from platformdirs import user_data_path

from duckweed.run.sections import NAME


class IdentityError(ValueError):
    """A key file that cannot be used."""


class Identity:
    """A secret key; `id` is its public half, 64 hex digits."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self._key = SecretKey.from_bytes(secret)
        self.id = str(self._key.public())

    def sign(self, message: bytes) -> bytes:
        """64 bytes of Ed25519 signature."""
        return self._key.sign(message).to_bytes()


def load_or_create(path: Path) -> Identity:
    """The key in a file, or a new one written there for the owner's eyes only.

    An empty file, as a full disk may have left it, holds no key and is replaced. Raises IdentityError if
    the file holds something else.
    """
    if path.exists() and path.stat().st_size:
        secret = path.read_bytes()
        if len(secret) != 32:
            raise IdentityError(f"{path}: not a key (32 bytes); move it away to get a new identity")
        return Identity(secret)
    secret = os.urandom(32)
    _write(path, secret)
    return Identity(secret)


def named(name: str) -> Path:
    """The file of a key of this machine that has a name. Raises IdentityError."""
    if not re.fullmatch(NAME, name):
        raise IdentityError(
            f"{name[:60]!r} is not a name: letters, digits, '.', '_' and '-', at most 32"
        )
    return user_data_path("duckweed", appauthor=False) / "identities" / f"{name}.key"


def adopt(place: Path, name: str) -> None:
    """From now on the key of this name is used at `place`. Raises IdentityError if there is no such
    key, or another at that place already."""
    source = named(name)
    if not source.is_file():
        raise IdentityError(
            f"this machine has no identity {name!r}; make it: duckweed identity {name}"
        )
    if place.exists() and load_or_create(place).id != load_or_create(source).id:
        raise IdentityError(
            f"{place} holds another key, that of the peer which lives there; use a new --home"
        )
    lend(source, place)


def lend(source: Path, place: Path) -> None:
    """From now on a key of this machine is used at `place`, too, unless there is one."""
    if not place.exists():
        _write(place, load_or_create(source).secret)


def _write(path: Path, secret: bytes) -> None:
    """Whole or not at all, readable by the owner alone, and never over a key that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        if path.exists() and not path.stat().st_size:
            path.unlink()
        try:
            os.link(part, path)
        except FileExistsError:  # another process was faster
            raise
        except OSError:  # a file system without links
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def verify(identity: str, message: bytes, signature: bytes) -> bool:
    """Whether the holder of `identity` signed the message."""
    try:
        EndpointId.from_string(identity).verify(message, Signature.from_bytes(signature))
    except IrohError:
        return False
    return True
