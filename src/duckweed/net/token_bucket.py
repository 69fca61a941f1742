"""Token buckets: a rate per second, and a burst. They go by the monotonic clock."""

import asyncio

from duckweed.net import clock


class Bucket:
    """Holds up to `burst` tokens and gains `rate` of them a second. Begins full."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self._held, self._looked = burst, clock.now()

    def take(self, count: float = 1.0) -> bool:
        """Take tokens if they are there."""
        self._fill()
        if self._held < count:
            return False
        self._held -= count
        return True

    async def spend(self, count: float) -> None:
        """Take tokens, on credit if need be, and wait until the debt is paid."""
        self._fill()
        self._held -= count
        if self._held < 0:
            await asyncio.sleep(-self._held / self.rate)

    @property
    def full(self) -> bool:
        """Whether it holds as many tokens as when it was made, so that it may be forgotten."""
        self._fill()
        return self._held >= self.burst

    def _fill(self) -> None:
        now = clock.now()
        self._held = min(self.burst, self._held + (now - self._looked) * self.rate)
        self._looked = now


class Pace:
    """How fast bodies may leave and arrive: bytes a second each way, None: as fast as it goes. Set
    anew while running: `up` and `down` take effect with the next piece."""

    def __init__(self) -> None:
        self._up: Bucket | None = None
        self._down: Bucket | None = None

    def limit(self, up: float | None, down: float | None) -> None:
        """Bytes a second; None: no limit."""
        self._up, self._down = _bucket(self._up, up), _bucket(self._down, down)

    @property
    def piece(self) -> int:
        """Bytes to send or read at a time, so that a slow link still shows a sign every second."""
        slowest = min((b.rate for b in (self._up, self._down) if b), default=float("inf"))
        return int(min(1 << 20, max(1 << 12, slowest / 2)))

    async def sent(self, count: int) -> None:
        """Wait until `count` bytes that were sent fit the limit."""
        if self._up:
            await self._up.spend(count)

    async def received(self, count: int) -> None:
        if self._down:
            await self._down.spend(count)


def _bucket(now: Bucket | None, rate: float | None) -> Bucket | None:
    if rate is None:
        return None
    return now if now and now.rate == rate else Bucket(rate, rate / 4)
