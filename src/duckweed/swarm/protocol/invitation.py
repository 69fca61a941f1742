"""An invitation: one line that says which run, whose it is, where it is, and the secret to get in."""

import base64

import msgspec

from duckweed.run.checked import Hash
from duckweed.run.folder import RunFolder, write_atomically

PREFIX = "duckweed1:"


class InvitationError(ValueError):
    """The text is not an invitation."""


class Invitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """run: identity of the specification; coordinator: its public key; both 64 hex digits.
    addresses: ip:port pairs at which it listens, and URLs of the run's relays."""

    run: Hash
    coordinator: Hash
    addresses: tuple[str, ...]
    secret: str

    def __str__(self) -> str:
        data = msgspec.msgpack.encode(self)
        return PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")

    def with_secret(self, secret: str) -> "Invitation":
        """The same run at the same place, by another door."""
        return msgspec.structs.replace(self, secret=secret)


def unanswered(invitation: Invitation) -> str:
    """What to say where nobody answers at its addresses."""
    return (
        f"nobody answers at {', '.join(invitation.addresses)}. The run is over, its coordinator is not running "
        "at the moment, or something between here and there lets nothing through; which of these, tells: "
        "duckweed doctor INVITATION"
    )


def publish(folder: RunFolder, invitation: Invitation) -> None:
    """Write down where the run is served, without any secret, for commands on this machine."""
    write_atomically(folder.serving, msgspec.json.encode(invitation.with_secret("")))


def published(folder: RunFolder) -> Invitation:
    """Where the run is served, or was the last time. Raises InvitationError."""
    try:
        return msgspec.json.decode(folder.serving.read_bytes(), type=Invitation)
    except FileNotFoundError:
        raise InvitationError(
            f"{folder.path} was never served, so that an invitation would lead nowhere; "
            f"begin with: duckweed serve {folder.path}"
        ) from None
    except msgspec.DecodeError as error:
        raise InvitationError(f"{folder.serving} is damaged; serve the run again") from error


def read(text: str) -> Invitation:
    """The invitation in a line of text. Raises InvitationError."""
    text = "".join(text.split())
    if not text.startswith(PREFIX):
        raise InvitationError(f"not an invitation: it must begin with {PREFIX!r}")
    body = text[len(PREFIX) :]
    try:
        data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        return msgspec.msgpack.decode(data, type=Invitation)
    except msgspec.ValidationError as error:
        raise InvitationError(
            f"the invitation is damaged, or none that duckweed makes ({error}); ask the organiser for it again"
        ) from error
    except (ValueError, msgspec.DecodeError) as error:  # binascii.Error is a ValueError
        raise InvitationError(
            "the invitation is damaged; copy the whole line, from duckweed1: to its end"
        ) from error
