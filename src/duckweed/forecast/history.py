"""The front's level over time, for actors that learn from it late and for lags on the calendar."""

import numpy as np

from duckweed.forecast.law import Array


class Front:
    """The front's level over time, per sample, for looking back.

    Between two points the path is a parabola that leaves the first with the right speed.
    """

    def __init__(self, level: Array, today: float) -> None:
        self.width, self.count, self.today = level.size, 0, today
        self.time, self.level, self.rate = (np.zeros((64, level.size)) for _ in range(3))
        self.start = level
        self.append(np.zeros_like(level), level, np.full_like(level, today))

    def append(self, time: Array, level: Array, rate: Array) -> None:
        """rate: the speed with which the front leaves this point."""
        if self.count == len(self.time):
            self.time, self.level, self.rate = (
                np.concatenate([a, np.empty_like(a)]) for a in (self.time, self.level, self.rate)
            )
        row = self.count
        self.time[row], self.level[row], self.rate[row] = time, level, rate
        self.count += 1

    def seen(self, when: Array, pointer: Array) -> Array:
        """Level at the times `when` [S] (not after now). Before the start the front moved at
        today's speed. `pointer` [S] (flat places in the history) only ever moves forward."""
        late = self.start
        if self.count > 1:
            stop, which = (self.count - 2) * self.width, np.arange(self.width)
            while which.size:  # only those that still have to move
                place = pointer[which]
                ahead = (place < stop) & (self.time.take(place + self.width) <= when[which])
                which = which[ahead]
                pointer[which] += self.width
            late = self._curve(self.time, self.level, when, pointer, inverse=False)
        return np.where(when < 0, self.start + self.today * when, late)

    def reached(self, level: Array, which: Array) -> Array:
        """When the front stood at `level` (not above its present one), for the samples `which`."""
        early = (level - self.start[which]) / self.today
        low, high = np.zeros_like(which), np.full_like(which, self.count - 1)
        for _ in range((self.count - 1).bit_length()):
            middle = (low + high) // 2
            below = self.level.take(middle * self.width + which) <= level
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        place = np.minimum(low, self.count - 2) * self.width + which
        late = self._curve(self.level, self.time, level, place, inverse=True)
        return np.where(level < self.start[which], early, late)

    def keep(self, which: Array) -> None:
        """Forget all other samples."""
        self.time, self.level, self.rate = (
            a[: self.count].take(which, axis=1) for a in (self.time, self.level, self.rate)
        )
        self.start, self.width = self.start[which], which.size

    def _curve(self, grid: Array, value: Array, at: Array, place: Array, inverse: bool) -> Array:
        low, first, after = grid.take(place), value.take(place), place + self.width
        width = np.maximum(grid.take(after) - low, 1e-300)
        rise = np.maximum(value.take(after) - first, 1e-300)
        rate = self.rate.take(place)
        bow = width / np.maximum(rise * rate, 1e-300) if inverse else width * rate / rise
        part = np.minimum(np.maximum((at - low) / width, 0.0), 1.0)
        return first + rise * part * (1.0 + np.clip(bow - 1.0, -1.0, 1.0) * (1.0 - part))
