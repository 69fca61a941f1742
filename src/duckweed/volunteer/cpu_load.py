"""How busy other programs keep this machine."""

import os
import time

import psutil

from duckweed.net.timeouts import LOAD_SPAN

BUSY, IDLE = 0.5, 0.25  # share of all cores used by others: pause above, resume below


class Load:
    """Asked again and again, it says how much of the machine programs other than this one use."""

    def __init__(self) -> None:
        self._last = _used()
        self._others = 0.0

    def others(self) -> float:
        """Share of all cores that other programs used in the last seconds, 0 to 1."""
        now, whole, own = _used()
        before, whole_before, own_before = self._last
        if now - before < LOAD_SPAN:
            return self._others
        used = (whole - whole_before) - (own - own_before)
        self._others = max(0.0, used / (now - before) / cores())
        self._last = now, whole, own
        return self._others


def cores() -> int:
    return psutil.cpu_count() or 1


def _used() -> tuple[float, float, float]:
    """Now; seconds of processor time that all programs have used since the machine started; and
    those that this program has used."""
    own, whole = os.times(), psutil.cpu_times()
    interrupts = getattr(whole, "irq", 0.0) + getattr(whole, "softirq", 0.0)
    busy = whole.user + whole.system + getattr(whole, "nice", 0.0) + interrupts
    return time.monotonic(), busy, own.user + own.system
