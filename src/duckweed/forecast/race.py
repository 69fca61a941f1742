"""The race: a leader and followers, integrated over many samples at once.

Each sample takes its own steps: as long as the calendar wants where progress is slow, as short as
the fastest actor needs where it explodes. Inside a step the exponential slope k of the law is
constant, which has an exact solution, x(t+h) = x - ln(1 - k v h)/k, so that a take-off costs a
few dozen steps and not millions. Past `CAP` doublings an actor without ceiling counts as diverged.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from duckweed.forecast.law import Array, Law, slope, speed

CAP = 512.0
"""Doublings (64 years of today's progress) at which a sample is said to diverge."""

CHUNK = 1024
MAX_STEPS = 4000
ROOM = 0.25
"""Part of the way to the ceiling that one step may go, at step = 1."""
SHORTEST = 1 / 52
"""Years: news that travel faster than a week are looked at once a week."""


class Actors(msgspec.Struct, frozen=True):
    """A leader and followers; arrays of shape [A, S] (or [A, 1] where all samples agree).

    compute: share of research compute relative to the leader; skill: productivity per unit;
    behind: start lag in years; leak: share of the front's progress that reaches this actor;
    delay: after how many years; imitate: how many times cheaper it is to repeat than to discover.
    Actor 0 is the leader: behind = 0, nothing leaks to it while it is in front.
    """

    names: list[str]
    compute: Array
    skill: Array
    behind: Array
    leak: Array
    delay: Array
    imitate: Array

    def take(self, keep: Array) -> "Actors":
        fields = (self.compute, self.skill, self.behind, self.leak, self.delay, self.imitate)
        return Actors(self.names, *(f if f.shape[1] == 1 else f[:, keep] for f in fields))


class Cut(msgspec.Struct, frozen=True):
    """Access restricted between two times (years): nothing leaks to, and nothing can be imitated
    by, the actors it hits."""

    start: float
    end: float
    hits: tuple[int, ...]


class Shock(msgspec.Struct, frozen=True):
    """An actor's compute is multiplied by `factor` from `at` (years) on."""

    at: float
    actor: int
    factor: float


class Paradigm(msgspec.Struct, frozen=True):
    """A new paradigm: at a random time (exponential, `hazard` a year) all actors stand level at
    the front's height, and one finder, drawn in proportion to effort, `jump` doublings above."""

    hazard: float
    jump: float


class Events(msgspec.Struct, frozen=True):
    cuts: tuple[Cut, ...] = ()
    shocks: tuple[Shock, ...] = ()
    paradigm: Paradigm | None = None


class Track(msgspec.Struct, frozen=True):
    """What a race gave. times: [T] years; level: [T, A, S] doublings; lag: [T, A, S] calendar
    years behind the front (nan-free: 0 for the front); peak: [A, S] largest distance to the
    front in doublings up to the horizon; diverges: [S] year of divergence, inf if it never does;
    finder: [S] who found the new paradigm, -1 if nobody did; v0, w: as in the law."""

    times: Array
    level: Array
    lag: Array
    peak: Array
    diverges: Array
    finder: Array
    today: float

    def gap_years(self, share: float, compute_rate: float, behind: Array) -> Array:
        """Progress gap [T, A, S] in years of today's progress: software distance times the
        software share, plus what the start lag is worth in compute growth."""
        front = self.level.max(axis=1, keepdims=True)
        return share * (front - self.level) / self.today + (1 - share) * compute_rate * behind

    def peak_years(self, share: float, compute_rate: float, behind: Array) -> Array:
        """The same for the largest gap on the way, shape [A, S]."""
        return share * self.peak / self.today + (1 - share) * compute_rate * behind


def run(
    law: Law,
    actors: Actors,
    times: Sequence[float],
    events: Events = Events(),
    seed: int = 0,
    step: float = 0.5,
) -> Track:
    """Integrate all samples from 0 to the last of `times` (years, ascending, > 0).

    step: how much of the way to the local blow-up one step may go (0 < step < 1); smaller is
    more exact. Deterministic in (arguments, seed).
    """
    samples = np.asarray(law.returns).shape[0]
    rng = np.random.default_rng(seed)
    wait, draw = rng.exponential(1.0, samples), rng.random(samples)
    # neighbours in a chunk wait for each other: put samples of the same haste together
    order = np.argsort(slope(law, np.zeros(samples)) * speed(law, np.zeros(samples)))
    parts = []
    for low in range(0, samples, CHUNK):
        keep = order[low : low + CHUNK]
        chunk = _Chunk(law.take(keep), actors.take(keep), np.array(times), events, step)
        parts.append(chunk.race(wait[keep], draw[keep]))
    back = np.argsort(order)
    return Track(
        times=np.array(times),
        level=np.concatenate([p.level for p in parts], axis=2)[:, :, back],
        lag=np.concatenate([p.lag for p in parts], axis=2)[:, :, back],
        peak=np.concatenate([p.peak for p in parts], axis=1)[:, back],
        diverges=np.concatenate([p.diverges for p in parts])[back],
        finder=np.concatenate([p.finder for p in parts])[back],
        today=law.today,
    )


class _Front:
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

    def _curve(self, grid: Array, value: Array, at: Array, place: Array, inverse: bool) -> Array:
        low, first, after = grid.take(place), value.take(place), place + self.width
        run_ = np.maximum(grid.take(after) - low, 1e-300)
        rise = np.maximum(value.take(after) - first, 1e-300)
        leave = run_ / rise
        bow = leave / self.rate.take(place) if inverse else leave * self.rate.take(place)
        part = np.minimum(np.maximum((at - low) / run_, 0.0), 1.0)
        return first + rise * part * (1.0 + np.clip(bow - 1.0, -1.0, 1.0) * (1.0 - part))


class _Pace:
    """The law's slope with everything that does not depend on x computed once."""

    def __init__(self, law: Law) -> None:
        self.law = law
        self.gain = (law.full - law.start) / law.span
        self.jump = self.gain * np.log(law.speedup)
        self.feedback = np.log(2) * law.parallel

    def slope(self, x: Array) -> Array:
        law = self.law
        share = law.start + self.gain * np.minimum(x, law.span)
        room = np.maximum(law.ceiling - x, 1e-6 * law.ceiling) * (law.returns / law.ceiling)
        k = self.feedback * share * (1.0 - 1.0 / room) + self.jump * (x < law.span)
        return k * (x >= 0)


class _Chunk:
    """A few thousand samples on their way from 0 to the horizon."""

    def __init__(
        self, law: Law, actors: Actors, times: Array, events: Events, step: float
    ) -> None:
        self.law, self.actors, self.times, self.events, self.step = law, actors, times, events, step
        self.pace = _Pace(law)
        samples = law.returns.size
        behind = np.broadcast_to(actors.behind, (len(actors.names), samples))
        self.x = -behind * law.today
        self.t = np.zeros(samples)
        self.top = np.minimum(law.ceiling * (1 - 1e-6), CAP)
        self.effort = actors.skill * np.broadcast_to(actors.compute, self.x.shape) ** law.parallel
        self.v = speed(law, self.x)
        self.k = self.pace.slope(self.x)
        self.front = _Front(self.x.max(axis=0), law.today)
        self.leaky = bool((actors.leak > 0).any() or (actors.imitate > 1).any())
        self.delay = np.broadcast_to(actors.delay, self.x.shape)
        leaks = np.where(actors.leak > 0, np.maximum(self.delay, SHORTEST), np.inf)
        self.patience = leaks.min(axis=0)  # no step outruns the news
        self.visible = self.front.start - self.delay * law.today
        self.pointers = np.tile(np.arange(samples), (len(self.x), 1))
        self.report = np.zeros(samples, dtype=np.int64)
        self.peak = self.x.max(axis=0) - self.x
        self.diverges = np.full(samples, np.inf)
        self.finder = np.full(samples, -1)
        cuts, shocks = events.cuts, events.shocks
        stops = {c.start for c in cuts} | {c.end for c in cuts} | {s.at for s in shocks}
        self.stops = np.array(sorted(stops))

    def race(self, wait: Array, draw: Array) -> Track:
        paradigm = self.events.paradigm
        change = wait / paradigm.hazard if paradigm and paradigm.hazard > 0 else np.inf * wait
        level = np.zeros((len(self.times), *self.x.shape))
        lag = np.zeros_like(level)
        for _ in range(MAX_STEPS):
            active = self.report < len(self.times)
            if not active.any():
                break
            due = self.times[np.minimum(self.report, len(self.times) - 1)]
            until = np.where(active, np.minimum(due, self._next_stop(change)), self.t)
            self._advance(until)
            self._new_paradigm(change, draw, active)
            self._measure(active)
            landed = np.flatnonzero(active & ((self.t >= due) | np.isfinite(self.diverges)))
            if landed.size:
                self._record(landed, level, lag)
        else:
            raise ArithmeticError("the race did not end; report the scenario that does this")
        return Track(
            self.times, level, lag, self.peak, self.diverges, self.finder, self.law.today
        )

    def _next_stop(self, change: Array) -> Array:
        stop = np.where(change > self.t, change, np.inf)
        if self.stops.size:
            place = np.searchsorted(self.stops, self.t, side="right")
            ends = np.append(self.stops, np.inf)
            stop = np.minimum(stop, ends[place])
        return stop

    def _advance(self, until: Array) -> None:
        """One step of every sample, at most to `until`."""
        x, now = self.x, self.v * self._effort()
        rate = self.k * now
        bend = now / (np.maximum(self.law.ceiling - x, 1e-300) * ROOM)
        # z = rate h must stay below 1, and the slope nearly constant on the way to the ceiling
        pull = np.where(x < self.top, np.maximum(np.maximum(rate, -0.5 * rate), bend), 0.0)
        h = np.minimum(until - self.t, self.step / np.maximum(pull.max(axis=0), 1e-300))
        h = np.minimum(h, self.patience)
        early = x < 0
        if early.any():
            landing = np.where(early, -x / now, np.inf).min(axis=0)
            h = np.minimum(h, landing * (1 + 1e-12))
        plain = now * h
        half = self.pace.slope(x + 0.5 * plain * _stretch(rate * h)) * ~early
        move = plain * _stretch(np.minimum(half * plain, 0.9))
        if self.leaky:
            move = np.maximum(move, self._learned(move, h) - x)
            half = self.pace.slope(x + 0.5 * move) * ~early
        self.x = np.minimum(x + move, self.top)
        k, landed = self.pace.slope(self.x), early & (self.x >= 0)
        self.v = self.v * np.exp((self.x - x) * (self.k + 4.0 * half + k) / 6.0)
        self.k = k
        if landed.any():  # the speed-up of automation sets in at zero
            self.v = np.where(landed, speed(self.law, self.x), self.v)
        self.t = np.where(h >= until - self.t, until, self.t + h)
        self._log_front()

    def _log_front(self) -> None:
        height = self.x.max(axis=0)
        rate = (self.v * self._effort() * (self.x == height)).max(axis=0)
        self.front.append(self.t, height, rate)

    def _learned(self, own: Array, h: Array) -> Array:
        """Where leak and imitation take each actor: up to what it can see of the front."""
        actors = self.actors
        when = np.minimum(self.t + h - self.delay, self.t)
        after = np.stack([self.front.seen(w, p) for w, p in zip(when, self.pointers, strict=True)])
        gained = self.x + own * actors.imitate + actors.leak * (after - self.visible)
        self.visible = after
        return np.where(self._open_to(), np.minimum(gained, after), -np.inf)

    def _open_to(self) -> Array:
        opened = np.ones(self.x.shape, dtype=bool)
        for cut in self.events.cuts:
            for hit in cut.hits:
                opened[hit] &= (self.t < cut.start) | (self.t >= cut.end)
        return opened

    def _effort(self) -> Array:
        if not self.events.shocks:
            return self.effort
        factor = np.ones(self.x.shape)
        for shock in self.events.shocks:
            factor[shock.actor] *= np.where(self.t >= shock.at, shock.factor, 1.0)
        return self.effort * factor**self.law.parallel

    def _new_paradigm(self, change: Array, draw: Array, active: Array) -> None:
        happens = active & (self.t >= change) & (self.finder < 0)
        if self.events.paradigm is None or not happens.any():
            return
        odds = np.cumsum(np.broadcast_to(self._effort(), self.x.shape), axis=0)
        finder = (draw * odds[-1] >= odds).sum(axis=0)
        height = self.x.max(axis=0)
        bonus = (np.arange(len(self.x))[:, None] == finder) * self.events.paradigm.jump
        self.x = np.where(happens, np.minimum(height + bonus, self.top), self.x)
        self.v, self.k = speed(self.law, self.x), self.pace.slope(self.x)
        self.finder = np.where(happens, finder, self.finder)
        self._log_front()

    def _measure(self, active: Array) -> None:
        height = self.x.max(axis=0)
        self.peak = np.maximum(self.peak, np.where(active, height - self.x, 0.0))
        over = active & (height >= CAP) & ~np.isfinite(self.diverges)
        self.diverges = np.where(over, self.t, self.diverges)

    def _record(self, landed: Array, level: Array, lag: Array) -> None:
        """Write down the landed samples; one that diverged stays as it is up to the horizon."""
        x, now = self.x[:, landed], self.t[landed]
        late = np.stack([now - self.front.reached(row, landed) for row in x])
        row = self.report[landed]
        level[row, :, landed], lag[row, :, landed] = x.T, late.T
        gone = np.isfinite(self.diverges[landed])
        for k in range(len(self.times)) if gone.any() else ():
            rest = gone & (row < k)
            level[k][:, landed[rest]], lag[k][:, landed[rest]] = x[:, rest], late[:, rest]
        self.report[landed] = np.where(gone, len(self.times), row + 1)


def _stretch(z: Array) -> Array:
    """-ln(1-z)/z, how much the exact step of dx/dt = v e^(kx) exceeds v h, with z = k v h; as the
    [2/3] Pade form, which is off by 4e-5 at z = 0.5 or -1 and by 1e-10 at 0.05."""
    return (60.0 - 60.0 * z + 11.0 * z * z) / (60.0 - 90.0 * z + 36.0 * z * z - 3.0 * z * z * z)
