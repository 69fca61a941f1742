"""Answering questions that come over the network: each head is decoded once, before its body is read."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from duckweed.net.framing import Accept, Accepted
from duckweed.swarm.protocol.message import Message, encode

Q = TypeVar("Q", bound=Message)
LENGTHS = 4 + 8  # bytes of the two lengths that framing puts before head and body


def accepting(
    decode: Callable[[bytes], Q],
    body_limit: Callable[[str, Q], int],
    handle: Callable[[str, Q, bytes], Awaitable[tuple[Message, bytes]]],
    count: Callable[[Q, Any, int, int], None] = lambda question, answer, received, sent: None,
) -> Accept:
    """What an endpoint does with a question (duckweed.net.framing.Accept).

    decode: bytes of a head -> question, ValueError for nonsense. body_limit: asker's key, question ->
    most bytes of its body. handle: asker's key, question, body -> answer and its body. count: called with
    question, answer, and the bytes of both that crossed the network.
    """

    def accept(key: str, head: bytes) -> Accepted:
        question = decode(head)

        async def answer(body: bytes) -> tuple[bytes, bytes]:
            said, data = await handle(key, question, body)
            reply = encode(said)
            received, sent = len(head) + len(body), len(reply) + len(data)
            count(question, said, LENGTHS + received, LENGTHS + sent)
            return reply, data

        return Accepted(body_limit(key, question), answer)

    return accept
