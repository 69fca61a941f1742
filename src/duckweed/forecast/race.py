"""The race: a leader and followers, integrated over many samples at once.

Each sample takes its own steps: as long as the calendar wants where progress is slow, as short as
the fastest actor needs where it explodes. Inside a step the exponential slope k of the law is
taken as constant, which has an exact solution, x(t+h) = x - ln(1 - k v h)/k, so that a take-off
costs a few dozen steps and not millions. An actor that passes `CAP` doublings diverges.
"""

from collections.abc import Sequence

import numpy as np

from duckweed.forecast.field import Actors, Events, Track
from duckweed.forecast.history import Front
from duckweed.forecast.law import Array, Law, slope, speed

CAP = 512.0
"""Doublings (64 years of today's progress) at which a sample is said to diverge."""
ROOM = 0.25
"""Part of the way to the ceiling that one step may go, at step = 1."""
SHORTEST = 1 / 52
"""Years: news that travel faster than a week are looked at once a week."""
LANES = 16384
MAX_STEPS = 20_000


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
    wait: Array = rng.exponential(1.0, (samples,))
    draw: Array = rng.random((samples,))
    # those in a hurry together, so that few wait for the last of their bundle
    order = np.argsort(slope(law, np.zeros(samples)) * speed(law, np.zeros(samples)))
    parts: list[Track] = []
    for low in range(0, samples, LANES):
        keep: Array = order[low : low + LANES]
        bundle = Bundle(law.take(keep), actors.take(keep), events, step)
        parts.append(bundle.race(np.array(times, dtype=float), wait[keep], draw[keep]))
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


class Pace:
    """The law's slope with everything that does not depend on x computed once."""

    def __init__(self, law: Law) -> None:
        self.law = law
        self.gain = (law.full - law.start) / law.span
        self.jump = self.gain * np.log(law.speedup)
        self.feedback = np.log(2) * law.parallel
        self.harder = law.ceiling / law.returns
        self.flat = not self.gain.any()

    def slope(self, x: Array, room: Array) -> Array:
        """d ln v / dx for x >= 0, where room = ceiling - x > 0."""
        if self.flat:
            return self.feedback * self.law.start * (1.0 - self.harder / room)
        share = self.law.start + self.gain * np.minimum(x, self.law.span)
        return self.feedback * share * (1.0 - self.harder / room) + self.jump * (x < self.law.span)


class Bundle:
    """Some thousand samples on their way from 0 to the horizon; those that arrive drop out.

    x, v, k: level, speed (effort included) and slope of the law, [A, S]; t: [S].
    """

    def __init__(self, law: Law, actors: Actors, events: Events, step: float) -> None:
        self.law, self.actors, self.events, self.step = law, actors, events, step
        self.pace, samples = Pace(law), law.returns.size
        start = np.broadcast_to(actors.behind, (len(actors.names), samples))
        self.x: Array = -start * law.today
        self.t = np.zeros(samples)
        self.effort = actors.skill * np.broadcast_to(actors.compute, self.x.shape) ** law.parallel
        self.top = np.minimum(law.ceiling * (1 - 1e-6), CAP)
        self.front = Front(self.x.max(axis=0), law.today)
        self.v, self.k = np.empty(self.x.shape), np.empty(self.x.shape)
        self._settle(np.ones(self.x.shape, dtype=bool))
        self.front.rate[0] = np.where(self.x == self.front.start, self.v, 0.0).max(axis=0)
        learns = (actors.leak > 0).any(axis=1) | (actors.imitate > 1).any(axis=1)
        self.learners = np.flatnonzero(learns)
        self.delay = np.broadcast_to(actors.delay, self.x.shape)
        self.visible = self.front.start - self.delay * law.today
        self.pointers = np.tile(np.arange(samples), (len(self.x), 1))
        leaks = np.where(actors.leak > 0, np.maximum(self.delay, SHORTEST), np.inf)
        self.patience = leaks.min(axis=0)  # no step outruns the news
        cuts, shocks = events.cuts, events.shocks
        stops = {c.start for c in cuts} | {c.end for c in cuts} | {s.at for s in shocks}
        self.stops = np.array([*sorted(stops), np.inf])

    def race(self, times: Array, wait: Array, draw: Array) -> Track:
        """wait: standard exponential, draw: uniform numbers [S] for a change of paradigm."""
        paradigm, samples = self.events.paradigm, self.t.size
        self.change = wait / paradigm.hazard if paradigm else np.full(samples, np.inf)
        self.draw, self.lane = draw, np.arange(samples)
        self.row = np.zeros(samples, dtype=np.int64)
        self.peak = self.x.max(axis=0) - self.x
        level = np.zeros((len(times), *self.x.shape))
        out = Track(
            times,
            level,
            np.zeros_like(level),
            self.peak.copy(),
            np.full(samples, np.inf),
            np.full(samples, -1),
            self.law.today,
        )
        for _ in range(MAX_STEPS):
            busy = self.row < len(times)
            if not busy.any():
                return out
            if busy.mean() < 0.7:
                self._drop(busy)
                busy = busy[busy]
            due = times[np.minimum(self.row, len(times) - 1)]
            self._advance(np.where(busy, np.minimum(due, self._next_stop()), self.t))
            self._happen(out)
            height = self.x.max(axis=0)
            np.maximum(self.peak, height - self.x, out=self.peak)
            gone = busy & (height >= CAP)
            out.diverges[self.lane[gone]] = self.t[gone]
            self._record(out, np.flatnonzero(busy & ((self.t >= due) | gone)), gone)
        raise ArithmeticError("the race did not end; please report the scenario")

    def _settle(self, which: Array) -> None:
        """Speed and slope from the law itself, where the mask `which` [A, S] says so."""
        lanes = np.flatnonzero(which.any(axis=0))
        law, x, here = self.law.take(lanes), self.x[:, lanes], which[:, lanes]
        effort = self.effort if self.effort.shape[1] == 1 else self.effort[:, lanes]
        k = Pace(law).slope(x, np.maximum(law.ceiling - x, 1e-300)) * (x >= 0)
        v = np.where(x >= self.top[lanes], 1e-300, speed(law, x) * effort)
        self.v[:, lanes] = np.where(here, v, self.v[:, lanes])
        self.k[:, lanes] = np.where(here, k, self.k[:, lanes])
        self.early = bool((self.x < 0).any())

    def _next_stop(self) -> Array:
        stop = self.stops[np.searchsorted(self.stops, self.t, side="right")]
        return np.minimum(stop, np.where(self.change > self.t, self.change, np.inf))

    def _advance(self, until: Array) -> None:
        """One step of every sample, at most to `until`."""
        x, v, k, law = self.x, self.v, self.k, self.law
        room = law.ceiling - x
        # z = k v h must stay below 1, and the slope nearly constant on the way to the ceiling
        pull = v * np.maximum(np.maximum(k, -0.5 * k), 1.0 / (ROOM * room))
        h = np.minimum(until - self.t, self.step / pull.max(axis=0))
        h = np.minimum(h, self.patience)
        early = x < 0 if self.early else None
        if early is not None:
            landing = np.where(early, -x / v, np.inf).min(axis=0)
            h = np.minimum(h, landing * (1 + 1e-12))
        if not self.pace.flat:  # nor does one step over the end of the ramp; (1-e^-y)/y ~ 1/(1+y/2)
            left = law.span - x
            soon = left * (1 + 1e-12) / (v * (1.0 + 0.5 * np.maximum(k * left, 0.0)))
            h = np.minimum(h, np.where(left > 0, soon, np.inf).min(axis=0))
        plain = v * h
        ahead = 0.5 * plain * _stretch(k * plain)
        half = self.pace.slope(x + ahead, np.maximum(room - ahead, 0.5 * room))
        if early is not None:  # before zero the law is flat
            half *= ~early
        move = plain * _stretch(np.minimum(half * plain, 0.9))
        if self.learners.size:
            move = self._learned(move, h)
            half = self.pace.slope(x + 0.5 * move, np.maximum(room - 0.5 * move, 0.1 * room))
            if early is not None:
                half *= ~early
        self.x = np.minimum(x + move, self.top)
        self.k = self.pace.slope(self.x, law.ceiling - self.x)
        self.v = v * np.exp((self.x - x) * (k + 4.0 * half + self.k) / 6.0)
        self.v[self.x >= self.top] = 1e-300
        self.t = np.where(h >= until - self.t, until, self.t + h)
        # the slope jumps at zero, where the speed-up sets in, and where the ramp ends
        over = (x < law.span) & (self.x >= law.span)
        if early is not None:
            self.k *= self.x >= 0
            over |= early & (self.x >= 0)
        if over.any():
            self._settle(over)
        self._log()

    def _log(self) -> None:
        height = self.x.max(axis=0)
        self.front.append(self.t, height, np.where(self.x == height, self.v, 0.0).max(axis=0))

    def _learned(self, own: Array, h: Array) -> Array:
        """How far each actor gets with leak and imitation: up to what it sees of the front."""
        actors, move = self.actors, own.copy()
        for i in self.learners:
            when = np.minimum(self.t + h - self.delay[i], self.t)
            after = self.front.seen(when, self.pointers[i])
            gained = own[i] * actors.imitate[i] + actors.leak[i] * (after - self.visible[i])
            self.visible[i] = after
            gained = np.minimum(gained, after - self.x[i])
            for cut in self.events.cuts:
                if i in cut.hits:
                    gained[(self.t >= cut.start) & (self.t < cut.end)] = -np.inf
            np.maximum(own[i], gained, out=move[i])
        return move

    def _happen(self, out: Track) -> None:
        """Shocks and the new paradigm, where a sample has arrived at their time."""
        for shock in self.events.shocks:
            now = self.t == shock.at
            factor = np.where(now, shock.factor**self.law.parallel, 1.0)
            self.effort = self.effort * np.ones_like(self.x)
            self.effort[shock.actor] *= factor
            self.v[shock.actor] *= factor
        now = (self.t >= self.change) & (out.finder[self.lane] < 0)
        if self.events.paradigm is None or not now.any():
            return
        odds = np.cumsum(np.broadcast_to(self.effort, self.x.shape), axis=0)
        finder = (self.draw * odds[-1] >= odds).sum(axis=0)
        bonus = (np.arange(len(self.x))[:, None] == finder) * self.events.paradigm.jump
        self.x = np.where(now, np.minimum(self.x.max(axis=0) + bonus, self.top), self.x)
        out.finder[self.lane[now]] = finder[now]
        self._settle(np.broadcast_to(now, self.x.shape))
        self._log()

    def _record(self, out: Track, here: Array, gone: Array) -> None:
        """Write the samples `here` down; one that diverged stays as it is up to the horizon."""
        if not here.size:
            return
        x, now, row, lane = self.x[:, here], self.t[here], self.row[here], self.lane[here]
        height = x.max(axis=0)
        late = np.zeros_like(x)
        for i, level in enumerate(x):
            if (level < height).any():
                late[i] = now - self.front.reached(level, here)
        out.peak[:, lane] = self.peak[:, here]
        out.level[row, :, lane], out.lag[row, :, lane] = x.T, late.T
        for k in range(len(out.times)) if gone.any() else ():
            rest = gone[here] & (row < k)
            out.level[k][:, lane[rest]], out.lag[k][:, lane[rest]] = x[:, rest], late[:, rest]
        self.row[here] = np.where(gone[here], len(out.times), row + 1)

    def _drop(self, busy: Array) -> None:
        """Go on with the samples that have not arrived."""
        which = np.flatnonzero(busy)
        # pointers are places in the flat history: row * width + lane
        rows = self.pointers[:, which] // self.front.width
        self.pointers = rows * which.size + np.arange(which.size)
        self.front.keep(which)
        self.law, self.actors = self.law.take(which), self.actors.take(which)
        self.pace = Pace(self.law)
        for name in ("x", "v", "k", "delay", "visible", "peak"):
            setattr(self, name, getattr(self, name).take(which, axis=1))
        if self.effort.shape[1] > 1:
            self.effort = self.effort[:, which]
        for name in ("t", "top", "patience", "change", "draw", "lane", "row"):
            setattr(self, name, getattr(self, name)[which])


def _stretch(z: Array) -> Array:
    """-ln(1-z)/z, how much the exact step of dx/dt = v e^(kx) exceeds v h, with z = k v h; as the
    [2/3] Pade form, which is off by 4e-5 at z = 0.5 or -1 and by 1e-10 at 0.05."""
    return (60.0 - 60.0 * z + 11.0 * z * z) / (60.0 - 90.0 * z + 36.0 * z * z - 3.0 * z * z * z)
