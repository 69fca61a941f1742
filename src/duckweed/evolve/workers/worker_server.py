"""A machine that runs trials for the campaigns of others: `duckweed evolve work`.

It trains what a cell says, in a process of its own, on text that the campaign sent; it never sees
held-out text and judges nothing. What comes over the network is data: checked names, checked
recipes, counted costs.
"""

import asyncio
import hmac
import shutil
from collections.abc import Callable
from pathlib import Path

from duckweed.evolve.campaign.folder import Campaign
from duckweed.evolve.decide.trial_spec import Cell
from duckweed.evolve.trials.trial import plan
from duckweed.evolve.workers import worker_protocol
from duckweed.evolve.workers.pool import Worker
from duckweed.learn.model.presets import PRESETS
from duckweed.net.framing import Accept
from duckweed.net.identity import Identity, load_or_create
from duckweed.net.transport import Endpoint
from duckweed.swarm.protocol.message import Answer, Refused
from duckweed.swarm.protocol.server import accepting

Asked = worker_protocol.Have | worker_protocol.Take | worker_protocol.Train

KEPT = 4  # campaigns whose files are kept
MEMORY = 4e9  # bytes that a trial may take
FLOPS = 1e16  # of a trial


def secret_of(home: Path) -> str:
    """The secret of a machine's invitation; the same every time."""
    return load_or_create(home / "secret").secret.hex()


class Lender:
    """Serves trials to whoever has the secret. home: where campaigns' files are kept; say: told
    what is done, in words."""

    def __init__(self, home: Path, secret: str, say: Callable[[str], None]) -> None:
        self.home, self._secret, self._say = home / "campaigns", secret, say
        self._worker: Worker | None = None
        self._of = ""  # the campaign that the worker was started for
        self._started = 0
        self._turn = asyncio.Lock()

    async def serve(self, identity: Identity, address: str) -> Endpoint:
        """Listen; the endpoint answers until it is closed. Raises LinkError."""
        endpoint = await Endpoint.bind(identity, worker_protocol.HEAD_LIMIT, address)
        self._serving = asyncio.ensure_future(endpoint.serve(self.accept))
        return endpoint

    async def served(self) -> None:
        """Until the endpoint is closed."""
        await self._serving

    def end(self) -> None:
        if self._worker:
            self._worker.end()
            self._worker = None

    @property
    def accept(self) -> Accept:
        """What the endpoint does with a question."""
        return accepting(worker_protocol.question, self._body_limit, self._answer)

    def _body_limit(self, asker: str, asked: Asked) -> int:
        """Most bytes of body that may follow. A machine that is not invited gets a refusal, and may send
        none."""
        takes = isinstance(asked, worker_protocol.Take) and self._invited(asked)
        return worker_protocol.TEXT_LIMIT if takes else 0

    async def _answer(self, asker: str, asked: Asked, body: bytes) -> tuple[Answer, bytes]:
        try:
            if not self._invited(asked):
                raise worker_protocol.ParcelError(
                    "the invitation's secret is not the one given out here"
                )
            return await self._do(asked, body)
        except (ValueError, OSError) as error:
            return Refused(str(error)[:300]), b""

    def _invited(self, asked: Asked) -> bool:
        return hmac.compare_digest(asked.secret.encode(), self._secret.encode())

    async def _do(self, asked: Asked, body: bytes) -> tuple[Answer, bytes]:
        match asked:
            case worker_protocol.Have(protocol, _, campaign):
                if protocol != worker_protocol.PROTOCOL:
                    raise worker_protocol.ParcelError(
                        f"protocol {protocol}, this machine speaks {worker_protocol.PROTOCOL}: install the "
                        "same version on both"
                    )
                return worker_protocol.Holds(self._place(campaign).is_dir()), b""
            case worker_protocol.Take(_, campaign):
                await asyncio.to_thread(self._keep, campaign, body)
                return worker_protocol.Holds(True), b""
            case worker_protocol.Train(_, campaign, cell):
                async with self._turn:
                    return worker_protocol.Trained(), await asyncio.to_thread(
                        self._train, campaign, cell
                    )

    def _place(self, campaign: str) -> Path:
        if len(campaign) != 32 or not set(campaign) <= set("0123456789abcdef"):
            raise worker_protocol.ParcelError("a campaign is named by 32 hex digits")
        return self.home / campaign

    def _keep(self, campaign: str, files: bytes) -> None:
        place = self._place(campaign)
        if worker_protocol.identity(files) != campaign:
            raise worker_protocol.ParcelError("the files are not those of the campaign")
        self.home.mkdir(parents=True, exist_ok=True)
        oldest = sorted(self.home.iterdir(), key=lambda p: p.stat().st_mtime)
        for old in oldest[: max(0, len(oldest) - KEPT + 1)]:
            shutil.rmtree(old)
        temporary = place.with_suffix(".part")
        shutil.rmtree(temporary, ignore_errors=True)
        worker_protocol.unpack_campaign(files, temporary)
        spec = Campaign(temporary).plain()
        if spec.model.source not in PRESETS and spec.model.source != "model.json":
            raise worker_protocol.ParcelError(
                f"no model {spec.model.source[:100]!r} among the files"
            )
        temporary.replace(place)
        self._say(f"holds the text of campaign {campaign[:8]}")

    def _train(self, campaign: str, cell: Cell) -> bytes:
        folder = Campaign(self._place(campaign))
        if not folder.path.is_dir():
            raise worker_protocol.ParcelError("the campaign's files are not here")
        _, cost = plan(folder.plain(), folder.path, folder.vocabulary(), cell)
        if cost.memory > MEMORY or cell.budget > FLOPS:
            raise worker_protocol.ParcelError(
                f"takes {cost.memory:.2g} bytes and {cell.budget:.2g} FLOPs; lent are {MEMORY:.2g} "
                f"and {FLOPS:.2g}"
            )
        out = folder.path / "out"
        shutil.rmtree(out, ignore_errors=True)
        try:
            reply = self._process(campaign, folder).ask(cell, str(out))
        except (OSError, ValueError) as error:
            self.end()
            raise worker_protocol.ParcelError(f"the trial's process ended: {error}") from error
        if "error" in reply:
            raise worker_protocol.ParcelError(reply["error"])
        self._say(f"trained a cell of campaign {campaign[:8]} in {reply['seconds']:.0f} s")
        files = worker_protocol.export(out)
        shutil.rmtree(out, ignore_errors=True)
        return files

    def _process(self, campaign: str, folder: Campaign) -> Worker:
        """The process that trains for this campaign; one at a time."""
        if self._worker is None or self._of != campaign:
            self.end()
            self._started += 1
            self._worker, self._of = Worker("train", self._started, folder), campaign
        return self._worker
