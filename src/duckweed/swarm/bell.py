"""Waking those who wait for a change."""

import asyncio


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
                await asyncio.wait_for(self._condition.wait(), seconds)
        except TimeoutError:
            return False
        return True
