"""Numbers and text from others: types whose bounds are checked when a message is decoded, so that nothing
behind the door has to check again.

Each kind of number has one type. Bounds refuse NaN and infinity too, since no comparison with NaN is
true. They are so wide that only a fault or a lie is beyond them, and so narrow that sums over all peers
of a run stay finite and below 2^63.
"""

import re
import unicodedata
from typing import Annotated

import msgspec

LOSS = 1e4  # nats per token, at most: a model that guesses wildly has some tens
TEXT = 300  # characters of a text, at most

Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e8)]
"""A span of time: up to three years."""

Nats = Annotated[float, msgspec.Meta(ge=0, le=LOSS)]
"""A loss, nats per token."""

SumOfNats = Annotated[float, msgspec.Meta(ge=0, le=1e16)]
"""A loss, summed over tokens."""

Size = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
"""A root mean square of values that are to be sent."""

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]
"""Bytes, tokens, blocks: the counts of 30,000 peers add up to less than 2^63."""

Total = Annotated[int, msgspec.Meta(ge=0)]
"""The sum of such counts."""

Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
"""The number of a round, a peer, an inner step, a term: whatever is counted one by one."""

NumberOrNone = Annotated[int, msgspec.Meta(ge=-1, le=1 << 31)]
"""The same; -1: none."""

Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""A blake3 hash or a public key: 64 hex digits."""

HashOrNone = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
"""The same; "": none."""

Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
"""An Ed25519 signature."""

Text = Annotated[str, msgspec.Meta(max_length=TEXT, extra={"plain": True})]
"""Words for a person to read. A message whose field is a Text makes it `plain` by itself."""

_FORMATTING = re.compile("[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def plain(text: str, most: int | None = None, keep: str = "") -> str:
    """The text with a space for every control character but those in `keep`, and for every character
    that hides or turns round what stands beside it; cut to `most` characters. Whoever shows what comes
    back shows only what a person can see."""
    if not text.isascii() or not text.isprintable():
        text = "".join(x if x in keep or _visible(x) else " " for x in text)
    return text if most is None or len(text) <= most else text[: most - 3] + "..."


def _visible(one: str) -> bool:
    return unicodedata.category(one) not in ("Cc", "Cs") and not _FORMATTING.match(one)
