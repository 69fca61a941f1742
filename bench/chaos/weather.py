"""A storm that passes over a run."""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bench.chaos.arena import Arena
from bench.chaos.storm import Blow

PATIENCE = 240.0  # seconds without a closed round after which the run is given up
HOMEWARD = 30.0  # seconds for the peers to end after the coordinator


class Weather:
    """What is still to fall, and what has to be undone. The log, `storm.jsonl`, is what
    `storm.read` reads."""

    def __init__(
        self, arena: Arena, blows: Sequence[Blow], head: dict[str, Any], tell: Callable[[str], None]
    ) -> None:
        self.arena, self.tell = arena, tell
        self.fallen: dict[str, str] = {}  # host -> last words of a peer that ended by itself
        self._waiting = list(blows)
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._down: set[str] = set()
        self._closed = 0
        self._log = (arena.place / "storm.jsonl").open("a")
        self._note(head)

    def passes(self) -> None:
        """Watch over the run until it ends. Raises RuntimeError if it does not go on."""
        closes = time.monotonic() + PATIENCE
        while not self._ended():
            if (closed := self.arena.closed()) > self._closed:
                self._closed, closes = closed, time.monotonic() + PATIENCE
            if time.monotonic() > closes:
                raise RuntimeError(f"no round closed for {PATIENCE:.0f} s; see {self.arena.place}")
            self._gather()
            self._fall()
            time.sleep(0.05)
        for host in self.arena.peers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.arena.processes[host].wait(HOMEWARD)

    def _gather(self) -> None:
        for blow in [b for b in self._waiting if b.after < self._closed]:
            self._waiting.remove(blow)
            self._later(blow.delay, lambda b=blow: self._strike(b))

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._due.append((time.monotonic() + seconds, what))

    def _fall(self) -> None:
        now = time.monotonic()
        due = [one for one in self._due if one[0] <= now]
        self._due = [one for one in self._due if one[0] > now]
        for _, what in sorted(due, key=lambda one: one[0]):
            what()

    def _strike(self, blow: Blow) -> None:
        if blow.host in self._down:
            return  # nothing is there to be struck
        self._note({"blow": msgspec.to_builtins(blow), "round": self._closed})
        self.tell(f"round {self._closed}: {blow.kind} {blow.host} for {blow.lasts} s")
        undo = self.arena.strike(blow)
        if blow.kind == "kill":
            self._down.add(blow.host)
        self._later(blow.lasts, lambda: self._over(blow, undo))

    def _over(self, blow: Blow, undo: Callable[[], None]) -> None:
        if blow.kind == "kill":
            self._down.discard(blow.host)
        undo()

    def _ended(self) -> bool:
        """Whether the coordinator is done. Raises RuntimeError if it failed by itself."""
        for host, process in self.arena.processes.items():
            if host in self._down or process.poll() is None:
                continue
            if host != self.arena.hub:
                if process.returncode and host not in self.fallen:
                    words = self.arena.said(host).strip().splitlines()
                    self.fallen[host] = words[-1] if words else f"code {process.returncode}"
            elif process.returncode:
                raise RuntimeError(f"the coordinator ended:\n{self.arena.said(host)[-2000:]}")
            else:
                return True
        return False

    def _note(self, line: dict[str, Any]) -> None:
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()
