"""Asking a question over a connection, and getting one of the answers that the question may have."""

import functools
from typing import Any, Protocol, TypeVar, get_args

import msgspec

from duckweed.net.carrier import Connection
from duckweed.net.framing import STALL, LinkError
from duckweed.swarm.protocol.message import Leader, Question, Refused, encode

A = TypeVar("A")


class Asks(Protocol):
    """Whatever can be asked typed questions: Client, or one that finds the leader by itself."""

    async def ask(
        self, question: Question[A], body: bytes = b"", *, body_limit: int = 0
    ) -> tuple[A, bytes]:
        """The answer and its body."""
        ...


class AnswerError(LinkError):
    """The other side answered, but not what was asked for."""


class QuestionRefused(AnswerError):
    """The other side refused the question."""

    def __init__(self, question: Question[Any], reason: str) -> None:
        super().__init__(f"{_name(question)} was refused: {reason}")
        self.reason = reason


class NotLeader(AnswerError):
    """The machine that was asked does not lead the run, and says which one does."""

    def __init__(self, question: Question[Any], leader: Leader) -> None:
        super().__init__(
            f"{_name(question)} was not answered: that machine does not lead the run; "
            f"{leader.key[:10]} does (term {leader.term})"
        )
        self.leader = leader


def is_final(error: LinkError) -> bool:
    """Whether a machine that is there says no, or nonsense: it would say that again. One that does not lead may lead later."""
    return isinstance(error, AnswerError) and not isinstance(error, NotLeader)


class Client:
    """Asks typed questions over one connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def ask(
        self,
        question: Question[A],
        body: bytes = b"",
        *,
        body_limit: int = 0,
        patience: float = STALL,
    ) -> tuple[A, bytes]:
        """The answer and its body; parameters as of Connection.ask.

        Raises LinkError; of these, AnswerError if the other side is there and gave none of the answers
        that the question may have.
        """
        head, answered = await self.connection.ask(
            encode(question), body, body_limit=body_limit, patience=patience
        )
        return understood(question, head), answered

    def close(self) -> None:
        self.connection.close()


def understood(question: Question[A], head: bytes) -> A:
    """An answer to a question, decoded. Raises AnswerError."""
    expected, decoder = _answers(type(question))
    try:
        answer = decoder.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        wanted = " or ".join(x.__name__ for x in expected)
        raise AnswerError(
            f"the answer to {_name(question)} is not {wanted} ({error}): {_shown(head)}; the other side "
            "runs another version of duckweed, or breaks its protocol"
        ) from error
    if isinstance(answer, expected):
        return answer  # type: ignore[return-value]
    if isinstance(answer, Refused):
        raise QuestionRefused(question, answer.reason)
    raise NotLeader(question, answer)


@functools.cache
def _answers(kind: type) -> tuple[tuple[type, ...], msgspec.msgpack.Decoder[Any]]:
    """The answers that a kind of question may get, and what decodes them."""
    (answers,) = get_args(kind.__orig_bases__[0])  # type: ignore[attr-defined]
    return get_args(answers) or (answers,), msgspec.msgpack.Decoder(answers | Refused | Leader)


def _name(question: Question[Any]) -> str:
    return type(question).__name__


def _shown(head: bytes) -> str:
    """What came instead, short enough to print."""
    try:
        kind = msgspec.msgpack.decode(head)["is"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, KeyError):
        return f"{len(head)} bytes came"
    return f"a message {str(kind)[:20]!r} came"
