"""A registry as it is given to others: versioned, hashed, signed, with its plants under a seal.

Switches and known changes stand there openly. Of the planted changes it has commitments only, one
salted hash each, in an order that gives nothing away; opened at the end of a campaign, they show
that null and harmful were labelled so before anything was run.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
from blake3 import blake3

from duckweed.evolve.space.registry import KnownChange, Registry, RegistryError, Switch
from duckweed.net.identity import Identity, verify

SIZE_LIMIT = 1 << 18  # bytes of a signed release
Label = Literal["null", "harmful"]


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A registry without its plants."""

    version: int  # of the registry
    identity: str  # hash of the registry, plants included
    switches: tuple[Switch, ...]
    known: tuple[KnownChange, ...]
    commitments: tuple[str, ...]  # to the plants: sorted, 64 hex digits each


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release that somebody signed with Ed25519."""

    release: msgspec.Raw  # as canonical JSON
    key: str  # who signed it, 64 hex digits
    signature: str  # 128 hex digits


class RevealedPlant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plant in the open: what a commitment was made to."""

    plant: KnownChange
    label: Label
    salt: str

    @property
    def commitment(self) -> str:
        fields = [self.salt, self.label, self.plant]
        return blake3(msgspec.json.encode(fields, order="deterministic")).hexdigest()


def reveal_plants(registry: Registry, key: bytes) -> tuple[RevealedPlant, ...]:
    """All plants with labels and salts; key: the campaign's secret, 32 bytes."""
    plants: list[tuple[Label, KnownChange]] = [("null", p) for p in registry.nulls]
    plants += [("harmful", p) for p in registry.harms]
    return tuple(
        RevealedPlant(plant, label, blake3(f"plant {place}".encode(), key=key).hexdigest(16))
        for place, (label, plant) in enumerate(plants)
    )


def release(registry: Registry, key: bytes) -> Release:
    """The registry without its plants."""
    commitments = sorted(plant.commitment for plant in reveal_plants(registry, key))
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


def check_revealed(commitments: Sequence[str], plants: Sequence[RevealedPlant]) -> None:
    """Raises RegistryError unless these are all the plants that were committed to."""
    if sorted(plant.commitment for plant in plants) != list(commitments):
        raise RegistryError("registry: the plants opened are not those it was committed to")


def _message(body: bytes) -> bytes:
    # a domain of its own: the same key signs ledgers
    return b"duckweed registry\n" + body
