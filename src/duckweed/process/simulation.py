"""A run in one process and in virtual time: the real coordinator and the real peers, over a virtual network.

The same specification reaches the same state hash as a run of processes. What depends on the machine takes
the time that it took when it was first done, for every peer alike, so that the course of a simulated run
depends on its specification, the links and the speeds that were given, and on nothing else.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from math import isfinite

import msgspec

from duckweed.learn.fit import ANY, Wish
from duckweed.learn.learner import Learner
from duckweed.ledger.entries import Closed, PeerEntry
from duckweed.ledger.ledger import Ledger
from duckweed.net import clock
from duckweed.net.identity import Identity, load_or_create
from duckweed.net.link_spec import LinkSpec
from duckweed.net.virtual import Network, VirtualLoop, spend
from duckweed.round import founding
from duckweed.round.answers import Given
from duckweed.round.blocks import Span
from duckweed.round.founding import Ground
from duckweed.round.worker import Contribution, Trained, Worker, Wrote
from duckweed.run.events import UNSET, Event, PeerProgress, Progress, RoundClosed, Said, Tell
from duckweed.run.folder import RunFolder
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.state import State
from duckweed.swarm.node.node import Node
from duckweed.swarm.peer.peer import Peer

Report = Callable[[int, float], None]


class Costs:
    """Seconds that work takes on this machine: as measured when it was first done."""

    def __init__(self) -> None:
        self._of: dict[str, float] = {}

    def of(self, kind: str, seconds: float, amount: float = 1.0) -> float:
        """Virtual seconds of an amount of some kind of work that really took so many."""
        return amount * self._of.setdefault(kind, seconds / amount)


class Simulation:
    """All peers of a run and their coordinator, on one model in memory."""

    def __init__(
        self,
        folder: RunFolder,
        spec: RunSpec,
        layout: Layout,
        ground: Ground,
        state: State,
        device: str,
        links: Sequence[LinkSpec] | None = None,
        step_seconds: float | Sequence[float] | None = None,
        tell: Tell = lambda event: None,
        wish: Wish = ANY,
    ) -> None:
        """links: of each peer, None: at once. step_seconds: of an inner step, of all peers or of each;
        None: as measured here, alike for all. tell: takes the events of the run. wish: of its memory."""
        self.folder, self.spec, self.layout, self.tell = folder, spec, layout, tell
        peers = spec.rounds.peers
        self.links = links or [LinkSpec()] * peers
        paces = step_seconds if isinstance(step_seconds, Sequence) else [step_seconds] * peers
        one = founding.learner(
            spec, ground, device, wish, self._say
        )  # busy with one peer at a time
        costs, states = Costs(), {state.round: state}
        self.workers = [
            SimulatedWorker(
                spec, layout, one, peer, pace, costs, states, self._tell,
            )
            for peer, pace in enumerate(paces)
        ]  # fmt: skip
        self.state = state
        clocks = [x.virtual_clock for x in folder.records(RoundClosed)][-1:]
        self._before = next((x for x in clocks if x is not UNSET), 0.0)
        """Virtual seconds that the run took before it was stopped."""
        self.clock = 0.0
        """Virtual seconds since the run began."""
        self.traffic: dict[str, list[int]] = {}
        """Bytes received and sent by the coordinator, by purpose."""

    def run(self) -> State:
        """All rounds; ledger and metrics are written as in any run. Raises whatever ends a peer."""
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(self.simulate())
        return self.state

    def events(self) -> Generator[Event, None, None]:
        """What happens, as `together` tells it."""
        with closing(together([self])) as happens:
            for _, event in happens:
                yield event

    async def simulate(self) -> None:
        """The same, in an event loop of virtual time."""
        identity = load_or_create(self.folder.coordinator_key)
        keys = [load_or_create(self.folder.peer(n) / "key") for n in range(len(self.workers))]
        ledger = Ledger(self.folder.ledger, identity.sign, self.folder.dropped)
        self._enlist(ledger, keys)
        network = Network()
        node = Node(
            network.endpoint(identity), identity, self.folder, ledger, self.spec, self.layout,
            (identity.id, []), self._record, self._say,
        )  # fmt: skip
        serving = asyncio.create_task(node.serve())
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(node.run())
                peers = [
                    tasks.create_task(self._take_part(n, key, network, identity.id))
                    for n, key in enumerate(keys)
                ]
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            serving.cancel()
            ledger.close()
        self.clock, self.traffic = self._before + clock.now(), node.account(0).traffic
        self.state = peers[0].result()

    def _enlist(self, ledger: Ledger, keys: Sequence[Identity]) -> None:
        """Give each peer the index that its link and its speed go by, whoever comes first."""
        if not any(True for _ in ledger.entries(PeerEntry)):
            for index, key in enumerate(keys):
                ledger.append(0, PeerEntry(index, key.id))

    async def _take_part(self, n: int, key: Identity, network: Network, to: str) -> State:
        """Peer number n, to the end of the run; returns its last state."""
        peer = Peer(
            key, self.workers[n], self.state, self.folder.peer(n), self.folder, (to, []),
            self.folder.read_secret(), self._say, writes=self.spec.only_writes(n),
        )  # fmt: skip
        endpoint = network.endpoint(key, self.links[n])
        try:
            await peer.run_over(endpoint)
        finally:
            await endpoint.close()
        return peer.state

    def _record(self, event: Event) -> None:
        if isinstance(event, RoundClosed):
            event = msgspec.structs.replace(event, virtual_clock=self._before + clock.now())
        self.folder.record(event)
        self._tell(event)

    def _say(self, text: str) -> None:
        self._tell(Said(text))

    def _tell(self, event: Event) -> None:
        self.tell(event)


def together(runs: Sequence[Simulation]) -> Generator[tuple[int, Event], None, None]:
    """What happens in runs that are simulated at the same time, by their place among them, as it happens: they stand
    still until the next event is asked for. To close the iterator stops them in order. Raises whatever ends a peer.

    They have a thread of their own, because the caller may be in an event loop (a notebook is).
    """
    told: queue.SimpleQueue[tuple[int, Event] | None] = queue.SimpleQueue()
    go_on, ended = threading.Semaphore(0), threading.Event()
    task: asyncio.Task[None] | None = None

    def tell(place: int, event: Event) -> None:
        if not ended.is_set():
            told.put((place, event))
            go_on.acquire()
        if ended.is_set() and task and not task.cancelling():
            task.cancel()

    async def simulate() -> None:
        nonlocal task
        task = asyncio.current_task()
        try:
            async with asyncio.TaskGroup() as tasks:
                for run in runs:
                    tasks.create_task(run.simulate())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                runner.run(simulate())
        finally:
            told.put(None)

    for place, run in enumerate(runs):
        run.tell = partial(tell, place)
    with ThreadPoolExecutor(1) as thread:
        final = thread.submit(work)
        try:
            while (event := told.get()) is not None:
                yield event
                go_on.release()
            final.result()
        finally:
            ended.set()
            go_on.release()


class SimulatedWorker(Worker):
    """A worker whose work takes virtual time. states: those that some peer has computed, by round; as
    all peers reach the same ones, each is computed once."""

    def __init__(
        self, spec: RunSpec, layout: Layout, learner: Learner,
        peer: int, pace: float | None, costs: Costs, states: dict[int, State], tell: Tell,
    ) -> None:  # fmt: skip
        super().__init__(spec, layout, learner)
        self.peer, self.costs, self.states, self.tell = peer, costs, states, tell
        self.pace = pace or 0.0

    def train(
        self,
        state: State,
        span: Span,
        report: Report | None = None,
        begun: Trained | None = None,
        given: Given | None = None,
    ) -> Trained:
        before, done = (begun.seconds, begun.steps) if begun else (0.0, 0)
        told: dict[int, float] = {}
        trained = super().train(state, span, self._shown(state.round, told), begun, given)
        steps, kind = span.steps - done, "step, others having written" if given else "step"
        seconds = trained.seconds - before
        trained.seconds = before + self._take_time(seconds, steps, told, report, kind)
        return trained

    def write(self, state: State, peer: int, span: Span, report: Report | None = None) -> Wrote:
        told: dict[int, float] = {}
        made = super().write(state, peer, span, self._shown(state.round, told, "writing"))
        self._take_time(made.seconds, span.steps, told, report, "written step")
        return made

    def ahead(self, state: State, span: Span, report: Report | None = None) -> Trained:
        told: dict[int, float] = {}
        begun = super().ahead(state, span, self._shown(state.round + 1, told))
        begun.seconds = self._take_time(begun.seconds, begun.steps, told, report)
        return begun

    def _take_time(
        self,
        seconds: float,
        steps: int,
        told: dict[int, float],
        report: Report | None,
        kind: str = "step",
    ) -> float:
        """Let steps that are done take their virtual time, and report those that were told (step ->
        loss) when each would be done. kind: what was done in them."""
        if not steps:
            return 0.0
        took = self.pace * steps or self.costs.of(kind, seconds, steps)
        for step, loss in told.items():
            if report:
                asyncio.get_running_loop().call_later(took * step / steps, report, step, loss)
        spend(took)
        return took

    def compress(self, state: State, peer: int, trained: Trained) -> Contribution:
        made = super().compress(state, peer, trained)
        made.compress_seconds = self.costs.of("compress", made.compress_seconds)
        spend(made.compress_seconds)
        return made

    def advance(self, state: State, closed: Closed, blobs: dict[str, bytes]) -> State:
        began = time.perf_counter()
        after = self.states.get(state.round + 1)
        if after is None:
            after = self.states[state.round + 1] = super().advance(state, closed, blobs)
            self.states.pop(state.round - 1, None)
        spend(self.costs.of("apply", time.perf_counter() - began))
        return after

    def evaluate(self, state: State, share: int, shares: int) -> tuple[float, int]:
        began = time.perf_counter()
        nats, tokens = super().evaluate(state, share, shares)
        if tokens:
            spend(self.costs.of("evaluate", time.perf_counter() - began, tokens))
        return nats, tokens

    def _shown(self, round_: int, told: dict[int, float], what: str = "training") -> Report:
        """Tells of every step as it is computed, and keeps its loss."""

        def stepped(step: int, loss: float) -> None:
            doing = PeerProgress(self.peer, what, step, loss if isfinite(loss) else None)
            self.tell(Progress(round_, [doing]))
            told[step] = loss

        return stepped
