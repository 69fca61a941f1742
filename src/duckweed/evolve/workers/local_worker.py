"""A worker that is a process of this machine, and what any worker is."""

import contextlib
import os
import subprocess
import sys
from typing import IO, Literal, Protocol

import msgspec

from duckweed.evolve.folder import CampaignFolder
from duckweed.evolve.trial_spec import TrialResult, TrialSpec

GRACE = 5.0  # seconds for a process to end before it is killed
KEPT = ("PATH", "PYTHONPATH", "HOME", "LANG", "SYSTEMROOT", "TMPDIR", "VIRTUAL_ENV")
"""Variables that a process is given, beside those of OpenMP: no keys, no tokens."""

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

    def __init__(self, role: Role, number: int, folder: CampaignFolder) -> None:
        self.number = number
        environment = {k: v for k, v in os.environ.items() if k in KEPT or k.startswith("OMP_")}
        environment |= {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        self._log: IO[bytes] = folder.log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "duckweed.evolve.workers.worker_process", role, str(folder.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            env=environment, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdin
        assert self.process.stdout
        self._in, self._out = self.process.stdin, self.process.stdout
        self._ready = False

    def ask(self, trial: TrialSpec, out: str) -> Reply:
        """The answer to one question. Raises OSError or ValueError where the process is gone."""
        self.wait()
        self._in.write(msgspec.json.encode(Question(trial, out)) + b"\n")
        self._in.flush()
        return self._reply()

    def wait(self) -> None:
        """Until it has loaded what it needs. Raises as `ask`."""
        if not self._ready:
            self._reply()
            self._ready = True

    def _reply(self) -> Reply:
        return msgspec.json.decode(self._out.readline(), type=Reply)

    def kill(self) -> None:
        self.process.kill()

    def end(self) -> None:
        """End the process, whatever it is doing."""
        with contextlib.suppress(OSError):
            self._in.close()
        self.process.terminate()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._out.close()
        self._log.close()
