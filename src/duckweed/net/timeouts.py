"""How long peers and coordinator wait for each other, in seconds: all of it in one place."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

BEAT = 1.0  # between signs of life of a peer, at least
BEATS = 100.0  # signs of life a second, of all peers together
SLOWEST = 30.0  # between signs of life, at most, whatever is asked for: links stay open by them
AROUND = 30.0  # after which a peer asks at which address it is seen: networks change
POLL = 5.0  # after which a question is answered with "wait", and what is waited for
PATIENCE = 20.0  # until an answer must begin; above POLL, for a coordinator that merges meanwhile
GOODBYE = 3.0  # for a peer that goes, until it is heard
RETRY = 1.0  # between attempts to reach a coordinator that went away; no end to them
REMIND = 60.0  # between words to the user about it
SILENCE = (
    6.0,
    20.0,
)  # without a sign of life, at least and at most, until a peer is not waited for
AWAY = 2.0  # the coordinator itself did not run for so long: the silence is its own
CANVASS = 5.0  # for a voter to say whom it follows, or would
IN_TOUCH = 3 * POLL  # a voter that was heard in this time counts as there
GATHER = 30.0  # after a restart or a succession, without anybody else coming, until a round opens
HANDOVER = 10.0  # at the end of a run, for the voters to copy the last entries


def beat(peers: int) -> float:
    """How often each of so many peers should give a sign of life: BEATS a second in all, so that
    hearing a thousand costs no more than hearing a hundred."""
    return max(BEAT, peers / BEATS)


def silence(gap: float, beat: float = BEAT) -> float:
    """How long a peer may be silent. gap: its longest silence of late; beat: what it was asked for. A
    busy machine delays signs of life; a peer whose signs come late is given four times its usual
    delay."""
    least, most = SILENCE
    return min(max(most, 2.5 * beat), max(least, 4 * gap, 2.5 * beat))


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Raises TimeoutError. asyncio.wait_for forgets, before Python 3.12, that it was cancelled where
    that comes just as the work is done; whoever asks in a loop then asks for ever."""
    async with asyncio.timeout(seconds):
        return await work
