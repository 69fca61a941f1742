"""Answering questions that come over the network: each head is decoded once, before its body is read."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from duckweed.net.framing import Accept, Accepted
from duckweed.net.rate_limits import RateLimits
from duckweed.swarm.protocol.blobs import PieceQuestion
from duckweed.swarm.protocol.message import Message, Refused, encode

Q = TypeVar("Q", bound=Message)
LENGTHS = 4 + 8  # bytes of the two lengths that framing puts before head and body


async def take_turn(limits: RateLimits, key: str, question: Message) -> None:
    """Count a question of the holder of a key; one for a piece of a file waits if need be. Raises ValueError if there were
    too many."""
    if isinstance(question, PieceQuestion):
        await limits.asks_for_piece(key)
    else:
        limits.asks(key)


def accepting(
    decode: Callable[[bytes], Q],
    body_limit: Callable[[str, Q | None], int],
    handle: Callable[[str, Q, bytes], Awaitable[tuple[Message, bytes]]],
    count: Callable[[Q, Any, int, int], None] = lambda question, answer, received, sent: None,
    fault: Callable[[str, str], object] = lambda key, kind: None,
) -> Accept:
    """What an endpoint does with a question (duckweed.net.framing.Accept).

    decode: bytes of a head -> question, msgspec.DecodeError for nonsense. body_limit: asker's key,
    question -> most bytes of its body; question None: one with a value that no honest machine sends, which
    is refused with the reason. handle: asker's key, question, body -> answer and its body. count: called
    with question, answer, and the bytes of both that crossed the network. fault: called with the asker's
    key and the kind of what was refused.
    """

    def refusing(key: str, error: msgspec.ValidationError) -> Accepted:
        async def answer(body: bytes) -> tuple[bytes, bytes]:
            fault(key, "malformed")
            said = f"not a question as this version of duckweed asks it: {error}"
            return encode(Refused(said)), b""

        return Accepted(body_limit(key, None), answer)

    def accept(key: str, head: bytes) -> Accepted:
        try:
            question = decode(head)
        except msgspec.ValidationError as error:
            return refusing(key, error)

        async def answer(body: bytes) -> tuple[bytes, bytes]:
            said, data = await handle(key, question, body)
            reply = encode(said)
            received, sent = len(head) + len(body), len(reply) + len(data)
            count(question, said, LENGTHS + received, LENGTHS + sent)
            return reply, data

        return Accepted(body_limit(key, question), answer)

    return accept
