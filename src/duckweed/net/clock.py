"""The clock that peers and coordinators go by: that of the event loop, so that a simulation can let virtual time pass."""

import asyncio
import time


def now() -> float:
    """Seconds on the running event loop's clock; outside of one, and in other threads, the
    monotonic clock, which is what a loop has unless it is a `net.virtual.VirtualLoop`."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()
