"""How busy other programs keep this machine."""

import os
import time
from pathlib import Path

SPAN = 5.0  # seconds over which processor time is compared
BUSY, IDLE = 0.5, 0.25  # share of all cores used by others: pause above, resume below
STAT = Path("/proc/stat")


class Load:
    """Asked again and again, it says how much of the machine programs other than this one use."""

    def __init__(self) -> None:
        self._last = _used()
        self._others = 0.0

    def others(self) -> float:
        """Share of all cores that other programs used of late, 0 to 1."""
        now, whole, own = _used()
        before, whole_before, own_before = self._last
        if now - before < SPAN:
            return self._others
        if whole is None or whole_before is None:
            self._others = _from_load_average((own - own_before) / (now - before))
        else:
            used = (whole - whole_before) - (own - own_before)
            self._others = max(0.0, used / (now - before) / cores())
        self._last = now, whole, own
        return self._others


def cores() -> int:
    return os.cpu_count() or 1


def _used() -> tuple[float, float | None, float]:
    """Now; seconds of processor time that all programs have used since the start of the machine, None
    where the system does not tell; those of this one."""
    own = os.times()
    return time.monotonic(), _of_all(), own.user + own.system


def _of_all() -> float | None:
    """proc(5): user, nice, system, idle, iowait, irq, softirq, steal in clock ticks."""
    try:
        user, nice, system, _, _, irq, softirq, *_ = map(int, STAT.read_text().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _from_load_average(own: float) -> float:
    """The same from the load average of a minute less this program's own share of it."""
    try:
        return max(0.0, os.getloadavg()[0] - own) / cores()
    except OSError:
        return 0.0
