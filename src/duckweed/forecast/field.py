"""Who races, what happens on the way, and what came of it: the types of a race."""

import msgspec

from duckweed.forecast.law import Array


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
        """The same actors in some of the samples."""
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

    def gap_years(self, share: Array, compute_rate: Array, behind: Array) -> Array:
        """Progress gap [T, A, S] in years of today's progress: software distance times the
        software share, plus what the start lag is worth in compute growth."""
        front = self.level.max(axis=1, keepdims=True)
        return share * (front - self.level) / self.today + (1 - share) * compute_rate * behind

    def peak_years(self, share: Array, compute_rate: Array, behind: Array) -> Array:
        """The same for the largest gap on the way, shape [A, S]."""
        return share * self.peak / self.today + (1 - share) * compute_rate * behind
