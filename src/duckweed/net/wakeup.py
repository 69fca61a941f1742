"""Waking those who wait for a change."""

import asyncio

from duckweed.net.timeouts import within


class Bell:
    """Whoever waits is woken by a ring, and looks for itself what has changed."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()

    async def ring(self) -> None:
        async with self._condition:
            self._condition.notify_all()

    async def wait(self, seconds: float) -> bool:
        """Until the next ring; False if there was none for so long."""
        try:
            async with self._condition:
                await within(seconds, self._condition.wait())
        except TimeoutError:
            return False
        return True
