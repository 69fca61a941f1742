"""A peer's client of the coordinator: it dials again when the connection breaks, and when another machine
becomes the leader."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from typing import Protocol

from duckweed.net import clock
from duckweed.net.carrier import Connection, Endpoint, Link
from duckweed.net.framing import LinkError
from duckweed.net.timeouts import (
    AROUND,
    BEAT,
    GOODBYE,
    HINT,
    IN_TOUCH,
    PATIENCE,
    PING_ANSWER,
    REMIND,
    RETRY,
    SLOWEST,
)
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import (
    A,
    AnswerError,
    Client,
    NotLeader,
    QuestionRefused,
)
from duckweed.swarm.protocol.errors import PeerStopped

log = logging.getLogger(__name__)

LARGE = 1 << 20
"""Bytes of a body that take a slow link so long that a sign of life may be late."""


class Leaders(Protocol):
    """Knows which machine leads the run, and connects to it: Invited, or this machine's own
    duckweed.swarm.node.node.Node."""

    def leader_address(self) -> tuple[str, list[str]]:
        """Key and addresses of the leader, as far as is known."""
        ...

    def note_leader(self, leader: m.Leader) -> None:
        """A machine that was asked says which one leads."""
        ...

    def name(self, key: str) -> str:
        """What people call the holder of a key."""
        ...

    async def look_for_leader(self) -> None:
        """The leader is not where it was: ask others, or go back to where it was first."""
        ...

    async def doubt_leader(self) -> None:
        """There has been nothing to do for a while: does the leader only believe that it leads?"""
        ...

    async def connect_to(self, key: str, addresses: list[str]) -> Connection:
        """Raises LinkError."""
        ...


class Invited:
    """What a peer without a copy of the ledger knows: the address that it was given, and the last
    leader that it was referred to."""

    def __init__(self, endpoint: Endpoint, first: tuple[str, list[str]]) -> None:
        self._endpoint, self._first, self._leader = endpoint, first, first

    def leader_address(self) -> tuple[str, list[str]]:
        return self._leader

    def note_leader(self, leader: m.Leader) -> None:
        addresses = {x.key: x.addresses for x in leader.at}.get(leader.key)
        if addresses:
            self._leader = leader.key, addresses

    def name(self, key: str) -> str:
        return key[:10]

    async def look_for_leader(self) -> None:
        self._leader = self._first

    async def doubt_leader(self) -> None:
        pass

    async def connect_to(self, key: str, addresses: list[str]) -> Connection:
        return await self._endpoint.connect(key, addresses)


class CoordinatorClient:
    """Asks the coordinator, for as long as it takes.

    welcomed: called with every Welcome. aside: what else the user should hear while nobody answers; it
    is said once. pace: seconds of an inner step on this machine, 0 where that was not measured. writes: whether the peer
    only writes answers.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        leaders: Leaders,
        secret: str,
        say: Callable[[str], None],
        welcomed: Callable[[m.Welcome], None],
        aside: Callable[[], str],
        pace: float = 0.0,
        writes: bool = False,
    ) -> None:
        self.endpoint, self.leaders, self.secret, self.say = endpoint, leaders, secret, say
        self._welcomed, self._aside, self.pace = welcomed, aside, pace
        self._writes = writes
        self._joined = False
        self._client: Client | None = None
        self._large = 0  # questions with large bodies that wait for their answers
        self._gone = ""  # why the last connection was given up, where a sign of life has shown it
        self._to = ""  # key of the machine at the other end
        self._dialling = asyncio.Lock()
        self._looked = clock.now()  # when another leader was last looked for

    # --- joining and leaving

    async def join(self, limit: float = math.inf) -> None:
        """Raises PeerStopped if the coordinator does not want this peer, and LinkError if it has not answered for
        `limit` seconds."""
        try:
            welcome, _ = await self.ask(self._join(), limit=limit)
        except QuestionRefused as error:
            raise PeerStopped(f"not admitted: {error.reason}") from error
        self._admitted(welcome)

    async def leave(self, reason: str) -> None:
        """Say good-bye, if the coordinator can be reached. Nothing can be asked until `join`."""
        client, self._client, self._joined = self._client, None, False
        if client:
            with contextlib.suppress(LinkError):
                await client.ask(m.Leave(reason[:200]), patience=GOODBYE)
            client.close()

    def close(self) -> None:
        if self._client:
            self._client.close()
            self._client = None

    def _join(self) -> m.Join:
        return m.Join(m.PROTOCOL, self.secret, self.endpoint.offered, self.pace, self._writes)

    def _admitted(self, welcome: m.Welcome) -> None:
        self._joined = True
        self._welcomed(welcome)

    # --- questions

    async def ask(
        self,
        question: m.Question[A],
        body: bytes = b"",
        *,
        body_limit: int = 0,
        limit: float = math.inf,
    ) -> tuple[A, bytes]:
        """Ask until there is an answer: if the coordinator goes away, this waits for it, or for the next
        leader, and after `limit` seconds no longer. Raises LinkError then, QuestionRefused, and PeerStopped if the
        answer makes no sense."""
        away_since, told, aside, hinted = 0.0, 0.0, "", False
        while True:
            try:
                client = await self._connected()
                with self._moving(max(len(body), body_limit)):
                    answer, blob = await client.ask(
                        question, body, body_limit=body_limit, patience=PATIENCE
                    )
                if isinstance(answer, m.Wait):
                    await self._doubt_leader()
                return answer, blob
            except NotLeader as error:
                self._redirected(error)
                await asyncio.sleep(RETRY)
            except QuestionRefused as error:
                log.warning("%s", error)
                raise
            except AnswerError as error:
                raise PeerStopped(f"the coordinator is at fault: {error}") from error
            except LinkError as error:
                why, self._gone = self._gone or f"{error}", ""
                log.info("the coordinator does not answer %s: %s", type(question).__name__, why)
                self.close()
                await self._look_for_leader()
                now = clock.now()
                away_since = away_since or now
                if now - away_since > limit:
                    raise
                if not told or now - told > REMIND:
                    gone = f" for {now - away_since:.0f} s" if told else ""
                    self.say(f"the coordinator does not answer{gone} ({why}); trying again")
                    told = now
                if not hinted and now - away_since >= HINT:
                    hinted = True
                    self.say(_likely(self.leaders.leader_address()[1]))
                if self._aside() != aside:
                    self.say(aside := self._aside())
                await asyncio.sleep(RETRY)

    @contextlib.contextmanager
    def _moving(self, size: int) -> Iterator[None]:
        """Inside, a body of so many bytes may be on its way."""
        large = size > LARGE
        self._large += large
        try:
            yield
        finally:
            self._large -= large

    async def ask_once(
        self, question: m.Question[A], body_limit: int = 0, body: bytes = b""
    ) -> tuple[A, bytes]:
        """Ask over the connection that there is. Raises LinkError."""
        if not self._client:
            raise LinkError("there is no connection to the coordinator")
        return await self._client.ask(question, body, body_limit=body_limit, patience=PATIENCE)

    async def beat(self, progress: Callable[[], m.Progress]) -> None:
        """Give signs of life, apart from all other questions, as often as the coordinator wants them. They are answered at
        once, so that they are the first to show that it is gone: then the connection is given up, and who waits for another
        answer dials again. So peers meet a coordinator that was started again at once, and not after their patience. While a large
        body is on its way a sign of life may be late, and the connection is left to those who move it."""
        pause, looked = BEAT, clock.now()
        while True:
            await asyncio.sleep(pause)
            client = self._client
            if not client:
                continue
            try:
                ack, _ = await client.ask(progress(), patience=PING_ANSWER)
                pause = _wanted(ack) or pause
                if clock.now() - looked > AROUND and self._client:
                    if await self._look_around(self._client) and self._joined:
                        await self._client.ask(self._join())
                    looked = clock.now()
            except AnswerError as error:
                log.debug("a sign of life was not taken: %s", error)
            except LinkError as error:
                log.debug("a sign of life was not heard: %s", error)
                if client is self._client and not self._large:
                    self._gone = f"{error}"
                    self.close()

    async def _connected(self) -> Client:
        async with self._dialling:
            key, addresses = self.leaders.leader_address()
            if self._client and self._to != key:
                self.close()
            if self._client is None:
                client = Client(await self.leaders.connect_to(key, addresses))
                try:
                    await self._begin(client, key)
                except BaseException:
                    client.close()
                    raise
                log.info("connected to the coordinator %s", self.leaders.name(key))
                self._client, self._to, self._gone = client, key, ""
            return self._client

    async def _begin(self, client: Client, key: str) -> None:
        """What comes first on a new connection. Raises LinkError, PeerStopped."""
        await self._look_around(client)
        if not self._joined:
            return
        # The coordinator, or the next leader, may have forgotten this peer.
        try:
            welcome, _ = await client.ask(self._join(), patience=PATIENCE)
        except QuestionRefused as error:
            raise PeerStopped(f"not admitted again: {error.reason}") from error
        self._admitted(welcome)
        if self._to != key:
            self.say(f"going on with {self.leaders.name(key)} as the leader")

    async def _look_around(self, client: Client) -> bool:
        """Hear from the coordinator at which address it sees this machine. True if that is news.
        Raises LinkError."""
        if not isinstance(client.connection, Link):
            return False  # it is in this process
        return await self.endpoint.seen_at((await client.connection.ping()).seen)

    # --- the leader

    def _redirected(self, error: NotLeader) -> None:
        log.info("%s", error)
        self.close()
        self.leaders.note_leader(error.leader)

    async def _look_for_leader(self) -> None:
        self._looked = clock.now()
        await self.leaders.look_for_leader()

    async def _doubt_leader(self) -> None:
        if clock.now() - self._looked > IN_TOUCH:
            self._looked = clock.now()
            await self.leaders.doubt_leader()


def _likely(addresses: list[str]) -> str:
    """Why a machine at these addresses may not answer, and how to find out."""
    if all(address.startswith(("127.", "[::1]")) for address in addresses):
        return (
            f"the coordinator is on this same machine and has not answered for {HINT:.0f} s: either it "
            "has ended, or the loopback interface is down (`ip link show lo`), or a firewall drops UDP "
            "on it (`nft list ruleset`)"
        )
    return (
        f"no answer for {HINT:.0f} s: most likely the coordinator has ended, one of the two machines "
        "is offline, or a firewall drops UDP and TCP between them; which of these, tells: "
        "duckweed doctor INVITATION"
    )


def _wanted(ack: m.Ack) -> float:
    """Seconds until the next sign of life, within reason; 0: the coordinator did not say."""
    return min(max(ack.beat, BEAT), SLOWEST) if ack.beat > 0 else 0.0
