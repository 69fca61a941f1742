"""What a volunteer lets duckweed take of this machine. Lives as `controls.toml` in the peer's folder,
where it can be edited while the peer runs."""

import json
import re
import time
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from duckweed.learn.fit import MicroError, read_micro
from duckweed.run import units
from duckweed.run.folder import write_atomically

FILE = "controls.toml"
HEAD = """# What duckweed may take of this machine. Edit and save: a running peer reads it within seconds.
# up, down: "5mbit"; hours: "22-07" (local time); memory, disk: "4GB"; memory, threads, micro,
# processes, shard, offload, compile, answers_only and nice need a restart of the peer; micro: "auto" or "4", the sequences trained at a time. Take a line out, or write "", for no limit.
"""


class ControlsError(ValueError):
    """A control that cannot be understood; the message says how to write it."""


class Controls(msgspec.Struct, forbid_unknown_fields=True):
    """As the volunteer wrote them; the properties read them."""

    up: str = ""
    """Most that is sent, as a rate: "5mbit"."""
    down: str = ""
    """Most that is received, as a rate."""
    hours: str = ""
    """When it works, local time: "22-07"."""
    pause_when_busy: bool = False
    """Whether it pauses while other programs need the machine."""
    memory: str = ""
    """Most memory of the process, as a size: "4GB"."""
    disk: str = ""
    """Most that the peer's folder may take, as a size."""
    threads: int = 1
    """CPU threads."""
    micro: str = "auto"
    """Sequences of an inner step that are trained at a time; "auto": as many as fit into memory."""
    processes: int = 1
    """That train together as one peer, each on a device of its own."""
    shard: bool = False
    """Whether these share out the model, also where it fits into the memory of each."""
    offload: bool = False
    """Whether weights, gradients and moments are kept in main memory, also where they fit on the device."""
    compile: bool = False
    """Whether its layers are compiled before it trains."""
    answers_only: bool = False
    """Whether it only writes answers for others to learn from, in reinforcement learning."""
    nice: int = 0
    """Priority that is given up: 0 (none) to 19."""
    model: bool = True
    """Whether the model is written at the end of the run."""
    paused: bool = False
    """Whether `duckweed pause` was said last."""

    def __post_init__(self) -> None:
        if self.hours:
            window(self.hours)
        if not 1 <= self.threads <= 1024:
            raise ControlsError(f"threads = {self.threads}: must be between 1 and 1024")
        if not 1 <= self.processes <= 1024:
            raise ControlsError(f"processes = {self.processes}: must be between 1 and 1024")
        if self.offload and self.processes > 1:
            raise ControlsError(
                "offload and processes: several processes share out the model instead (shard, --shard); leave one of "
                "the two out (--no-offload)"
            )
        if self.answers_only and (self.offload or self.processes > 1):
            raise ControlsError(
                "answers_only: a peer that only writes answers is one process, with the model on its device; leave "
                "offload and processes out (--no-offload, --processes 1)"
            )
        if not 0 <= self.nice <= 19:
            raise ControlsError(f"nice = {self.nice}: must be between 0 and 19 (most yielding)")
        _ = self.micro_batch  # raises where it means nothing
        for what, read in (("up", _rate), ("down", _rate), ("memory", _size), ("disk", _size)):
            read(getattr(self, what), what)

    @property
    def up_bytes(self) -> float | None:
        """Bytes a second; None: no limit."""
        return _rate(self.up, "up")

    @property
    def down_bytes(self) -> float | None:
        return _rate(self.down, "down")

    @property
    def memory_bytes(self) -> float | None:
        return _size(self.memory, "memory")

    @property
    def micro_batch(self) -> int | None:
        """Most sequences of a forward and backward pass; None: as many as fit."""
        try:
            return read_micro(self.micro)
        except MicroError as error:
            raise ControlsError(str(error)) from error

    @property
    def disk_bytes(self) -> float | None:
        return _size(self.disk, "disk")

    def said(self) -> list[str]:
        """How the limits were read, in words."""
        words = []
        if self.up_bytes or self.down_bytes:
            each = [
                f"{units.show_rate(8 * rate)} {way}"
                for rate, way in ((self.up_bytes, "up"), (self.down_bytes, "down"))
                if rate
            ]
            words.append("at most " + ", ".join(each))
        if self.memory_bytes:
            words.append(f"{units.show_size(self.memory_bytes)} of memory")
        if self.disk_bytes:
            words.append(f"{units.show_size(self.disk_bytes)} of disk")
        if self.answers_only:
            words.append("only writing answers")
        if self.hours:
            begin, end = window(self.hours)
            words.append(f"from {_clock(begin)} to {_clock(end)}")
        if self.pause_when_busy:
            words.append("only while other programs leave the machine idle")
        return words


def _rate(text: str, what: str) -> float | None:
    return units.rate(text, what).value / 8 if text else None


def _size(text: str, what: str) -> float | None:
    return units.size(text, what).value if text else None


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def window(hours: str) -> tuple[int, int]:
    """Begin and end, in minutes after midnight, of "22-07" or "22:30-7:15". Raises ControlsError."""
    found = re.fullmatch(r"\s*(\d{1,2})(?::(\d\d))?\s*-\s*(\d{1,2})(?::(\d\d))?\s*", hours)
    if found:
        begin = 60 * int(found[1]) + int(found[2] or 0)
        end = 60 * int(found[3]) + int(found[4] or 0)
        minutes = all(int(part or 0) < 60 for part in (found[2], found[4]))
        if minutes and begin <= 1440 and end <= 1440 and begin % 1440 != end % 1440:
            return begin % 1440, end % 1440
    raise ControlsError(
        f"hours: {hours!r} is not a span of the day; write it like 22-07 or 9:30-17"
    )


def within(hours: str, now: time.struct_time) -> bool:
    """Whether a time of day lies in the span; the span may go over midnight."""
    begin, end = window(hours)
    minute = 60 * now.tm_hour + now.tm_min
    return begin <= minute < end if begin < end else minute >= begin or minute < end


def load(home: Path) -> Controls:
    """The controls of the peer in this folder; the defaults if it has none. Raises ControlsError."""
    path = home / FILE
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Controls)
    except FileNotFoundError:
        return Controls()
    except (ValueError, msgspec.ValidationError) as error:
        raise ControlsError(f"{path}: {error}") from error


def save(home: Path, controls: Controls) -> None:
    """Write them as a TOML file that a person can edit."""
    lines = [f"{k} = {json.dumps(v)}" for k, v in msgspec.to_builtins(controls).items()]
    write_atomically(home / FILE, (HEAD + "\n".join(lines) + "\n").encode())


def changed(controls: Controls, given: dict[str, Any]) -> Controls:
    """With the options of a command, where they were given. Raises ControlsError, UnitError."""
    return msgspec.structs.replace(controls, **{k: v for k, v in given.items() if v is not None})
