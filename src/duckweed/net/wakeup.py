"""Waking those who wait for a change."""

import asyncio

from duckweed.net.timeouts import within


class Wakeup:
    """A condition without a predicate: tasks that wait are woken and check what has changed."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()

    async def notify(self) -> None:
        async with self._condition:
            self._condition.notify_all()

    async def wait(self, seconds: float) -> bool:
        """Until the next `notify`; False if there was none within `seconds`."""
        try:
            async with self._condition:
                await within(seconds, self._condition.wait())
        except TimeoutError:
            return False
        return True
