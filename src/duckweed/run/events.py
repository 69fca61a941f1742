"""What happens in a run, as its processes tell each other and as metrics.jsonl keeps it.

Each event is one struct, written as a JSON object on a line of its own; the key `event` names its kind.
A process writes events to its standard output for the process that started it. metrics.jsonl keeps
what a coordinator tells from "round" to "end".
"""

import json
from collections.abc import Callable
from typing import get_args

import msgspec
from msgspec import UNSET, UnsetType

from duckweed.run.task.written import Written


class RoundClosed(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="round"):
    """A round was closed. All but the number and the time may be missing in the files of old runs."""

    round: int
    """Number of the round, from 0."""
    time: float = 0.0
    """When it closed: seconds since 1970."""
    seconds: float
    """How long it was open; of a simulated run, on the virtual clock."""
    tokens: int = 0
    """Tokens of the contributions that counted."""
    loss: float = 0.0
    """Median of the training losses of the contributions that counted, nats per token."""
    held_out: float | None = None
    """Loss of the state before the round on held-out text, nats per token; None: not measured."""
    accepted: list[int] = []
    """Indices of the peers whose contributions counted."""
    rejected: dict[int, str] = {}
    """Peer -> why its work did not count."""
    contribution_bytes: list[int] = []
    """Size of each contribution that counted."""
    update_bytes: int = 0
    """Size of the merged update; 0 where peers fetch the contributions themselves."""
    timings: dict[int, dict[str, float]] = {}
    """Peer -> phase -> seconds (`duckweed.round.run_log.PHASES`, and "wall")."""
    utilisation: dict[int, float] = {}
    """Peer -> share of its time in which it computed with the model."""
    traffic: dict[str, list[int]] = {}
    """Purpose -> bytes that the coordinator has received and sent since it was started."""
    epoch: int = 0
    """How often the data was used up before the round's last block."""
    written: Written | UnsetType = UNSET
    """What the models of the peers wrote, in reinforcement learning; of those that counted."""
    writers: dict[int, int] | UnsetType = UNSET
    """Peer that only writes -> tokens of its answers, from which the next round learns; unset: there are none."""
    virtual_clock: float | UnsetType = UNSET
    """Virtual seconds since the run began; only in a simulated run."""


class FinalLoss(msgspec.Struct, frozen=True, tag_field="event", tag="final"):
    """The model after the last round was measured on held-out text."""

    held_out: float
    """Loss, nats per token."""
    round: int | UnsetType = UNSET
    """How many rounds had been closed; old runs do not say."""
    tokens: int = 0
    """Tokens that it was measured on."""


class Sampled(msgspec.Struct, frozen=True, tag_field="event", tag="sample"):
    """What the model writes by itself, from nothing, after some rounds."""

    round: int
    """How many rounds had been closed."""
    text: str
    """The text, as the tokenizer decodes it."""


class RunEnded(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="end"):
    """A coordinator has ended: what passed through it since it was started."""

    relayed: int = 0
    """Bytes that passed through the relay beside it."""
    traffic: dict[str, list[int]] = {}
    """Purpose -> bytes received and sent."""
    refused: dict[str, int] = {}
    """Reason -> how many questions were refused."""


class PeerLeft(msgspec.Struct, frozen=True, tag_field="event", tag="left"):
    """A peer has left the run, or was not heard for too long."""

    peer: int
    """Its index in the run."""
    reason: str
    """Why, in words."""


class ContributionRefused(msgspec.Struct, frozen=True, tag_field="event", tag="refused"):
    """A contribution was not taken."""

    peer: int
    """Index of the peer that handed it in."""
    reason: str
    """Why, in words."""


class StateDiffers(msgspec.Struct, frozen=True, tag_field="event", tag="differs"):
    """A peer holds another state than the others, and was sent away."""

    peer: int
    """Its index in the run."""
    round: int
    """The round that the state is from."""


class Said(msgspec.Struct, frozen=True, tag_field="event", tag="said"):
    """A line of text for the person who watches."""

    text: str
    """The line."""
    slot: int | UnsetType = UNSET
    """Number of the peer's process on this machine; not set if the coordinator says it."""


class PeerProgress(msgspec.Struct, frozen=True):
    """What a peer is doing."""

    peer: int
    """Its index in the run."""
    doing: str
    """"training", "sending", "waiting", ..."""
    step: int
    """Inner steps that it has done of this round."""
    loss: float | None
    """Training loss of the last step, nats per token; None where it is not a finite number."""


class Progress(msgspec.Struct, frozen=True, tag_field="event", tag="peers"):
    """What the peers are doing at this moment."""

    round: int
    """The round that is open."""
    peers: list[PeerProgress]
    """One for each peer; of a simulated run, the one that is at work."""
    traffic: dict[str, list[int]] | UnsetType = UNSET
    """Purpose -> bytes received and sent so far; not set in a simulated run."""
    waiting: str = ""
    """What the run waits for, in words."""


class Serving(msgspec.Struct, frozen=True, tag_field="event", tag="serving"):
    """A coordinator can be reached from now on."""

    id: str
    """Its public key, hex."""
    bound: list[str]
    """Addresses that it listens on, ip:port."""
    addresses: list[str]
    """Addresses that others may reach it at, ip:port."""
    relay: int | None
    """TCP port of the relay beside it; None: there is no relay."""


class Following(msgspec.Struct, frozen=True, tag_field="event", tag="following"):
    """Another machine leads the run; the process keeps a copy of the ledger."""


class PeerEnded(msgspec.Struct, frozen=True, tag_field="event", tag="ended"):
    """The process of a peer has ended as it should."""

    slot: int
    """Number of the process on this machine."""
    reason: str
    """Why, in words."""


class ProcessFailed(msgspec.Struct, frozen=True, tag_field="event", tag="failed"):
    """A process has ended by an error."""

    role: str
    """"coordinator" or "peer"."""
    slot: int
    """Number of a peer's process on this machine; 0 for the coordinator."""
    reason: str
    """Why, in words for the person who watches."""


Event = (
    RoundClosed | FinalLoss | RunEnded | PeerLeft | ContributionRefused | StateDiffers | Said
    | Progress | Serving | Following | PeerEnded | ProcessFailed | Sampled
)  # fmt: skip

Tell = Callable[[Event], None]
"""Takes events as they happen."""


class _Kind(msgspec.Struct):
    event: str = ""


KINDS: dict[str, type[Event]] = {str(kind.__struct_config__.tag): kind for kind in get_args(Event)}
_event, _kind = msgspec.json.Decoder(Event), msgspec.json.Decoder(_Kind)


def encode(event: Event) -> bytes:
    """The event as a line of JSON. Raises ValueError if a number in it is not finite."""
    facts = msgspec.to_builtins(event, str_keys=True)
    return json.dumps(facts, allow_nan=False).encode() + b"\n"


def kind_of(line: bytes) -> type[Event] | None:
    """Which kind of event a line holds; None: one that this version does not know, or no event."""
    try:
        return KINDS.get(_kind.decode(line).event)
    except msgspec.DecodeError:
        return None


def decode(line: bytes) -> Event | None:
    """The event that a line holds; None where `kind_of` is. Keys that this version does not know are
    passed over. Raises msgspec.ValidationError where an event lacks something or has a wrong value."""
    return _event.decode(line) if kind_of(line) else None
