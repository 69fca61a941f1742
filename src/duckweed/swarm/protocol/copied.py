"""Entries of the ledger that one peer copies from another, which does not lead the run."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from duckweed.ledger.ledger import Ledger, Row
from duckweed.net.framing import LinkError
from duckweed.net.timeouts import RELAYED, RELAYED_RETRY, within
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.ledger import PAGE_LIMIT, decoded, encoded

log = logging.getLogger(__name__)
PAGE = 4 << 20  # bytes of entries in one answer, more only if one entry has more

AskPeer = Callable[
    [m.PeerAddress, m.GetCopiedEntries, int], Awaitable[tuple[m.LedgerEntries | m.Wait, bytes]]
]
"""A peer's answer to a question and its body, of at most so many bytes. Raises LinkError."""


def give(ledger: Ledger, question: m.GetCopiedEntries, last: int) -> tuple[m.Answer, bytes]:
    """What a copy has beyond the end of another, up to entry `last`."""
    if question.number >= last:
        return m.Wait("not here yet"), b""
    same = ledger.hash_at(question.number) == question.head
    rows = ledger.rows(question.number + 1, PAGE, last) if same else []
    return m.LedgerEntries(0, question.number, question.head, same, last), encoded(rows)


async def take(ask: AskPeer, source: m.PeerAddress, number: int, head: str) -> list[Row]:
    """What a peer has beyond entry `number`, not yet checked; nothing where it does not give it in time."""
    question = m.GetCopiedEntries(number, head)
    try:
        return await within(RELAYED, _given(ask, source, question))
    except (LinkError, TimeoutError) as error:
        log.info("no entries from peer %s: %s", source.key[:10], error or "it has none")
        return []


async def _given(ask: AskPeer, source: m.PeerAddress, question: m.GetCopiedEntries) -> list[Row]:
    while True:
        answer, body = await ask(source, question, PAGE_LIMIT)
        if isinstance(answer, m.LedgerEntries):
            return decoded(body)
        await asyncio.sleep(RELAYED_RETRY)
