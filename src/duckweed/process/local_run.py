"""A run on this machine: one coordinator and several peers as processes, watched by this one."""

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from duckweed.net.timeouts import PROCESS_GRACE, PROCESS_SILENT, VIEW
from duckweed.process import environment
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec


class RunFailed(RuntimeError):
    """A process of the run ended with an error; the message is its own."""


class LocalRun:
    """The processes of one run. A context manager: on leaving, every process is ended."""

    def __init__(
        self, folder: RunFolder, spec: RunSpec, device: str, threads: int, peers: int
    ) -> None:
        self.folder, self.spec, self.device, self.threads = folder, spec, device, threads
        self.peers = peers
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "LocalRun":
        # kill is answered like Ctrl-C: the processes are ended in order.
        self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)
        for process in self._processes.values():
            environment.ask_to_end(process)
        closes = time.monotonic() + PROCESS_GRACE
        for process in self._processes.values():
            try:
                process.wait(max(0.1, closes - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def start(
        self,
        address: str = "127.0.0.1:0",
        relays: Sequence[str] = (),
        relay_port: int | None = None,
    ) -> dict[str, Any]:
        """Start the coordinator, and the peers once it listens; returns its key ("id"), "addresses"
        and the port of its "relay". relay_port: where to run one, 0: any. Raises RunFailed."""
        beside = [] if relay_port is None else ["--relay-port", str(relay_port)]
        self._launch(
            "coordinator", "coordinator", "--address", address, "--relays", *relays, *beside
        )
        serving = self._wait_for("serving")
        bound = (a.rpartition(":") for a in serving["bound"] if not a.startswith("["))
        addresses = [f"127.0.0.1:{port}" for _, _, port in bound]
        for slot in range(self.peers):
            self._launch(
                f"peer {slot}", "peer", "--slot", str(slot), "--device", self.device,
                "--coordinator", serving["id"], "--addresses", *addresses,
            )  # fmt: skip
        return serving

    def events(self) -> Iterator[dict[str, Any]]:
        """What happens, until all processes have ended. Raises RunFailed if none can go on."""
        failed: list[str] = []
        while True:
            event = self._next_event()
            if event is None:
                break
            if event["event"] == "failed":
                failed.append(event["reason"])
                if event["role"] == "coordinator" or len(failed) == self.peers:
                    raise RunFailed(event["reason"])
            yield event

    def _next_event(self) -> dict[str, Any] | None:
        closes = time.monotonic() + PROCESS_SILENT
        while time.monotonic() < closes:
            try:
                return self._events.get(timeout=VIEW)
            except queue.Empty:
                if not any(p.poll() is None for p in self._processes.values()):
                    return None
        raise RunFailed(f"no sign of life for {PROCESS_SILENT:.0f} s; see {self.folder.logs}")

    def _wait_for(self, name: str) -> dict[str, Any]:
        while (event := self._next_event()) is not None:
            if event["event"] == "failed":
                raise RunFailed(event["reason"])
            if event["event"] == name:
                return event
        raise RunFailed(
            f"the coordinator ended at once; see {self.folder.logs / 'coordinator.log'}"
        )

    def _launch(self, name: str, role: str, *more: str) -> None:
        command = [sys.executable, "-m", "duckweed.process.entry", role, str(self.folder.path)]
        with (self.folder.logs / f"{name.replace(' ', '-')}.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, *more],
                stdin=subprocess.PIPE,  # held open: a process ends when this one does
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment.of_child(self.threads),
                **environment.detached(),
            )
        self._processes[name] = process
        assert process.stdout is not None
        threading.Thread(target=self._read, args=(name, process.stdout), daemon=True).start()

    def _read(self, name: str, stream: IO[bytes]) -> None:
        for line in stream:
            try:
                self._events.put(json.loads(line))
            except json.JSONDecodeError:
                continue
        role = name.split()[0]
        code = self._processes[name].wait()
        if code not in (0, 1, -signal.SIGTERM):
            slot = int(name.split()[1]) if role == "peer" else 0
            reason = f"{name} ended with code {code}; see {self.folder.logs}"
            self._events.put({"event": "failed", "role": role, "slot": slot, "reason": reason})
