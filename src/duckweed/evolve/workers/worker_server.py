"""A machine that runs trials for the campaigns of others: `duckweed evolve work`.

It trains in a process of its own on text that the campaign sent; it never sees held-out text and
evaluates nothing. Only data comes over the network: names and recipes are checked, costs counted.
"""

import asyncio
import hmac
import shutil
from collections.abc import Callable
from pathlib import Path

from duckweed.evolve.folder import CampaignFolder
from duckweed.evolve.trial_spec import TrialSpec
from duckweed.evolve.trials.trial import TrialPlanner
from duckweed.evolve.workers import local_worker, worker_protocol
from duckweed.evolve.workers.local_worker import LocalWorker
from duckweed.evolve.workers.worker_protocol import (
    Asked,
    Have,
    Holds,
    Take,
    Train,
    Trained,
    WorkerProtocolError,
)
from duckweed.learn.model.presets import PRESETS
from duckweed.net.framing import Accept
from duckweed.net.identity import Identity, load_or_create
from duckweed.net.transport import Endpoint
from duckweed.process.forkserver import ForkServer
from duckweed.run.folder import private
from duckweed.swarm.protocol.message import Answer, Refused
from duckweed.swarm.protocol.server import accepting

KEPT = 4  # campaigns whose files are kept
MEMORY = 4e9  # bytes that a trial may take
FLOPS = 1e16  # that a trial may take


def secret_of(home: Path) -> str:
    """The secret of this machine's invitation; the same every time."""
    return load_or_create(home / "secret").secret.hex()


class WorkerServer:
    """Serves those who have the secret. home: where campaigns' files are kept; say: told what is
    done, in words."""

    def __init__(self, home: Path, secret: str, say: Callable[[str], None]) -> None:
        self.home, self._secret, self._say = home / "campaigns", secret, say
        self._worker: LocalWorker | None = None
        self._forks: ForkServer | None = None
        self._campaign = ""  # that the worker was started for
        self._started = 0  # processes so far
        self._turn = asyncio.Lock()  # one trial at a time

    async def serve(self, identity: Identity, address: str) -> Endpoint:
        """Listen; the endpoint answers until it is closed. Raises LinkError."""
        endpoint = await Endpoint.bind(identity, worker_protocol.HEAD_LIMIT, address)
        self._serving = asyncio.ensure_future(endpoint.serve(self.accept))
        return endpoint

    async def served(self) -> None:
        """Wait until the endpoint is closed."""
        await self._serving

    def end(self) -> None:
        """End all processes."""
        self._drop()
        if self._forks:
            self._forks.close()

    def _drop(self) -> None:
        if self._worker:
            self._worker.end()
            self._worker = None

    @property
    def accept(self) -> Accept:
        """What the endpoint does with a question."""
        return accepting(worker_protocol.question, self._body_limit, self._answer)

    def _body_limit(self, asker: str, asked: Asked | None) -> int:
        """Most bytes of body that may follow. A machine that is not invited gets a refusal, and may send
        none."""
        takes = isinstance(asked, Take) and self._invited(asked)
        return worker_protocol.TEXT_LIMIT if takes else 0

    async def _answer(self, asker: str, asked: Asked, body: bytes) -> tuple[Answer, bytes]:
        try:
            if not self._invited(asked):
                raise WorkerProtocolError("the secret is not that of this machine's invitation")
            return await self._do(asked, body)
        except (ValueError, OSError) as error:
            return Refused(str(error)[:300]), b""

    def _invited(self, asked: Asked) -> bool:
        return hmac.compare_digest(asked.secret.encode(), self._secret.encode())

    async def _do(self, asked: Asked, body: bytes) -> tuple[Answer, bytes]:
        match asked:
            case Have(protocol, _, campaign):
                if protocol != worker_protocol.PROTOCOL:
                    raise WorkerProtocolError(
                        f"protocol {protocol}, this machine speaks {worker_protocol.PROTOCOL}: install the "
                        "same version on both"
                    )
                return Holds(self._folder_of(campaign).is_dir()), b""
            case Take(_, campaign):
                await asyncio.to_thread(self._save, campaign, body)
                return Holds(True), b""
            case Train(_, campaign, trial):
                async with self._turn:
                    return Trained(), await asyncio.to_thread(self._train, campaign, trial)

    def _folder_of(self, campaign: str) -> Path:
        if len(campaign) != 32 or not set(campaign) <= set("0123456789abcdef"):
            raise WorkerProtocolError("a campaign is named by 32 hex digits")
        return self.home / campaign

    def _save(self, campaign: str, files: bytes) -> None:
        place = self._folder_of(campaign)
        if worker_protocol.archive_hash(files) != campaign:
            raise WorkerProtocolError("the files are not those of the campaign")
        private(self.home)
        oldest = sorted(self.home.iterdir(), key=lambda p: p.stat().st_mtime)
        for old in oldest[: max(0, len(oldest) - KEPT + 1)]:
            shutil.rmtree(old)
        temporary = place.with_suffix(".part")
        shutil.rmtree(temporary, ignore_errors=True)
        worker_protocol.unpack_campaign(files, temporary)
        spec = CampaignFolder(temporary).plain()
        if spec.model.source not in PRESETS and spec.model.source != "model.json":
            raise WorkerProtocolError(f"no model {spec.model.source[:100]!r} among the files")
        temporary.replace(place)
        self._say(f"holds the text of campaign {campaign[:8]}")

    def _train(self, campaign: str, trial: TrialSpec) -> bytes:
        folder = CampaignFolder(self._folder_of(campaign))
        if not folder.path.is_dir():
            raise WorkerProtocolError("the campaign's files are not here")
        _, cost = TrialPlanner.of(folder).plan(trial)
        if cost.memory > MEMORY or trial.budget > FLOPS:
            raise WorkerProtocolError(
                f"the trial takes {cost.memory:.2g} bytes and {trial.budget:.2g} FLOPs; allowed here are "
                f"{MEMORY:.2g} and {FLOPS:.2g}"
            )
        out = folder.path / "out"
        shutil.rmtree(out, ignore_errors=True)
        try:
            reply = self._process(campaign, folder).ask(trial, str(out))
        except (OSError, ValueError) as error:
            self._drop()
            raise WorkerProtocolError(f"the trial's process ended: {error}") from error
        if reply.error:
            raise WorkerProtocolError(reply.error)
        self._say(f"ran a trial of campaign {campaign[:8]} in {reply.seconds:.0f} s")
        files = worker_protocol.pack_export(out)
        shutil.rmtree(out, ignore_errors=True)
        return files

    def _process(self, campaign: str, folder: CampaignFolder) -> LocalWorker:
        """The process that trains for this campaign; one at a time."""
        if self._worker is None or self._campaign != campaign:
            self._drop()
            self._started += 1
            self._forks = self._forks or local_worker.fork_server()
            self._worker = LocalWorker("train", self._started, folder, self._forks)
            self._campaign = campaign
        return self._worker
