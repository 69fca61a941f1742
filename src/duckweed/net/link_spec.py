"""What a peer's link can carry, for simulated runs."""

import re

import msgspec

NUMBER = r"\d+(?:\.\d+)?"


class LinkSpec(msgspec.Struct, frozen=True):
    """A peer's link: bits per second up and down, seconds of latency one way."""

    up: float = float("inf")
    down: float = float("inf")
    latency: float = 0.0


def parse_links(text: str, peers: int) -> list[LinkSpec]:
    """'UP/DOWN Mbit/s LATENCY ms' for all peers, or one for each separated by commas, such as
    "10/50 80ms" or "10/50 80ms, 5/20 120ms". The latency is that of a round trip.

    Raises ValueError saying what was expected.
    """
    links = []
    for part in text.split(","):
        found = re.fullmatch(
            rf"\s*({NUMBER})\s*/\s*({NUMBER})\s*(?:mbit/s|mbps)?\s*(?:({NUMBER})\s*ms)?\s*",
            part.lower(),
        )
        if not found or not float(found[1]) or not float(found[2]):
            raise ValueError(
                f"links: {part.strip()!r} is not of the form UP/DOWN LATENCYms, such as '10/50 80ms' "
                "(megabit per second up and down, round trip in milliseconds)"
            )
        links.append(
            LinkSpec(float(found[1]) * 1e6, float(found[2]) * 1e6, float(found[3] or 0) / 2000)
        )
    if len(links) not in (1, peers):
        raise ValueError(f"links: {len(links)} given for {peers} peers; give one, or one for each")
    return links * peers if len(links) == 1 else links
