"""Holds a peer to what its volunteer allows: pauses it, ends it, limits links, memory and disk.

Wishes come as files in the peer's folder, so that they need no open port and outlive a restart:
`controls.toml` (with `paused`) and `leave`.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from duckweed.net.timeouts import CONTROLS_CHECK, FINISH_BLOCK
from duckweed.net.token_bucket import Pace
from duckweed.run.folder import RunFolder
from duckweed.swarm.protocol.errors import HandedBack
from duckweed.volunteer import controls as files
from duckweed.volunteer.controls import Controls, ControlsError
from duckweed.volunteer.cpu_load import BUSY, IDLE, Load

LEAVE = "leave"


class Watch:
    """Watches the files in the folder of one peer (`home`) and what they ask of it."""

    def __init__(self, home: Path, say: Callable[[str], None]) -> None:
        self.home, self.say = home, say
        self.pace = Pace()
        """How fast bodies may be sent and received now."""
        self.controls = Controls()
        self.steps = 0
        """Inner steps of the block that is being trained."""
        self.ended = False
        """Whether the peer has ended: then a block still in training ends with its next step."""
        self._load = Load()
        self._busy = False
        self._looked = -CONTROLS_CHECK  # monotonic time at which the controls were last looked at
        self._stamp: tuple[int, int] | None = None  # of the file of controls that was read last
        self._began = (0.0, 0)  # monotonic time, and number of steps done, when the block began
        (home / LEAVE).unlink(missing_ok=True)
        self.look()

    # --- what the volunteer wants

    def look(self) -> None:
        """Read the controls if they were changed. A file that cannot be read changes nothing, and the
        volunteer is told."""
        now = time.monotonic()
        if now - self._looked < CONTROLS_CHECK:
            return
        self._looked = now
        stamp = _stamp(self.home / files.FILE)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.controls = files.load(self.home)
        except ControlsError as error:
            self.say(f"{error}; the controls stay as they were")
            return
        self.pace.limit(self.controls.up_bytes, self.controls.down_bytes)

    def leaving(self) -> bool:
        """Whether `duckweed leave` was said."""
        return (self.home / LEAVE).exists()

    def pausing(self) -> str | None:
        """Why the peer should not work at this moment; None if it should."""
        self.look()
        if self.controls.paused:
            return "paused by its volunteer"
        if self.controls.hours and not files.within(self.controls.hours, time.localtime()):
            return f"outside its hours ({self.controls.hours})"
        if not self.controls.pause_when_busy:
            return None
        self._busy = self._load.others() > (IDLE if self._busy else BUSY)
        return "other programs need the machine" if self._busy else None

    def stepped(self, step: int) -> None:
        """Called after every inner step of a block of `steps`. Raises HandedBack if the volunteer
        wants the machine and the rest of the block would take long."""
        now = time.monotonic()
        if step <= 1:
            self._began = now, step
        if self.ended:
            raise HandedBack
        if not (self.leaving() or self.pausing()):
            return
        began, first = self._began
        pace = (now - began) / max(1, step - first)
        if step == first or pace * (self.steps - step) > FINISH_BLOCK:
            raise HandedBack

    # --- the machine

    def tidy(self, folder: RunFolder) -> None:
        """Remove files until the folder is within its share of the disk: blobs first, then all states
        but the newest; the oldest of each first."""
        limit = self.controls.disk_bytes
        if limit is None:
            return
        over = used(folder.path) - limit
        kept = folder.saved_rounds()[-1:]
        spare = [p for p in folder.states.glob("*.safetensors") if p.stem.isdigit()]
        spare = [p for p in spare if int(p.stem) not in kept]
        for path in [*_by_age(folder.blobs.glob("*")), *_by_age(spare)]:
            if over <= 0:
                return
            with contextlib.suppress(OSError):
                over -= path.stat().st_size
                path.unlink()


def used(folder: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def ask_to_leave(home: Path) -> None:
    """Let the peer of this folder hand back its work and end."""
    (home / LEAVE).touch()


def hold_to(controls: Controls, device: str) -> None:
    """Set what must be set before the work begins: priority and, on Linux, a limit on the memory that
    this process may allocate; an allocation beyond the limit fails, and the machine goes on."""
    process = psutil.Process()
    if controls.nice and sys.platform == "win32":
        lowest, lower = psutil.IDLE_PRIORITY_CLASS, psutil.BELOW_NORMAL_PRIORITY_CLASS
        process.nice(lowest if controls.nice >= 10 else lower)
    elif controls.nice:
        process.nice(max(process.nice(), controls.nice))
    if controls.memory_bytes and sys.platform == "linux" and device == "cpu":
        _, hard = process.rlimit(psutil.RLIMIT_DATA)
        wanted = int(controls.memory_bytes)
        if hard != psutil.RLIM_INFINITY:
            wanted = min(wanted, hard)
        process.rlimit(psutil.RLIMIT_DATA, (wanted, hard))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_ino


def _by_age(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found)]
