"""A run on this machine: one coordinator and several peers as processes, watched by this one."""

import logging
import math
import queue
import signal
import threading
import time
from collections.abc import Generator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from duckweed.learn.fit import ANY, Wish
from duckweed.net.timeouts import PROCESS_GRACE, PROCESS_SILENT, VIEW
from duckweed.process import environment, forkserver
from duckweed.process.child import FORESEEN, Child, ExitCode, end
from duckweed.process.forkserver import ForkServer
from duckweed.run import events
from duckweed.run.events import Event, ProcessFailed, Serving
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec

E = TypeVar("E", bound=Event)
log = logging.getLogger(__name__)
ENTRY = "duckweed.process.entry"

NO_LOOPBACK = (
    "the processes of this machine cannot reach each other: a packet to 127.0.0.1 does not come back. Either "
    "the loopback interface is down (`ip link show lo` tells, `ip link set lo up` mends it), or a firewall "
    "drops UDP on it (`nft list ruleset` tells). Nothing is lost; once it is mended, go on with --resume"
)


class RunFailed(RuntimeError):
    """A process of the run ended with an error; the message is its own."""


class _Ended(NamedTuple):
    """The process of a coordinator or a peer has ended."""

    role: str
    slot: int
    code: int


class LocalRun:
    """The processes of one run. A context manager: on leaving, every process is ended."""

    def __init__(
        self,
        folder: RunFolder,
        spec: RunSpec,
        device: str,
        threads: int,
        peers: int,
        wish: Wish = ANY,
        forks: ForkServer | None = None,
    ) -> None:
        """wish: of the memory of each peer; forks: starts the peers, where one is running already."""
        self.folder, self.spec, self.device, self.threads = folder, spec, device, threads
        self.peers, self.wish = peers, wish
        self._forks, self._owned = forks, forks is None
        """Only without an accelerator: its driver does not stand a fork."""
        self._told: queue.SimpleQueue[Event | _Ended] = queue.SimpleQueue()
        self._children: dict[str, Child] = {}
        self._running = 0
        self._slots: set[int] = set()  # peers that run
        self._led = math.inf  # when the coordinator ended
        self._lost = 0  # processes that ended with an error
        self._last = time.monotonic()  # when something was heard
        self._failed: set[tuple[str, int]] = set()  # who has told why it ended

    def __enter__(self) -> "LocalRun":
        # kill is answered like Ctrl-C: the processes are ended in order. Only a main thread may say so.
        self._before = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        end(self._children.values(), PROCESS_GRACE)
        if self._forks and self._owned:
            self._forks.close()

    def start(
        self,
        address: str = "127.0.0.1:0",
        relays: Sequence[str] = (),
        relay_port: int | None = None,
        stays: bool = False,
    ) -> Serving:
        """Start the coordinator, and the peers once it listens. relays: URLs of those elsewhere;
        relay_port: TCP port of one beside the coordinator, 0: any, None: there is none; stays: it answers
        until it is ended, though all rounds are done. Raises RunFailed."""
        if self.peers and not environment.loopback_works():
            raise RunFailed(NO_LOOPBACK)
        beside = [] if relay_port is None else ["--relay-port", str(relay_port)]
        beside += ["--stays"] if stays else []
        if self.device != "cpu":
            self._forks = None
        elif self.peers and not self._forks:
            self._forks = ForkServer(environment.of_child(self.threads))
        self._launch("coordinator", 0, "--address", address, "--relays", *relays, *beside)
        serving = self._wait_for(Serving)
        bound = (a.rpartition(":") for a in serving.bound if not a.startswith("["))
        self._at = [serving.id, "--addresses", *(f"127.0.0.1:{port}" for _, _, port in bound)]
        for slot in range(self.peers):
            self.enlist(slot)
        return serving

    def enlist(self, slot: int) -> None:
        """Let one more peer of this machine take part, once the run is started; of one slot there is one at a time."""
        self._launch(
            "peer", slot, "--slot", str(slot), "--device", self.device,
            *self._wished(), *["--measure"] * (self.peers < self.spec.rounds.peers),
            "--coordinator", *self._at,
        )  # fmt: skip

    def dismiss(self, slot: int) -> None:
        """Ask a peer of this machine to end; it is in `slots` until it has."""
        self._children[_name("peer", slot)].terminate()

    @property
    def slots(self) -> set[int]:
        """Of the peers of this machine that have not ended, as far as was heard."""
        return set(self._slots)

    def events(self) -> Generator[Event, None, None]:
        """What happens, until all processes have ended. Raises RunFailed if none can go on."""
        while not self.over:
            yield from self.heard(VIEW)

    @property
    def over(self) -> bool:
        """Whether all processes have ended, and what they told was heard."""
        return not self._running

    def heard(self, seconds: float) -> Generator[Event, None, None]:
        """What has happened, waited for at most so many seconds. Raises RunFailed if no process can go on, or
        nothing is heard for too long."""
        while not self.over and (event := self._next_event(seconds)) is not None:
            if isinstance(event, ProcessFailed):
                self._lost += 1
                if event.role == "coordinator" or self._lost == self.peers:
                    raise RunFailed(event.reason)
            yield event
            seconds = 0.0

    def _wished(self) -> list[str]:
        micro, room = self.wish.micro, self.wish.room
        said = ["--micro", "auto" if micro is None else str(micro)]
        said += ["--compile"] if self.wish.compile else []
        return said if room is None else [*said, "--room", str(room)]

    def _next_event(self, seconds: float = VIEW) -> Event | None:
        """The next event; None after the last, or where none comes for so many seconds. Raises RunFailed if
        nothing is heard for too long."""
        closes = time.monotonic() + seconds
        if time.monotonic() - self._led > PROCESS_GRACE:
            self._send_home()
        while True:
            try:
                told = self._told.get(timeout=max(0.0, closes - time.monotonic()))
            except queue.Empty:
                break
            self._last = time.monotonic()
            if not isinstance(told, _Ended):
                if isinstance(told, ProcessFailed):
                    self._failed.add((told.role, told.slot))
                return told
            self._running -= 1
            if told.role == "peer":
                self._slots.discard(told.slot)
            else:
                self._led = time.monotonic()
            silent = told.code == ExitCode.FAILED and (told.role, told.slot) not in self._failed
            if silent or told.code not in FORESEEN:
                name = _name(told.role, told.slot)
                reason = f"{name} ended with code {told.code:d}; see {self.folder.logs}"
                return ProcessFailed(told.role, told.slot, reason)
            if not self._running:
                return None
        if time.monotonic() - self._last > PROCESS_SILENT:
            raise RunFailed(f"no sign of life for {PROCESS_SILENT:.0f} s; see {self.folder.logs}")
        return None

    def _send_home(self) -> None:
        """Who came as the coordinator ended, all rounds being done, would look for it for good."""
        for slot in self._slots:
            self.dismiss(slot)

    def _wait_for(self, kind: type[E]) -> E:
        while not self.over:
            event = self._next_event(VIEW)
            if isinstance(event, ProcessFailed):
                raise RunFailed(event.reason)
            if isinstance(event, kind):
                return event
        raise RunFailed(
            f"the coordinator ended at once; see {self.folder.logs / 'coordinator.log'}"
        )

    def _launch(self, role: str, slot: int, *more: str) -> None:
        name = _name(role, slot)
        words = [role, str(self.folder.path), *more]
        log = self.folder.logs / f"{name.replace(' ', '-')}.log"
        if self._forks and role == "peer":
            process = self._forks.start(ENTRY, words, log)
        else:  # a coordinator needs nothing of what a fork server has loaded
            process = forkserver.start(ENTRY, words, environment.of_child(self.threads), log)
        self._children[name] = Child(
            name,
            process,
            lambda line: self._hear(name, line),
            lambda code: self._told.put(_Ended(role, slot, code)),
        )
        self._running += 1
        if role == "peer":
            self._slots.add(slot)

    def _hear(self, name: str, line: bytes) -> None:
        try:
            event = events.decode(line)
        except msgspec.ValidationError as error:
            log.warning("%s told something that makes no sense (%s): %r", name, error, line)
            return
        if event is None:
            log.warning("%s wrote a line that is no event: %r", name, line)
        else:
            self._told.put(event)


def _name(role: str, slot: int) -> str:
    return f"peer {slot}" if role == "peer" else role
