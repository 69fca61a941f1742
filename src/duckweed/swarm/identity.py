"""Who a peer is: an Ed25519 key, which is also its network address."""

import os
from pathlib import Path

from iroh import EndpointId, IrohError, SecretKey, Signature


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

    Raises IdentityError if the file holds something else.
    """
    if path.exists():
        secret = path.read_bytes()
        if len(secret) != 32:
            raise IdentityError(f"{path}: not a key (32 bytes); move it away to get a new identity")
        return Identity(secret)
    path.parent.mkdir(parents=True, exist_ok=True)
    secret = os.urandom(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
    return Identity(secret)


def verify(identity: str, message: bytes, signature: bytes) -> bool:
    """Whether the holder of `identity` signed the message."""
    try:
        EndpointId.from_string(identity).verify(message, Signature.from_bytes(signature))
    except IrohError:
        return False
    return True
