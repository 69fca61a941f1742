"""A registry as it is given to others: versioned, hashed, signed, with its plants under a seal.

Switches and known changes stand there openly. Of the planted changes it has commitments only, one
salted hash each, in an order that gives nothing away; opened at the end of a campaign, they show
that null and harmful were labelled so before anything was run.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
from blake3 import blake3

from duckweed.evolve.space.registry import Known, Registry, RegistryError, Switch
from duckweed.net.identity import Identity, verify

SIZE_LIMIT = 1 << 18  # bytes of a signed release
Label = Literal["null", "harmful"]


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """version, switches, known: of the registry; identity: its hash, plants included;
    commitments: sorted, 64 hex digits each."""

    version: int
    identity: str
    switches: tuple[Switch, ...]
    known: tuple[Known, ...]
    commitments: tuple[str, ...]


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release as canonical JSON, who signed it (64 hex digits), the signature (128)."""

    release: msgspec.Raw
    key: str
    signature: str


class Opened(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One plant in the open: what it is, its label, and the salt of its commitment."""

    plant: Known
    label: Label
    salt: str

    @property
    def commitment(self) -> str:
        fields = [self.salt, self.label, self.plant]
        return blake3(msgspec.json.encode(fields, order="deterministic")).hexdigest()


def opened(registry: Registry, secret: bytes) -> tuple[Opened, ...]:
    """All plants with labels and salts; secret: the campaign's, 32 bytes."""
    plants: list[tuple[Label, Known]] = [("null", p) for p in registry.nulls]
    plants += [("harmful", p) for p in registry.harms]
    return tuple(
        Opened(plant, label, blake3(f"plant {place}".encode(), key=secret).hexdigest(16))
        for place, (label, plant) in enumerate(plants)
    )


def release(registry: Registry, secret: bytes) -> Release:
    """The registry without its plants."""
    commitments = sorted(plant.commitment for plant in opened(registry, secret))
    return Release(
        registry.version,
        registry.identity,
        registry.switches,
        registry.known,
        tuple(commitments),
    )


def sign(release: Release, identity: Identity) -> bytes:
    """The release as JSON with an Ed25519 signature over its canonical form."""
    body = msgspec.json.encode(release, order="deterministic")
    signature = identity.sign(_message(body)).hex()
    return msgspec.json.encode(Signed(msgspec.Raw(body), identity.id, signature))


def read(data: bytes, key: str) -> Release:
    """The release in signed JSON. Raises RegistryError unless `key` signed exactly this."""
    if len(data) > SIZE_LIMIT:
        raise RegistryError(f"registry: {len(data):,} bytes, at most {SIZE_LIMIT:,}")
    try:
        signed = msgspec.json.decode(data, type=Signed)
        signature = bytes.fromhex(signed.signature)
    except ValueError as error:  # msgspec's are of this kind
        raise RegistryError(f"registry: not a signed registry: {error}") from error
    if signed.key != key:
        raise RegistryError(
            f"registry: signed by {signed.key[:12]!r}, not by {key[:12]}; ask who runs the campaign"
        )
    if len(signature) != 64 or not verify(key, _message(bytes(signed.release)), signature):
        raise RegistryError("registry: the signature does not fit; it was altered on the way")
    try:
        return msgspec.json.decode(signed.release, type=Release)
    except msgspec.MsgspecError as error:
        raise RegistryError(f"registry: made by another version of duckweed: {error}") from error


def check_opened(commitments: Sequence[str], plants: Sequence[Opened]) -> None:
    """Raises RegistryError unless these are the plants that were committed to, all of them."""
    if sorted(plant.commitment for plant in plants) != list(commitments):
        raise RegistryError("registry: the plants opened are not those it was committed to")


def _message(body: bytes) -> bytes:
    # a domain of its own: the same key signs ledgers
    return b"duckweed registry\n" + body
