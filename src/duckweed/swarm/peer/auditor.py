"""The audits that a peer does for the run: another peer's contribution, done again from what that one shows."""

import asyncio
import logging
from collections.abc import Callable, Collection
from pathlib import Path

from duckweed.audit.duty import Claim, Unable, examine
from duckweed.learn.learner import Report
from duckweed.net.framing import LinkError
from duckweed.net.identity import Identity
from duckweed.round.blocks import Span
from duckweed.round.carried import carried_limit
from duckweed.round.signed import verdict_part
from duckweed.round.worker import Worker
from duckweed.run import state as states
from duckweed.run.checked import TEXT, plain
from duckweed.run.state import State, StateError
from duckweed.swarm.peer.blob_fetch import BlobFetch, WrongBlob
from duckweed.swarm.peer.coordinator_client import CoordinatorClient
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import QuestionRefused
from duckweed.swarm.protocol.errors import HandedBack
from duckweed.wire.codec import codec_of

log = logging.getLogger(__name__)


class Auditor:
    """Keeps the states that audits may need, and does audits. home: folder of the peer."""

    def __init__(
        self,
        worker: Worker,
        home: Path,
        identity: Identity,
        client: CoordinatorClient,
        fetch: BlobFetch,
        say: Callable[[str], None],
    ) -> None:
        self.worker, self.home, self.identity = worker, home, identity
        self.client, self.fetch, self.say = client, fetch, say

    def keep(self, rounds: Collection[int], state: State) -> None:
        """Keep the states that these rounds follow on, `state` maybe one of them, and no others."""
        if state.round in rounds:
            state.save(self._path(state.round))
        wanted = {self._path(number) for number in rounds}
        for path in self.home.glob("audit-*.safetensors"):
            if path not in wanted:
                path.unlink(missing_ok=True)

    def _path(self, round_: int) -> Path:
        return self.home / f"audit-{round_:08d}.safetensors"

    async def audit(self, task: m.Audit, genesis: str, report: Report | None = None) -> None:
        """Do a contribution again and say what was found. genesis: hash of the run's first entry. report: is
        told of the steps."""
        done, wrong, detail = await self._found(task, report)
        fits = done and not wrong
        detail = plain("; ".join([detail, *wrong]), TEXT)
        part = verdict_part(genesis, task.round, task.peer, fits, detail)
        question = m.Audited(task.round, task.peer, done, fits, detail, self.identity.sign(part))
        self.say(
            f"audited what peer {task.peer} handed in for round {task.round}: "
            + (detail if fits else f"{'it does not fit' if done else 'not done'}: {detail}")
        )
        try:
            await self.client.ask(question)
        except QuestionRefused as error:
            log.info("the verdict came too late: %s", error)

    async def _found(self, task: m.Audit, report: Report | None) -> tuple[bool, list[str], str]:
        """Whether it could be done, what is wrong, what was compared."""
        worker = self.worker
        try:
            state = states.load(self._path(task.round), worker.layout)
            contribution = codec_of(worker.spec.wire, worker.layout).blob_limit
            carried = carried_limit(worker.layout)
            blob = await self.fetch.whole(task.blob, contribution)
            before = await self.fetch.whole(task.before, carried) if task.before else b""
            after = await self.fetch.whole(task.after, carried)
            span = Span(task.block, task.first, task.steps)
            claim = Claim(span, task.tokens, task.loss, blob, before, after)
            found = await asyncio.to_thread(
                examine, worker.spec, worker.layout, worker.learner, state, claim, report
            )
        except (OSError, StateError, LinkError, WrongBlob, Unable, MemoryError) as error:
            return False, [], f"{error}" or type(error).__name__
        except HandedBack:
            return False, [], "the volunteer wants the machine back"
        return True, found.wrong, found.detail
