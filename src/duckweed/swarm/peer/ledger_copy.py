"""A peer's full copy of the ledger, in a run whose ledger it does not vote on: taken entry by entry from the
leader, or from a peer that the leader names, each checked before it is kept."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

from duckweed.ledger.ledger import Ledger, LedgerError, Row
from duckweed.net.identity import Identity, verify
from duckweed.net.timeouts import LAST_ENTRIES
from duckweed.net.transport import LinkError
from duckweed.swarm.protocol import copied
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import QuestionRefused
from duckweed.swarm.protocol.copied import AskPeer
from duckweed.swarm.protocol.ledger import PAGE_LIMIT, decoded

log = logging.getLogger(__name__)

Ask = Callable[[m.GetEntries, int], Awaitable[tuple[m.LedgerEntries | m.Leader, bytes]]]
"""The answer to a question and its body, of at most so many bytes. Raises LinkError."""


class LedgerCopy:
    """The copy in a folder. `fault` says why it does not grow any more; "" while it does."""

    def __init__(self, path: Path, run: str, identity: Identity) -> None:
        self.path, self.run, self._identity = path, run, identity
        self.fault = ""
        self._busy = asyncio.Lock()
        self._number = -1  # of the last entry here, as far as is known

    def copied(self, question: m.GetCopiedEntries) -> tuple[m.Answer, bytes]:
        """What the copy has beyond the end of another peer's."""
        if question.number >= self._number:
            return m.Wait("not here yet"), b""
        with closing(Ledger(self.path)) as ledger:
            return copied.give(ledger, question, ledger.number)

    async def pull(self, ask: Ask, ask_peer: AskPeer) -> None:
        """Copy all entries that are new. ask: asks the leader, once; ask_peer: a peer that it names. A leader
        whose ledger does not follow on the copy is not believed, and the copy stays as it is. Raises
        LinkError."""
        async with self._busy:
            while not self.fault:
                number, head = await asyncio.to_thread(self._end)
                question = m.GetEntries(0, number, head)
                try:
                    answer, body = await ask(question, PAGE_LIMIT)
                except QuestionRefused as error:
                    log.info("no entries of the ledger: %s", error)
                    return
                if isinstance(answer, m.Leader):
                    return  # the next time, from that one
                if not answer.same:
                    self.fault = (
                        f"{self.path}: the leader's ledger does not follow on the copy here, which ends "
                        f"with entry {number}; it is kept as it is, as a proof"
                    )
                    return
                if answer.source:
                    await self._from_peer(ask_peer, answer.source, number, head)
                    continue  # the leader knows whether that is all, and gives what the peer did not
                if not (rows := decoded(body)):
                    return
                try:
                    await asyncio.to_thread(self._take, rows)
                except (LedgerError, OSError) as error:
                    self.fault = str(error)

    async def _from_peer(
        self, ask_peer: AskPeer, source: m.PeerAddress, number: int, head: str
    ) -> None:
        rows = await copied.take(ask_peer, source, number, head)
        try:
            await asyncio.to_thread(self._take, rows)
        except LedgerError as error:  # the peer's fault: nothing wrong was taken
            log.warning("peer %s gave entries that are wrong: %s", source.key[:10], error)
        except OSError as error:
            self.fault = str(error)

    def _open(self) -> Ledger:
        return Ledger(self.path, self._identity.sign)

    def _end(self) -> tuple[int, str]:
        with closing(self._open()) as ledger:
            self._number = ledger.number
            return ledger.number, ledger.head

    def _take(self, rows: list[Row]) -> None:
        """Raises LedgerError."""
        with closing(self._open()) as ledger:
            for row in rows:
                ledger.take(row, verify)
                self._number = row.number
                founded = ledger.leadership.run if ledger.leadership else ""
                if founded != self.run:
                    raise LedgerError(
                        f"{self.path}: the leader gave the ledger of another run ({founded[:12]})"
                    )


class Copying:
    """A copy that grows beside a peer's work; None: there is none to grow. ask, ask_peer: as of `LedgerCopy.pull`; say:
    hears once why the copy does not grow any more."""

    def __init__(
        self, copy: LedgerCopy | None, ask: Ask, ask_peer: AskPeer, say: Callable[[str], None]
    ) -> None:
        self.copy, self._ask, self._ask_peer, self._say = copy, ask, ask_peer, say
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Copy what is new, unless that is being done."""
        if self.copy and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._pull(self.copy))

    async def end(self) -> None:
        """Wait for the copy to have the end of the ledger, but not for long."""
        if self.copy is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_ENTRIES):
                if self._task:
                    await self._task
                await self._pull(self.copy)

    def close(self) -> None:
        if self._task:
            self._task.cancel()

    async def _pull(self, copy: LedgerCopy) -> None:
        before = copy.fault
        try:
            await copy.pull(self._ask, self._ask_peer)
        except LinkError as error:
            log.info("the ledger could not be copied: %s", error)
        if copy.fault != before:
            self._say(copy.fault)
