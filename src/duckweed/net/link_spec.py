"""What a peer's link can carry, for simulated runs."""

import msgspec

from duckweed.run import units


class LinkSpec(msgspec.Struct, frozen=True):
    """A peer's link."""

    up: float = float("inf")
    """bit/s."""
    down: float = float("inf")
    """bit/s."""
    latency: float = 0.0
    """Seconds one way."""


def parse_links(text: str, peers: int) -> list[LinkSpec]:
    """'UP/DOWN Mbit/s LATENCY ms' for all peers, or one for each separated by commas, such as
    "10/50 80ms" or "10/50 80ms, 5/20 120ms". The latency is that of a round trip.

    Raises ValueError saying what was expected.
    """
    links = []
    for part in text.split(","):
        speeds, delay = units.with_delay(part)
        try:
            (_, up), (_, down) = units.speeds(speeds, "Mbit/s")
            round_trip = units.duration(delay, "latency").value if delay else 0.0
        except ValueError as error:
            raise ValueError(
                f"links: {part.strip()!r} is not of the form UP/DOWN LATENCYms, such as '10/50 80ms' "
                "(megabit per second up and down, round trip in milliseconds)"
            ) from error
        links.append(LinkSpec(up.value, down.value, round_trip / 2))
    if len(links) not in (1, peers):
        raise ValueError(f"links: {len(links)} given for {peers} peers; give one, or one for each")
    return links * peers if len(links) == 1 else links
