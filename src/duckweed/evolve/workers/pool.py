"""Workers: processes on this machine that train cells, one that evaluates, and guests elsewhere.

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
from typing import IO, Any, Protocol

import msgspec

from duckweed.evolve.campaign.folder import Campaign
from duckweed.evolve.decide.trial_spec import Cell, Result

DEATHS = 3  # of workers over one cell, after which the cell is given up
GRACE = 5.0  # seconds for a process to end before it is killed
POLL = 0.2  # seconds between looks at the stop file and the clock


class Stopped(Exception):
    """The campaign is to end now: budget, stop file or Ctrl-C. Nothing recorded is lost."""


class WorkerFailed(RuntimeError):
    """Cells cannot be run; the message says what the workers said."""


class Trains(Protocol):
    """What trains cells: a process here, or a guest (`duckweed.evolve.workers.remote_worker`)."""

    number: int

    def ask(self, cell: Cell, out: str) -> dict[str, Any]: ...
    def wait(self) -> None: ...
    def kill(self) -> None: ...
    def end(self) -> None: ...


class Guest(Trains, Protocol):
    """up: whether it can be asked now; expelled: never again."""

    up: bool
    expelled: bool

    def expel(self) -> None: ...


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
            [sys.executable, "-m", "duckweed.evolve.workers.worker_process", role, str(campaign.path)],
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

    def kill(self) -> None:
        self.process.kill()

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
        self._guests: list[Guest] = []
        self._judge: Worker | None = None
        self._judging, self._lock = threading.Lock(), threading.Lock()
        self._closing = False

    def __enter__(self) -> "Pool":
        shutil.rmtree(self.campaign.work, ignore_errors=True)
        self.campaign.work.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        for worker in self._all():
            worker.end()
        shutil.rmtree(self.campaign.work, ignore_errors=True)

    def invite(self, make: Callable[[int], Guest]) -> None:
        """Take in a guest; `make` is given its number."""
        self._started += 1
        self._guests.append(make(self._started))

    def is_guest(self, number: int) -> bool:
        return any(guest.number == number for guest in self._guests)

    def expel(self, number: int) -> None:
        """Never ask this guest again."""
        for guest in self._guests:
            if guest.number == number:
                guest.expel()

    def run(
        self,
        groups: list[list[Cell]],
        done: Callable[[Cell, Result], None],
        stopped: Callable[[], str | None],
        limit: float,
        avoid: int | None = None,
        own: bool = False,
    ) -> None:
        """Run all cells; `done` is called in this thread, in the order in which they finish.

        stopped: asked all the time, a reason ends the campaign; limit: seconds for one cell, after
        which its worker counts as hung; avoid: the number of a worker that must not be used; own:
        on this machine only. Raises Stopped, WorkerFailed.
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
        threads += [
            threading.Thread(target=self._host, args=(guest, todo, found, ends, limit), daemon=True)
            for guest in self._guests
            if not own and avoid is None
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
                for worker in self._all():
                    worker.kill()
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
                    self.current[slot] = cell
                    found.put((cell, self._cell(self._worker(slot, avoid), cell, limit)))
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

    def _all(self) -> list[Trains]:
        return [*self._workers.values(), *self._guests, *filter(None, [self._judge])]

    def _host(
        self,
        guest: Guest,
        todo: "queue.Queue[tuple[list[Cell], int]]",
        found: "queue.Queue[tuple[Cell, Result] | Exception]",
        ends: threading.Event,
        limit: float,
    ) -> None:
        """Give a guest work while it is there. What it leaves undone goes back to the others, and
        is no fault of the cell."""
        while not ends.is_set() and not guest.expelled:
            if not guest.up:
                ends.wait(POLL)
                continue
            try:
                group, deaths = todo.get(timeout=POLL)
            except queue.Empty:
                continue
            for place, cell in enumerate(group):
                try:
                    found.put((cell, self._cell(guest, cell, limit)))
                except (OSError, ValueError) as error:
                    todo.put((group[place:], deaths))
                    if not self._closing:
                        self.failed(cell, f"a guest gave it back ({error}); run again elsewhere")
                    break
                except WorkerFailed as error:
                    found.put(error)
                    return

    def _given_up(self, cell: Cell) -> WorkerFailed:
        return WorkerFailed(
            f"{DEATHS} workers ended one after the other over the same cell ({cell.recipe}, seed "
            f"{cell.seed}); their last words are in {self.campaign.log}. Nothing was lost: mend "
            "the cause (often memory) and go on with --resume"
        )

    def _cell(self, worker: Trains, cell: Cell, limit: float) -> Result:
        """Train and evaluate."""
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
def _alarm(worker: Trains, seconds: float) -> Any:
    """Kills what takes longer; whoever waits for its answer then sees its end."""
    timer = threading.Timer(seconds, worker.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
