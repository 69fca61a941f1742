"""A peer's line to whoever is in charge of the run: dialled again when it breaks, and when another
machine takes over."""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from duckweed.net import clock
from duckweed.net.carrier import Endpoint, Link
from duckweed.net.framing import LinkError
from duckweed.net.timeouts import (
    AROUND,
    BEAT,
    GOODBYE,
    IN_TOUCH,
    PATIENCE,
    REMIND,
    RETRY,
    SLOWEST,
)
from duckweed.swarm.node.node import OwnLink, Station
from duckweed.swarm.protocol import messages as m


class PeerStopped(RuntimeError):
    """The peer cannot go on; the message says whose fault it is."""


class _Moved(LinkError):
    """Whoever was asked says that another is in charge."""


class Line:
    """coordinator: key and addresses of who is in charge, as far as is known. station: this machine's
    own end of the run, if it has one: it knows who is in charge. welcomed: called with every Welcome;
    aside: what else the user should hear, once, while nobody answers."""

    def __init__(
        self,
        endpoint: Endpoint,
        coordinator: tuple[str, list[str]],
        secret: str,
        say: Callable[[str], None],
        station: Station | None = None,
    ) -> None:
        self.endpoint, self.secret, self.say, self.station = endpoint, secret, say, station
        self.welcomed: Callable[[m.Welcome], None] = lambda welcome: None
        self.aside: Callable[[], str] = lambda: ""
        self._first = self._coordinator = coordinator
        self._joined = False
        self._link: Link | OwnLink | None = None
        self._to = ""  # key of who is at the other end
        self._dialling = asyncio.Lock()
        self._looked = clock.now()

    # --- coming and going

    async def join(self) -> None:
        """Raises PeerStopped if the coordinator does not want this peer."""
        answer, _ = await self.ask(self._first_words())
        self._admitted(answer)

    async def leave(self, reason: str) -> None:
        """Say good-bye, if the coordinator can be reached. Nothing is asked any more until `join`."""
        link, self._link, self._joined = self._link, None, False
        if link:
            with contextlib.suppress(LinkError):
                await link.ask(m.encode(m.Leave(reason[:200])), patience=GOODBYE)
            link.close()

    def close(self) -> None:
        if self._link:
            self._link.close()
            self._link = None

    def _first_words(self) -> m.Join:
        return m.Join(m.PROTOCOL, self.secret, self.endpoint.offered)

    def _admitted(self, answer: m.Answer) -> None:
        if not isinstance(answer, m.Welcome):
            raise PeerStopped(f"not admitted: {getattr(answer, 'reason', answer)}")
        self._joined = True
        self.welcomed(answer)

    # --- questions

    async def ask(
        self, question: m.Message, body: bytes = b"", body_limit: int = 0
    ) -> tuple[m.Answer, bytes]:
        """Ask until there is an answer: a coordinator that goes away is waited for, or the one that
        follows it. Raises PeerStopped."""
        away_since, told, aside = 0.0, 0.0, ""
        while True:
            try:
                link = await self._connected()
                head, blob = await link.ask(
                    m.encode(question), body, body_limit=body_limit, patience=PATIENCE
                )
                answer = _understood(head)
                self._heed(answer)
                if isinstance(answer, m.Wait):
                    await self._wonder()
                return answer, blob
            except _Moved:
                self.close()
                await asyncio.sleep(RETRY)
            except LinkError as error:
                self.close()
                await self._look_round()
                now = clock.now()
                away_since = away_since or now
                if not told or now - told > REMIND:
                    gone = f" for {now - away_since:.0f} s" if told else ""
                    self.say(f"the coordinator does not answer{gone} ({error}); trying again")
                    told = now
                if self.aside() != aside:
                    self.say(aside := self.aside())
                await asyncio.sleep(RETRY)

    async def beat(self, progress: Callable[[], m.Progress]) -> None:
        """Signs of life, apart from all other questions, as often as they are wanted."""
        pause, looked = BEAT, clock.now()
        while True:
            await asyncio.sleep(pause)
            if self._link:
                try:
                    head, _ = await self._link.ask(m.encode(progress()), patience=PATIENCE)
                    pause = _wanted(head) or pause
                    if clock.now() - looked > AROUND and self._link:
                        if await self._look_around(self._link) and self._joined:
                            await self._link.ask(m.encode(self._first_words()))
                        looked = clock.now()
                except LinkError:
                    continue

    async def _connected(self) -> Link | OwnLink:
        async with self._dialling:
            key, addresses = self.coordinator
            if self._link and self._to != key:
                self.close()
            if self._link is None:
                link = await self._dial(key, addresses)
                try:
                    await self._begin(link, key)
                except LinkError:
                    link.close()
                    raise
                self._link, self._to = link, key
            return self._link

    async def _begin(self, link: Link | OwnLink, key: str) -> None:
        """The first words on a new link. Raises LinkError, PeerStopped."""
        await self._look_around(link)
        if not self._joined:
            return
        # It, or another in its place, may have forgotten this peer.
        head, _ = await link.ask(m.encode(self._first_words()), patience=PATIENCE)
        answer = _understood(head)
        self._heed(answer)
        self._admitted(answer)
        if self._to != key:
            self.say(f"going on with {self._name(key)} in charge")

    async def _dial(self, key: str, addresses: list[str]) -> Link | OwnLink:
        if self.station and key == self.endpoint.id:
            return self.station.own_link()
        return await self.endpoint.connect(key, addresses)

    async def _look_around(self, link: Link | OwnLink) -> bool:
        """Hear from the coordinator at which address it sees this machine. True if that is news.
        Raises LinkError."""
        if isinstance(link, OwnLink):
            return False
        return await self.endpoint.seen_at((await link.ping()).seen)

    # --- who is in charge

    @property
    def coordinator(self) -> tuple[str, list[str]]:
        """Key and addresses of who is in charge."""
        return self.station.replica.in_charge_at() if self.station else self._coordinator

    def _heed(self, answer: m.Answer) -> None:
        """Raises _Moved if the answer is that another is to be asked."""
        if not isinstance(answer, m.InCharge):
            return
        if self.station:
            self.station.replica.note(answer.term, answer.key, answer.at)
        else:
            at = {x.key: x.addresses for x in answer.at}.get(answer.key)
            self._coordinator = (answer.key, at) if at else self._coordinator
        raise _Moved(f"{self._name(answer.key)} is in charge")

    def _name(self, key: str) -> str:
        return self.station.replica.name(key) if self.station else key[:10]

    async def _look_round(self) -> None:
        """Whoever was asked is not there: is another in charge? Without a copy of the ledger the one
        that was there first is asked."""
        self._looked = clock.now()
        if self.station:
            await self.station.replica.look_round()
        else:
            self._coordinator = self._first

    async def _wonder(self) -> None:
        """There is nothing to do: does it only believe to be in charge?"""
        if self.station and clock.now() - self._looked > IN_TOUCH:
            await self._look_round()


def _understood(head: bytes) -> m.Answer:
    try:
        return m.answer(head)
    except msgspec.DecodeError as error:
        raise PeerStopped(f"the coordinator's answer makes no sense: {error}") from error


def _wanted(head: bytes) -> float:
    """Seconds until the next sign of life, within reason; 0: nothing was said."""
    try:
        answer = m.answer(head)
    except msgspec.DecodeError:
        return 0.0
    wanted = answer.beat if isinstance(answer, m.Noted) else 0.0
    return min(max(wanted, BEAT), SLOWEST) if wanted > 0 else 0.0
