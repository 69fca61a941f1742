"""Who is there: groups of like machines, from TOML or from one line such as
`5000x rtx4090 @ 20/100 Mbps 80ms, 60% online, 6h`."""

import math
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from duckweed.plan import device
from duckweed.plan.device import Device
from duckweed.plan.errors import PlanError
from duckweed.run import units

SYSTEM = 4e9
"""Bytes the operating system and its programs keep (inferred)."""
RESERVE, SHARE = 3e9, 0.04
"""What a device cannot give to the model: driver, workspace, desktop (bytes), and fragmentation
(share). Inferred; 24 GB leave 20.0 GB."""
APPLE_SHARE = 0.75
"""Share of unified memory the GPU may use by default on macOS."""


@dataclass(frozen=True)
class Group:
    """Machines that are alike."""

    count: int
    device: Device
    cards: int = 1
    """Devices in each machine, joined fast."""
    host: float = 32e9
    """Bytes of main memory."""
    up: float = 20e6
    """bit/s of the link of one *site*; a lone machine is a site of one."""
    down: float = 100e6
    """bit/s of the same link."""
    latency: float = 0.05
    """Seconds one way."""
    site: int = 1
    """Machines that share that link and a local network."""
    lan: float = 1e9
    """bit/s of each machine in the local network."""
    online: float = 1.0
    """Share of time."""
    stay: float = 604800.0
    """Seconds from joining to leaving."""
    waste: float = 0.0
    """Share of the work that is lost to errors or malice."""
    name: str = ""

    def __post_init__(self) -> None:
        where = f"group {self.name or self.device.name}"
        for label in ("count", "cards", "up", "down", "site", "lan", "stay", "host"):
            if not getattr(self, label) > 0:
                raise PlanError(
                    f"{where}: {label} is {getattr(self, label)}; it must be above zero."
                )
        if self.latency < 0:
            raise PlanError(f"{where}: a latency of {self.latency} s is not possible.")
        if not 0 < self.online <= 1:
            raise PlanError(
                f"{where}: {self.online:.0%} online; it must be above 0 and at most 100 %."
            )
        if not 0 <= self.waste < 1:
            raise PlanError(f"{where}: {self.waste:.0%} wasted work; it must be below 100 %.")
        if self.host <= SYSTEM:
            raise PlanError(
                f"{where}: {units.show_size(self.host)} of main memory is not more than the "
                f"{units.show_size(SYSTEM)} an operating system keeps. Give the real number."
            )
        if self.usable <= 0:
            raise PlanError(
                f"{where}: {units.show_size(self.device.memory)} of device memory is less than the "
                f"{units.show_size(RESERVE)} that driver and workspace take."
            )

    @property
    def usable(self) -> float:
        """Bytes for the model on the devices of one machine."""
        if self.device.kind == "cpu":
            return self.host * 0.9 - SYSTEM
        if self.device.kind == "apple":
            return self.device.memory * self.cards * APPLE_SHARE
        return (self.device.memory * (1 - SHARE) - RESERVE) * self.cards

    @property
    def spare(self) -> float:
        """Bytes of main memory beside the devices (0 where it is the same memory)."""
        return 0.0 if self.device.unified else max(0.0, self.host * 0.9 - SYSTEM)

    def rate(self, precision: str) -> float:
        return self.device.rate(precision) * self.cards


@dataclass(frozen=True)
class Crowd:
    """Groups, and the bit/s that a store or hub moves in all (unlimited: an object store)."""

    groups: tuple[Group, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)
    hub: float = math.inf

    @property
    def machines(self) -> int:
        return sum(group.count for group in self.groups)

    def scaled(self, **factors: float) -> "Crowd":
        """The crowd with `machines`, `link`, `memory`, `site`, `speed` multiplied or `latency` divided."""

        def change(group: Group) -> Group:
            card = replace(
                group.device,
                memory=group.device.memory * factors.get("memory", 1.0),
                bf16=group.device.bf16 * factors.get("speed", 1.0),
                fp8=group.device.fp8 * factors.get("speed", 1.0),
            )
            link = factors.get("link", 1.0)
            return replace(
                group,
                device=card,
                host=group.host * factors.get("memory", 1.0),
                count=max(1, round(group.count * factors.get("machines", 1.0))),
                up=group.up * link,
                down=group.down * link,
                latency=group.latency / factors.get("latency", 1.0),
                site=max(1, round(group.site * factors.get("site", 1.0))),
            )

        return Crowd(tuple(change(group) for group in self.groups), self.notes, self.hub)


def links(text: str, notes: list[str]) -> tuple[float, float]:
    """up, down in bit/s. Of two speeds without `up` or `down` the smaller one is up; see notes."""
    read = units.speeds(text)
    notes += [reading.said for _, reading in read if reading.said]
    said, values = [way for way, _ in read], [reading.value for _, reading in read]
    if len(read) == 1:
        return values[0], values[0]
    if said[0] == "down" or said[1] == "up":
        return values[1], values[0]
    if any(said):
        return values[0], values[1]
    up, down = min(values), max(values)
    notes.append(
        f"link {text.strip()}: read as {units.show_rate(up)} up, {units.show_rate(down)} down"
    )
    return up, down


def parse_line(text: str, notes: list[str]) -> Group:
    """One group from `COUNTx [CARDSx] DEVICE @ LINK LATENCY, 60% online, 6h, ...`."""
    head, at, tail = text.partition("@")
    match = re.fullmatch(r"\s*([\d_.,]+[kKmM]?)\s*[x×*]\s*(?:(\d+)\s*[x×*]\s*)?(.+?)\s*", head)
    if not match or not at:
        raise PlanError(
            f"Crowd {text!r} is not understood. Write it like "
            "'5000x rtx4090 @ 20/100 Mbps 80ms, 60% online, 6h', or give a TOML file."
        )
    count = units.count(match[1], "machines").value
    if count != int(count):
        raise PlanError(f"Crowd {text!r}: {count:g} is not a whole number of machines.")
    first, *rest = [part.strip() for part in re.split(r",\s*", tail) if part.strip()] or [""]
    values: dict[str, Any] = {}
    link, delay = units.with_delay(first)
    if delay:
        values["latency"] = units.duration(delay, "latency").value / 2
        notes.append(f"latency {delay}: read as a round trip, as a ping shows it")
    values["up"], values["down"] = links(link, notes)
    for part in rest:
        values.update(option(part))
    card, cards = device.find(match[3]), int(match[2] or 1)
    return Group(int(count), card, cards, **{"host": usual_host(card, cards), **values})


def usual_host(card: Device, cards: int) -> float:
    """Main memory where none is given (inferred): 32 GB, 128 GB a card in a data centre; chips that
    share their memory have no other."""
    if card.unified and card.memory:
        return card.memory * cards
    return 128e9 * cards if card.kind == "data-centre" else 32e9


def option(part: str) -> dict[str, Any]:
    """What one more part of a crowd's line says."""
    patterns = (
        (r"([\d.]+\s*%)\s*online", lambda m: {"online": units.fraction(m[1]).value}),
        (
            r"([\d.]+\s*%)\s*(?:malicious|wasted|bad)",
            lambda m: {"waste": units.fraction(m[1]).value},
        ),
        (
            r"(?:stay(?:ing)?\s+)?([\d.]+\s*(?:min|minutes?|h|hours?|d|days?|weeks?|months?))",
            lambda m: {"stay": units.duration(m[1], "stay").value},
        ),
        (r"(\d+)\s*(?:per|a|/)\s*site", lambda m: {"site": int(m[1])}),
        (r"lan\s+(.+)", lambda m: {"lan": units.rate(m[1], "local network").value}),
        (r"(.+?)\s*(?:ram|host)", lambda m: {"host": units.size(m[1], "main memory").value}),
    )
    for pattern, read in patterns:
        match = re.fullmatch(pattern, part, re.IGNORECASE)
        if match:
            return read(match)
    raise PlanError(
        f"Crowd: {part!r} is not understood. Known: '60% online', '6h' (stay), '8 per site', "
        "'lan 10 Gbps', '64 GB RAM', '5% malicious'."
    )


FIELDS = {
    "count", "device", "cards", "memory", "rate", "kind", "host", "up", "down", "link",
    "latency", "site", "lan", "online", "stay", "waste", "name", "price", "watts", "rent",
}  # fmt: skip


def parse_table(row: dict[str, Any], notes: list[str]) -> Group:
    """One `[[group]]` of a crowd's TOML."""
    extra = set(row) - FIELDS
    if extra:
        raise PlanError(
            f"Crowd: unknown field {', '.join(sorted(extra))}. Known: {', '.join(sorted(FIELDS))}."
        )
    if "count" not in row:
        raise PlanError("Crowd: a group needs `count`.")
    if "device" in row:
        card = device.find(str(row["device"]))
    elif "memory" in row and "rate" in row:
        card = device.by_hand(
            units.size(row["memory"]).value,
            units.flops(row["rate"]).value,
            str(row.get("kind", "consumer")),
        )
    else:
        raise PlanError("Crowd: a group needs `device`, or `memory` and `rate` by hand.")
    given: dict[str, Any] = {
        name: float(row[name]) for name in ("price", "watts", "rent") if name in row
    }
    if "device" in row and "memory" in row:
        given["memory"] = units.size(row["memory"]).value
    card = replace(card, **given)
    values: dict[str, Any] = {"name": str(row.get("name", ""))}
    if "link" in row:
        values["up"], values["down"] = links(str(row["link"]), notes)
    for name in ("up", "down", "lan"):
        if name in row:
            read = units.rate(row[name], name)
            values[name] = read.value
            if read.said:
                notes.append(read.said)
    for name, reader in (
        ("latency", units.duration),
        ("stay", units.duration),
        ("online", units.fraction),
        ("waste", units.fraction),
        ("host", units.size),
    ):
        if name in row:
            values[name] = reader(row[name], name).value / (2 if name == "latency" else 1)
    for name in ("cards", "site"):
        if name in row:
            values[name] = int(row[name])
    count = row["count"]
    if not isinstance(count, int):
        raise PlanError(f"Crowd: count = {count!r} is not a whole number.")
    values.setdefault("host", usual_host(card, values.get("cards", 1)))
    return Group(count, card, **values)


def read(text: str) -> Crowd:
    """A crowd from a TOML file's path or from lines (several groups joined by ` + ` or `;`)."""
    notes: list[str] = []
    if text.endswith(".toml"):
        try:
            tree = tomllib.loads(Path(text).read_text("utf-8"))
        except OSError as error:
            raise PlanError(f"Crowd: {text} cannot be read: {error.strerror}.") from error
        except tomllib.TOMLDecodeError as error:
            raise PlanError(f"Crowd: {text} is not TOML: {error}.") from error
        rows = tree.get("group")
        if not isinstance(rows, list) or not rows:
            raise PlanError(f"Crowd: {text} has no [[group]].")
        return Crowd(tuple(parse_table(row, notes) for row in rows), tuple(notes))
    lines = [line for line in re.split(r"\s\+\s|;|\n", text) if line.strip()]
    if not lines:
        raise PlanError("Crowd: nothing given. Write it like '100x rtx4090 @ 20/100 Mbps 40ms'.")
    return Crowd(tuple(parse_line(line, notes) for line in lines), tuple(notes))
