"""Workers: processes on this machine that train cells, and one that evaluates.

Cells of a group are trained by one worker in turn. A worker that dies or hangs has its cells run
again by another; what is finished is handed over at once, so that nothing done is lost.
"""

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

import msgspec

from duckweed.evolve.cell import Cell, Result
from duckweed.evolve.folder import Campaign

DEATHS = 3  # of workers over one cell, after which the cell is given up
GRACE = 5.0  # seconds for a process to end before it is killed
POLL = 0.2  # seconds between looks at the stop file and the clock


class Stopped(Exception):
    """The campaign is to end now: budget, stop file or Ctrl-C. Nothing recorded is lost."""


class WorkerFailed(RuntimeError):
    """Cells cannot be run; the message says what the workers said."""


class Worker:
    """One process. number: counted over the campaign's processes, a new one for every start."""

    def __init__(self, role: str, number: int, campaign: Campaign) -> None:
        self.number = number
        # A worker needs no more of our surroundings than this: no keys, no tokens.
        kept = ("PATH", "PYTHONPATH", "HOME", "LANG", "SYSTEMROOT", "TMPDIR", "VIRTUAL_ENV")
        environment = {k: v for k, v in os.environ.items() if k in kept or k.startswith("OMP_")}
        environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self._log: IO[bytes] = campaign.log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "duckweed.evolve.process", role, str(campaign.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            env=environment, start_new_session=True,
        )  # fmt: skip
        self._ready = False

    def ask(self, cell: Cell, out: str) -> dict[str, Any]:
        """The answer to one line. Raises OSError or ValueError where the process is gone."""
        assert self.process.stdin
        assert self.process.stdout
        self.wait()
        line = json.dumps({"cell": msgspec.to_builtins(cell), "out": out}) + "\n"
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def wait(self) -> None:
        """Until it has loaded what it needs. Raises as `ask`."""
        if not self._ready:
            assert self.process.stdout
            json.loads(self.process.stdout.readline())
            self._ready = True

    def end(self) -> None:
        """End the process, whatever it does."""
        with contextlib.suppress(OSError):
            if self.process.stdin:
                self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self._log.close()


class Pool:
    """The workers of a campaign. A context manager: on leaving, every process is ended."""

    def __init__(
        self,
        campaign: Campaign,
        workers: int,
        failed: Callable[[Cell, str], None] | None = None,
        started: int = 0,
    ) -> None:
        self.campaign = campaign
        self.failed = failed or (lambda cell, reason: None)
        self.current: dict[int, Cell] = {}
        self._count, self._started = workers, started
        self._workers: dict[int, Worker] = {}
        self._judge: Worker | None = None
        self._judging, self._lock = threading.Lock(), threading.Lock()
        self._closing = False

    def __enter__(self) -> "Pool":
        shutil.rmtree(self.campaign.work, ignore_errors=True)
        self.campaign.work.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        for worker in [*self._workers.values(), *filter(None, [self._judge])]:
            worker.end()
        shutil.rmtree(self.campaign.work, ignore_errors=True)

    def run(
        self,
        groups: list[list[Cell]],
        done: Callable[[Cell, Result], None],
        stopped: Callable[[], str | None],
        limit: float,
        avoid: int | None = None,
    ) -> None:
        """Run all cells; `done` is called in this thread, in the order in which they finish.

        stopped: asked all the time, a reason ends the campaign; limit: seconds for one cell, after
        which its worker counts as hung; avoid: the number of a worker that must not be used.
        Raises Stopped, WorkerFailed.
        """
        todo: queue.Queue[tuple[list[Cell], int]] = queue.Queue()
        found: queue.Queue[tuple[Cell, Result] | Exception] = queue.Queue()
        for group in groups:
            todo.put((group, 0))
        left = sum(len(group) for group in groups)
        ends = threading.Event()
        threads = [
            threading.Thread(
                target=self._serve, args=(slot, todo, found, ends, limit, avoid), daemon=True
            )
            for slot in range(min(self._count, len(groups)))
        ]
        for thread in threads:
            thread.start()
        try:
            while left:
                with contextlib.suppress(queue.Empty):
                    item = found.get(timeout=POLL)
                    if isinstance(item, Exception):
                        raise item
                    done(*item)
                    left -= 1
                if left and (reason := stopped()):
                    raise Stopped(reason)
        finally:
            ends.set()
            if left:
                self._closing = True
                for worker in [*self._workers.values(), *filter(None, [self._judge])]:
                    worker.process.kill()
            for thread in threads:
                thread.join()

    def _serve(
        self,
        slot: int,
        todo: "queue.Queue[tuple[list[Cell], int]]",
        found: "queue.Queue[tuple[Cell, Result] | Exception]",
        ends: threading.Event,
        limit: float,
        avoid: int | None,
    ) -> None:
        """Be worker `slot` until there is nothing left to do."""
        while not ends.is_set():
            try:
                group, deaths = todo.get(timeout=POLL)
            except queue.Empty:
                continue
            for place, cell in enumerate(group):
                try:
                    found.put((cell, self._cell(slot, cell, limit, avoid)))
                except (OSError, ValueError) as error:
                    self._bury(slot)
                    if self._closing:
                        return
                    self.failed(cell, f"its worker ended ({error}); run again by another")
                    if deaths + 1 >= DEATHS:
                        found.put(self._given_up(cell))
                        return
                    todo.put((group[place:], deaths + 1))
                    break
                except WorkerFailed as error:
                    found.put(error)
                    return
                finally:
                    self.current.pop(slot, None)

    def _given_up(self, cell: Cell) -> WorkerFailed:
        return WorkerFailed(
            f"{DEATHS} workers ended one after the other over the same cell ({cell.recipe}, seed "
            f"{cell.seed}); their last words are in {self.campaign.log}. Nothing was lost: mend "
            "the cause (often memory) and go on with --resume"
        )

    def _cell(self, slot: int, cell: Cell, limit: float, avoid: int | None) -> Result:
        """Train and evaluate."""
        worker = self._worker(slot, avoid)
        self.current[slot] = cell
        out = self.campaign.work / f"{cell.id}-{worker.number}"
        worker.wait()
        with self._evaluating() as judge:
            judge.wait()  # it may take as long to start as a trial does
        began = time.perf_counter()
        with _alarm(worker, limit):
            reply = worker.ask(cell, str(out))
        if "error" in reply:
            raise WorkerFailed(f"a trial failed: {reply['error']}; see {self.campaign.log}")
        with self._evaluating() as judge, _alarm(judge, limit):
            judged = judge.ask(cell, str(out))
        shutil.rmtree(out, ignore_errors=True)
        if "error" in judged:
            raise WorkerFailed(f"the evaluator failed: {judged['error']}; see {self.campaign.log}")
        result = msgspec.convert(judged["result"], Result)
        return msgspec.structs.replace(
            result, seconds=round(time.perf_counter() - began, 3), worker=worker.number
        )

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[Worker]:
        """The evaluator, for one caller at a time; one that is gone makes room for another."""
        with self._judging:
            judge = self._judge = self._judge or self._start("evaluate")
            try:
                yield judge
            except (OSError, ValueError):
                self._judge = None
                judge.end()
                raise

    def _worker(self, slot: int, avoid: int | None) -> Worker:
        worker = self._workers.get(slot)
        if worker is not None and worker.number == avoid:
            self._bury(slot)
            worker = None
        if worker is None:
            worker = self._workers[slot] = self._start("train")
        return worker

    def _start(self, role: str) -> Worker:
        with self._lock:
            self._started += 1
            return Worker(role, self._started, self.campaign)

    def _bury(self, slot: int) -> None:
        worker = self._workers.pop(slot, None)
        if worker is not None:
            worker.end()


@contextlib.contextmanager
def _alarm(worker: Worker, seconds: float) -> Any:
    """Kills a process that takes longer; whoever waits for its answer then sees its end."""
    timer = threading.Timer(seconds, worker.process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
