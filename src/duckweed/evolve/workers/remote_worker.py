"""Machines elsewhere that run trials for this campaign, by invitation.

They are workers like the processes here, except that they come and go and are not trusted
(`duckweed.evolve.workers.audit`).
"""

import asyncio
import concurrent.futures
import contextlib
import shutil
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from duckweed.evolve.folder import CampaignFolder
from duckweed.evolve.trial_spec import TrialSpec
from duckweed.evolve.workers import worker_protocol
from duckweed.evolve.workers.local_worker import Reply
from duckweed.net.identity import Identity
from duckweed.net.transport import Endpoint, LinkError
from duckweed.swarm.protocol.client import Client, QuestionRefused
from duckweed.swarm.protocol.invitation import Invitation, InvitationError, read

RETRY = 10.0  # seconds until a machine that could not be reached is tried again
LONGEST = 24 * 3600.0  # seconds for one trial; the pool cancels it long before
EXPORT_LIMIT = 1 << 28  # bytes of a trial's files

T = TypeVar("T")


def invitations(lines: list[str]) -> list[Invitation]:
    """From the lines that `duckweed evolve work` printed. Raises InvitationError."""
    found = [read(line) for line in lines]
    for one in found:
        if one.run != worker_protocol.RUN:
            raise InvitationError(
                "this is an invitation to a training run; a machine that runs trials gives one with "
                "`duckweed evolve work`"
            )
    return found


class Connections:
    """The event loop and endpoint of all connections, in a thread of its own."""

    def __init__(self, identity: Identity) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.endpoint = self.call(Endpoint.bind(identity, worker_protocol.HEAD_LIMIT, "0.0.0.0:0"))

    def start(self, work: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return self.start(work).result()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.call(self.endpoint.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class RemoteWorker:
    """One machine. say: told when it comes and goes, and why."""

    to_blame = False  # it may go away at any time

    def __init__(
        self,
        invitation: Invitation,
        number: int,
        folder: CampaignFolder,
        connections: Connections,
        say: Callable[["RemoteWorker", str], None],
    ) -> None:
        self.number = number  # of the worker
        self.key = invitation.coordinator  # public key of the machine
        self.up = False  # whether it can be asked now
        self.expelled = False  # whether it must never be asked again
        self._invitation, self._connections, self._say = invitation, connections, say
        self._files = worker_protocol.pack_campaign(folder)
        self._campaign = worker_protocol.archive_hash(self._files)
        self._client: Client | None = None
        self._gone = asyncio.Event()
        self._asked: concurrent.futures.Future[Any] | None = None
        self._connection = connections.start(self._stay_connected())

    def worker(self, avoid: int | None) -> "RemoteWorker":
        return self

    def drop(self) -> None:
        """Nothing to do: `_ask` has noticed already."""

    def ask(self, trial: TrialSpec, out: str) -> Reply:
        """Run a trial there and write its files to `out`. Raises OSError where the machine went
        away, ValueError where it refused or sent an invalid export."""
        self._asked = self._connections.start(self._ask(trial))
        try:
            files = self._asked.result()
        except concurrent.futures.CancelledError:
            raise LinkError("took too long, or the campaign ends") from None
        shutil.rmtree(out, ignore_errors=True)
        worker_protocol.unpack_export(files, Path(out))
        return Reply()

    def wait(self) -> None:
        """Raises LinkError where the machine cannot be asked now."""
        if not self.up:
            raise LinkError("it is not connected")

    def kill(self) -> None:
        """Cancel the running question."""
        if self._asked:
            self._asked.cancel()

    def end(self) -> None:
        self.kill()
        self._connection.cancel()
        with contextlib.suppress(concurrent.futures.CancelledError, Exception):
            self._connection.result(timeout=5)

    def expel(self) -> None:
        """Never ask this machine again."""
        self.expelled, self.up = True, False
        self._connection.cancel()
        self._say(
            self,
            "is not asked again: its weights differ from those of this machine for the same trial "
            "(a lie, or another processor or version of torch); its trials are run again elsewhere",
        )

    async def _ask(self, trial: TrialSpec) -> bytes:
        question = worker_protocol.Train(self._invitation.secret, self._campaign, trial)
        try:
            if self._client is None:
                raise LinkError("it is not connected")
            _, files = await self._client.ask(question, body_limit=EXPORT_LIMIT, patience=LONGEST)
        except QuestionRefused as error:
            self._lost()
            raise worker_protocol.WorkerProtocolError(f"it refuses: {error.reason}") from error
        except LinkError:
            self._lost()
            raise
        return files

    def _lost(self) -> None:
        self.up = False
        self._gone.set()

    async def _stay_connected(self) -> None:
        """Connect and send the text; again whenever the connection is lost."""
        said = ""
        while True:
            reason = ""
            try:
                where = self._invitation
                link = await self._connections.endpoint.connect(
                    where.coordinator, list(where.addresses)
                )
                self._client = Client(link)
                await self._send_files(self._client)
                self._gone.clear()
                self.up = True
                self._say(self, "is here")
                said = ""
                await self._gone.wait()
                reason = "went away; its trials are run elsewhere until it is back"
            except (LinkError, ValueError) as error:
                reason = f"cannot be used now: {error}"
            finally:
                self.up = False
                if self._client:
                    self._client.close()
            if reason != said:  # once, not every ten seconds
                self._say(self, reason)
                said = reason
            await asyncio.sleep(RETRY)

    async def _send_files(self, client: Client) -> None:
        """The campaign's files, unless they are there."""
        secret, protocol = self._invitation.secret, worker_protocol.PROTOCOL
        reply, _ = await client.ask(
            worker_protocol.Have(protocol, secret, self._campaign), patience=60.0
        )
        if not reply.holds:
            question = worker_protocol.Take(secret, self._campaign)
            await client.ask(question, self._files, patience=600.0)
