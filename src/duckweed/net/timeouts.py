"""How long peers and coordinator wait for each other, in seconds: all of it in one place."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

# --- signs of life: a peer tells its coordinator how far it is

BEAT = 1.0  # between two signs of life of a peer, at least
BEATS = 100.0  # signs of life per second, of all peers together
SLOWEST = 30.0  # between two, at most, however many peers there are: links stay open by them
SILENCE = (6.0, 20.0)  # without a sign of life until a peer is given up, at least and at most
SILENCE_CHECK = 0.25  # between two looks for silent peers
AWAY = 2.0  # the coordinator itself did not run for that long: then the silence is its own
AROUND = 30.0  # between a peer's questions at which address it is seen: networks change

# --- a peer or voter asks a coordinator

POLL = 5.0  # after which a question is answered with "wait" if what it asks for is not there yet
PATIENCE = 20.0  # until an answer must begin; above POLL, since a coordinator may be merging
RETRY = 1.0  # between attempts to reach a coordinator that went away; there is no end to them
HINT = 20.0  # without an answer until the user is told what may be the cause
FETCH_TOLD = 10.0  # between messages to the user about how far a long transfer is
REMIND = 60.0  # between messages to the user about that
SIBLINGS_CHECK = 0.05  # between two looks of a path's coordinator at what other paths have
STATE_CHECK = 1.0  # between two looks of a coordinator at its own state, if nothing wakes it
GOODBYE = 3.0  # for a peer that leaves, until its good-bye is answered

# --- succession: voters copy the ledger and elect a leader

CANVASS = 5.0  # for a voter to say whom it follows, or would
IN_TOUCH = 3 * POLL  # a voter that was heard in this time counts as there
LAST_WORD = 300.0  # after the last round, with no coordinator, until a peer ends with what it holds
LAST_ENTRIES = 20.0  # for the end of the ledger to be copied, before a peer leaves
GATHER = 30.0  # after a restart or a succession, with no peer coming, until a round opens
PEERS_CHECK = 0.1  # between two looks, at the end of a run, whether all peers have left
RELAYED = 10.0  # for a peer to give the entries that the leader referred another one to it for
RELAYED_RETRY = 0.25  # until it is asked again
HANDOVER = 10.0  # at the end of a run, for the voters to copy the last entries

# --- pieces of a file, fetched from several peers at once

HOLDER_SILENT = 3.0  # without a word from a holder until others are asked for its pieces
HOLDER_EMPTY = 10.0  # the same without a piece, while it says that it has none yet
# Once half of the holders have given their share, the others are late after as long again, or ...
HOLDER_LEAST = 0.5  # ... after this at least
EMPTY_RETRY = 0.1  # until a holder that had no piece is asked again; doubled each time ...
EMPTY_RETRY_MOST = 1.0  # ... up to this
FETCH_IDLE = 0.25  # between two looks for something to ask a holder for
PIECE_HELD = 2.0  # that a question for a piece waits for the piece to come
PIECE_CHECK = 0.05  # between two looks whether it has come
DONOR_ANSWER = 5.0  # for a peer to say which state it can give to a newcomer
UNKNOWN = 2.0  # until the coordinator is asked again whether a key takes part that it did not know
SHUN = 60.0  # until a peer that could not be reached is dialled again

# --- one connection

STALL = 10.0  # without a byte until the other side counts as gone
PING_AFTER = 6.0  # of waiting for an answer until the other side is pinged; above POLL
PING_ANSWER = 6.0  # for a ping to be answered
TCP_ACCEPT = 0.1  # until a listener that could not accept a connection tries again
TCP_DIAL = 5.0  # for a TCP connection to be made
TCP_HURRY = 0.25  # that a question waits for a TCP connection before it goes over QUIC, plus ...
TCP_HURRY_TRIPS = 5  # ... this many round trips (a connection needs 3)
TCP_RETRY = 300.0  # until an address that did not answer over TCP is tried again
TCP_IDLE = 20.0  # without a question until the asking side hangs up
TCP_IDLE_SERVER = 3 * TCP_IDLE  # the same for the answering side
TCP_UNACKNOWLEDGED = 8.0  # without an acknowledgement until the kernel gives a connection up
RELAY_HELLO = 10.0  # for a client of a relay to prove its key
RELAY_PING = 15.0  # between a relay's pings of a client, and for the answer to one
PORT_FREED = 3.0  # for a port to get free that an endpoint of this machine had before
PORT_CHECK = 0.1  # between two tries to have it
DOCTOR_TRY = 6.0  # for each attempt of `duckweed doctor`

# --- processes on one machine

VIEW = 0.5  # between two reports of a process to the one that shows the run
VIEW_DATA = 1.0  # between two words of how far the data is
LOOPBACK = 2.0  # for a packet from this machine to itself
SAMPLER_CHECK = 0.1  # between two looks of the sampler at whether the run ends
FORGET = 600.0  # until a peer that is gone, and whose work never counted, is forgotten
GUESTS_LOCKED = 10.0  # for the list of invitations, while another process writes it
GUESTS_CHECK = 1.0  # between two looks of a coordinator into the list of invitations
CONTROLS_CHECK = 1.0  # between two looks of a peer into its volunteer's controls
FINISH_BLOCK = 15.0  # a block with less work left than this is finished before a pause
LOAD_SPAN = 5.0  # over which the processor time of other programs is averaged
LEAVE_WAIT = 120.0  # that `duckweed leave` waits for the peer to end
PROCESS_GRACE = 8.0  # for a process of a local run to end by itself before it is killed
RANK_LAST_WORD = 4.0  # for the others of a site to say why they end, once one of them has ended
RANK_RESTART = 1.0  # until they are started again
RANKS_QUICK = 60.0  # a site that ended sooner than that came to nothing
PROCESS_SILENT = 120.0  # without any event until a local run is given up

# --- rewards that are checked again, and the paths of a family

REWARDS_ANSWER = 60.0  # for the process that checks the rewards of one contribution
REWARDS_CHECK = 120.0  # that a round waits for the check of a contribution's rewards
PATH_JOIN = 60.0  # for the coordinator of a path to answer who wants to train it; then others are looked for
PATHS_LOOK = 120.0  # between two looks of a peer at how many peers the paths have
PATHS_BEGIN = 10.0  # the same, while all paths wait for one that has too few peers to begin
PATHS_NOTE = 2.0  # between two notes of a successor of how far the paths are
PATHS_KEEP = 20.0  # between two looks of a successor at whether a newer state can be kept

# --- a mirror of a run

MIRROR_LOOK = 30.0  # between two looks for what is to be sent, if no round closes
MIRROR_RETRY = 60.0  # the same after one that failed
MIRROR_LAST = 120.0  # for the end of a run to be sent
MIRROR_STOPPED = 5.0  # the same for a run that was stopped


def beat(peers: int) -> float:
    """Seconds between two signs of life of each peer, so that all peers together give at most BEATS per
    second: hearing a thousand costs no more than hearing a hundred."""
    return max(BEAT, peers / BEATS)


def silence(gap: float, beat: float = BEAT) -> float:
    """Seconds that a peer may be silent. gap: its longest recent silence; beat: the interval it was
    asked for. A busy machine delays signs of life, so a peer has four times its usual delay."""
    least, most = SILENCE
    return min(max(most, 2.5 * beat), max(least, 4 * gap, 2.5 * beat))


async def within(seconds: float, work: Awaitable[T]) -> T:
    """The result of `work`. Raises TimeoutError after `seconds`. Used in place of asyncio.wait_for,
    which before Python 3.12 loses a cancellation that comes just as the work is done: a task that
    asks in a loop would then never end."""
    async with asyncio.timeout(seconds):
        return await work
