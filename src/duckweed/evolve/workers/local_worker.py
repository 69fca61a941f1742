"""A worker that is a process of this machine, and what any worker is."""

import queue
from typing import Literal, Protocol

import msgspec

from duckweed.evolve.folder import CampaignFolder
from duckweed.evolve.trial_spec import TrialResult, TrialSpec
from duckweed.process import environment
from duckweed.process.child import Child
from duckweed.process.forkserver import ForkServer

GRACE = 5.0  # seconds for a killed process to be gone
KEPT = ("PATH", "PYTHONPATH", "HOME", "LANG", "SYSTEMROOT", "TMPDIR", "VIRTUAL_ENV")
"""Variables that a process is given, beside those of threads and libraries: no keys, no tokens."""

MODULE = "duckweed.evolve.workers.worker_process"
Role = Literal["train", "evaluate"]


class Question(msgspec.Struct, frozen=True):
    """A line to a worker process: train or evaluate, as its role is."""

    trial: TrialSpec
    out: str  # folder of the export


class Reply(msgspec.Struct, frozen=True):
    """A line from a worker process. The first one says that it has started."""

    result: TrialResult | None = None  # of an evaluation
    seconds: float = 0.0
    error: str = ""  # why the question could not be answered


class Worker(Protocol):
    """Trains trials: a process here, or a machine elsewhere (`workers.remote_worker`)."""

    number: int  # counted over all workers of the campaign, a new one for every process

    def ask(self, trial: TrialSpec, out: str) -> Reply:
        """Raises OSError or ValueError where the worker is gone."""
        ...

    def wait(self) -> None:
        """Until it can be asked. Raises as `ask`."""
        ...

    def kill(self) -> None: ...
    def end(self) -> None: ...


class LocalWorker:
    """A process that trains, or one that evaluates."""

    def __init__(self, role: Role, number: int, folder: CampaignFolder, forks: ForkServer) -> None:
        """forks: what `fork_server` gave."""
        self.number = number
        self._heard: queue.SimpleQueue[bytes | int] = queue.SimpleQueue()
        """Lines that the process has written; last its exit code."""
        process = forks.start(MODULE, [role, str(folder.path)], folder.log)
        self._child = Child(role, process, self._heard.put, self._heard.put)
        self._ready = False

    def ask(self, trial: TrialSpec, out: str) -> Reply:
        """The answer to one question. Raises OSError or ValueError where the process is gone."""
        self.wait()
        self._child.send(msgspec.json.encode(Question(trial, out)) + b"\n")
        return self._reply()

    def wait(self) -> None:
        """Until it has loaded what it needs. Raises as `ask`."""
        if not self._ready:
            self._reply()
            self._ready = True

    def _reply(self) -> Reply:
        heard = self._heard.get()
        if isinstance(heard, int):
            self._heard.put(heard)  # whoever asks next is told too
            raise ConnectionError(f"exit code {heard}")
        return msgspec.json.decode(heard, type=Reply)

    def kill(self) -> None:
        self._child.kill()

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._child.kill()
        self._child.wait(GRACE)


def fork_server() -> ForkServer:
    """What starts worker processes: with one thread, and nothing of our environment that they do not need."""
    ours = environment.of_child(1).items()
    kept = {k: v for k, v in ours if k in KEPT or k in environment.DEFAULTS or k.startswith("OMP_")}
    return ForkServer(kept | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"})
