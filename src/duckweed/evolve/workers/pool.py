"""The workers of a campaign: processes here that train, one that evaluates, and machines elsewhere.

Trials of a group are trained by one worker in turn. Where a worker dies or hangs, its trials are run
again by another; a finished result is handed over at once, so that it cannot be lost.
"""

import contextlib
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from duckweed.evolve.folder import CampaignFolder
from duckweed.evolve.trial_spec import TrialResult, TrialSpec
from duckweed.evolve.workers import local_worker
from duckweed.evolve.workers.local_worker import LocalWorker, Reply, Role, Worker

DEATHS = 3  # of workers over one trial, after which the trial is given up
POLL = 0.2  # seconds between looks at the stop file and the clock


class Stopped(Exception):
    """The campaign is to end now: budget, stop file or Ctrl-C. Nothing recorded is lost."""


class WorkerFailed(RuntimeError):
    """Trials cannot be run; the message says what the workers said."""


@dataclass(frozen=True)
class Batch:
    """Trials to be run, and what becomes of their results."""

    groups: Sequence[list[TrialSpec]]  # those of a group on one worker, in turn
    done: Callable[[TrialSpec, TrialResult], None]  # called in the order in which trials finish
    limit: float  # seconds for one trial, after which its worker counts as hung
    stopped: Callable[[], str | None] = lambda: (
        None
    )  # asked all the time; a reason ends the campaign


class Source(Protocol):
    """Where the pool gets a worker from: a process of its own, or an invited machine."""

    up: bool  # whether it can be asked now
    expelled: bool  # whether it must never be asked again
    to_blame: bool  # whether a trial may be the reason that its worker ended

    def worker(self, avoid: int | None) -> Worker: ...
    def drop(self) -> None: ...


class Remote(Source, Worker, Protocol):
    """An invited machine."""

    def expel(self) -> None: ...


class _Slot:
    """A place for one process; the next one is started when the last one ended."""

    up, expelled, to_blame = True, False, True

    def __init__(self, start: Callable[[], LocalWorker]) -> None:
        self._start = start
        self.process: LocalWorker | None = None

    def worker(self, avoid: int | None) -> LocalWorker:
        if self.process is not None and self.process.number == avoid:
            self.drop()
        if self.process is None:
            self.process = self._start()
        return self.process

    def drop(self) -> None:
        if self.process is not None:
            self.process.end()
            self.process = None


@dataclass(frozen=True)
class _Work:
    """A batch under way, as the threads that serve it share it."""

    limit: float
    avoid: int | None
    todo: "queue.Queue[tuple[list[TrialSpec], int]]" = field(default_factory=queue.Queue)
    found: "queue.Queue[tuple[TrialSpec, TrialResult] | Exception]" = field(
        default_factory=queue.Queue
    )
    ended: threading.Event = field(default_factory=threading.Event)


class Pool:
    """A context manager: on leaving, every process is ended."""

    def __init__(
        self,
        folder: CampaignFolder,
        workers: int,
        failed: Callable[[TrialSpec, str], None] = lambda trial, reason: None,
        started: int = 0,
    ) -> None:
        """workers: processes that train; failed: told of every worker that is lost; started: number
        of the last worker before."""
        self.folder, self.failed = folder, failed
        self._started = started
        self._slots = [_Slot(lambda: self._start("train")) for _ in range(workers)]
        self._remotes: list[Remote] = []
        self._evaluator: LocalWorker | None = None
        self._forks = local_worker.fork_server()
        self._evaluating, self._starting = threading.Lock(), threading.Lock()
        self._closing = False

    def __enter__(self) -> "Pool":
        shutil.rmtree(self.folder.work, ignore_errors=True)
        self.folder.work.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        for worker in self._all():
            worker.end()
        self._forks.close()
        shutil.rmtree(self.folder.work, ignore_errors=True)

    def invite(self, make: Callable[[int], Remote]) -> None:
        """Take in a machine; `make` is given its number."""
        self._started += 1
        self._remotes.append(make(self._started))

    def is_remote(self, number: int) -> bool:
        return any(remote.number == number for remote in self._remotes)

    def expel(self, number: int) -> None:
        """Never ask this machine again."""
        for remote in self._remotes:
            if remote.number == number:
                remote.expel()

    def run(self, batch: Batch, avoid: int | None = None, own: bool = False) -> None:
        """Run all trials; `batch.done` is called in this thread.

        avoid: the number of a worker that must not be used; own: on this machine only, which
        `avoid` implies. Raises Stopped, WorkerFailed.
        """
        work = _Work(batch.limit, avoid)
        for group in batch.groups:
            work.todo.put((group, 0))
        sources: list[Source] = [*self._slots[: len(batch.groups)]]
        if not own and avoid is None:
            sources += self._remotes
        threads = [
            threading.Thread(target=self._serve, args=(source, work), daemon=True)
            for source in sources
        ]
        for thread in threads:
            thread.start()
        left = sum(len(group) for group in batch.groups)
        try:
            while left:
                with contextlib.suppress(queue.Empty):
                    item = work.found.get(timeout=POLL)
                    if isinstance(item, Exception):
                        raise item
                    batch.done(*item)
                    left -= 1
                if left and (reason := batch.stopped()):
                    raise Stopped(reason)
        finally:
            work.ended.set()
            if left:
                self._closing = True
                for worker in self._all():
                    worker.kill()
            for thread in threads:
                thread.join()

    def _serve(self, source: Source, work: _Work) -> None:
        """Give one source groups to run until the batch has ended."""
        while not work.ended.is_set() and not source.expelled:
            if not source.up:
                work.ended.wait(POLL)
                continue
            with contextlib.suppress(queue.Empty):
                self._run_group(source, work, *work.todo.get(timeout=POLL))

    def _run_group(self, source: Source, work: _Work, group: list[TrialSpec], deaths: int) -> None:
        """deaths: workers that ended over the first trial of the group so far. What a machine
        elsewhere leaves undone goes back to the others, and is not the trial's fault."""
        for place, trial in enumerate(group):
            try:
                result = self._run_trial(source.worker(work.avoid), trial, work.limit)
                work.found.put((trial, result))
            except WorkerFailed as error:
                work.found.put(error)
                return
            except (OSError, ValueError) as error:
                source.drop()
                if self._closing:
                    return
                if not source.to_blame:
                    self.failed(
                        trial, f"a remote worker gave it back ({error}); run again elsewhere"
                    )
                else:
                    self.failed(trial, f"its worker ended ({error}); run again by another")
                    deaths += 1
                if deaths >= DEATHS:
                    work.found.put(self._given_up(trial))
                else:
                    work.todo.put((group[place:], deaths))
                return
            deaths = 0

    def _given_up(self, trial: TrialSpec) -> WorkerFailed:
        return WorkerFailed(
            f"{DEATHS} workers ended one after the other over the same trial ({trial.recipe}, seed "
            f"{trial.seed}); their last words are in {self.folder.log}. Nothing was lost: fix the "
            "cause (often memory) and go on with --resume"
        )

    def _run_trial(self, worker: Worker, trial: TrialSpec, limit: float) -> TrialResult:
        """Train and evaluate."""
        out = self.folder.work / f"{trial.id}-{worker.number}"
        worker.wait()
        with self._evaluation() as evaluator:
            evaluator.wait()  # it may take as long to start as a trial does
        began = time.perf_counter()
        with _killed_after(limit, worker):
            self._answered(worker.ask(trial, str(out)), "a trial failed")
        with self._evaluation() as evaluator, _killed_after(limit, evaluator):
            reply = self._answered(evaluator.ask(trial, str(out)), "the evaluator failed")
        shutil.rmtree(out, ignore_errors=True)
        if reply.result is None:
            raise ValueError("the evaluator gave no result")
        return msgspec.structs.replace(
            reply.result, seconds=round(time.perf_counter() - began, 3), worker=worker.number
        )

    def _answered(self, reply: Reply, fault: str) -> Reply:
        if reply.error:
            raise WorkerFailed(f"{fault}: {reply.error}; see {self.folder.log}")
        return reply

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[LocalWorker]:
        """The evaluator, for one caller at a time; another is started when it has ended."""
        with self._evaluating:
            evaluator = self._evaluator = self._evaluator or self._start("evaluate")
            try:
                yield evaluator
            except (OSError, ValueError):
                self._evaluator = None
                evaluator.end()
                raise

    def _start(self, role: Role) -> LocalWorker:
        with self._starting:
            self._started += 1
            return LocalWorker(role, self._started, self.folder, self._forks)

    def _all(self) -> list[Worker]:
        processes = [*(slot.process for slot in self._slots), self._evaluator]
        return [*filter(None, processes), *self._remotes]


@contextlib.contextmanager
def _killed_after(seconds: float, worker: Worker) -> Iterator[None]:
    """Kills a worker that takes longer; the thread that waits for its answer then sees its end."""
    timer = threading.Timer(seconds, worker.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
