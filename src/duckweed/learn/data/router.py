"""The router of a run with paths: which of K paths a window of text belongs to, by its first tokens.

A path has a tiny bigram language model; a window goes where its first `prefix` tokens are most likely, with
one bias for each path that makes the loads alike. This is the router of SmallTalk LM (arXiv 2410.03529),
language models that are assigned by the prefix and trained on the whole window, at its smallest size.

Tokens are folded into 256 buckets. The tables hold rounded integers, so that a window is routed alike on
every machine; the tables themselves are data, which peers take from the run by its hash.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from duckweed.learn.data.permutation import derive
from duckweed.learn.data.reading import DataError

BUCKETS = 256
START = BUCKETS  # the row of a table that the first token of a window is looked up in
UNIT = 1024  # integer steps of a nat
FLOOR = -(1 << 15)  # the least entry of a table, int16
PATHS, PREFIX, BIAS = 4096, 65536, 1 << 40  # the largest that are taken
MAGIC = b"duckweed router\x01"
HEADER = struct.Struct("<16sII")  # magic, number of paths, prefix
ROWS = (BUCKETS + 1) * BUCKETS  # entries of one table
STARTS, FIRST_TURNS, TURNS = (
    4,
    4,
    24,
)  # of the fit: how many, and their turns, before the best goes on
SETTLED = 0.001  # share of windows that changes its path in a turn after which the fit ends
SWEEPS = 20  # over all biases, for a balance
ROW, WHOLE = 16.0, 64.0  # tokens that what a row, or a path, is drawn towards counts for
AT_ONCE = 2048  # windows


def fold(tokens: NDArray[np.integer]) -> NDArray[np.int64]:
    """The bucket 0..255 of each token id. Ids below 256, which all bytes are, keep theirs; the others are
    hashed (Fibonacci hashing, Knuth 6.4). Raises DataError for ids that are negative or no integers."""
    if not np.issubdtype(tokens.dtype, np.integer):
        raise DataError(f"router: tokens of type {tokens.dtype}; expected integers")
    ids = tokens.astype(np.int64)
    if ids.size and ids.min() < 0:
        raise DataError(f"router: token {ids.min()} is negative")
    hashed = (ids % (1 << 32) * 2_654_435_769 % (1 << 32)) >> 24
    return np.where(ids < BUCKETS, ids, hashed)


@dataclass(frozen=True, eq=False)
class Router:
    """K tables and K biases. `paths` and `scores` are integer arithmetic, the same on every machine."""

    prefix: int
    """How many tokens of a window are looked at."""
    tables: NDArray[np.int16]
    """[K, 257, 256]: of each bucket after each (row 256: at the start), log-probability in UNITs of a nat."""
    biases: NDArray[np.int64]
    """[K]: added to the score of a whole prefix; of a shorter one, in proportion."""

    @property
    def count(self) -> int:
        """K, the number of paths."""
        return len(self.biases)

    @classmethod
    def fit(cls, windows: NDArray[np.integer], count: int, prefix: int, seed: int) -> "Router":
        """The router that `windows`, int[N, W], are routed best by; it loads all paths alike with them.

        Expectation maximisation with hard assignments: windows are assigned by their first tokens, and the
        tables counted from whole windows. Some starts are tried, the best is fitted on. With the same
        arguments it is the same router on one machine (logarithms may be rounded otherwise elsewhere).
        Raises DataError where there is too little text for so many paths.
        """
        _check(count, prefix)
        if windows.ndim != 2 or windows.shape[1] < 2:
            raise DataError(
                f"router: windows of shape {windows.shape}; expected [N, W], W at least 2"
            )
        if len(windows) < count:
            raise DataError(
                f"router: {len(windows)} windows of text do not feed {count} paths; give more text or "
                "ask for fewer paths"
            )
        text = _Text(windows)
        random = np.random.Generator(np.random.PCG64(derive(seed, count, prefix)))
        fits = []
        for _ in range(STARTS if count > 1 else 1):
            router = cls._begun(text, count, prefix, random)
            fits.append(router._fitted(text, FIRST_TURNS))
        best = max(fits, key=lambda router: router._likelihood(text))
        return best._fitted(text, TURNS)._balanced(text)

    def scores(self, windows: NDArray[np.integer]) -> NDArray[np.int64]:
        """int64[N, K]: log-probability of the first tokens under each path, in UNITs of a nat, with its
        bias. windows: int[N, W]; where W is below `prefix`, by the W tokens that there are."""
        if windows.ndim != 2:
            raise DataError(f"router: windows of shape {windows.shape}; expected [N, W]")
        looked_at = fold(windows[:, : self.prefix])
        bias = self.biases * looked_at.shape[1] // self.prefix
        return self._plain(looked_at) + bias

    def paths(self, windows: NDArray[np.integer]) -> NDArray[np.int64]:
        """int64[N]: the path of each window, the one of the highest score (of equal ones, the first)."""
        return self.scores(windows).argmax(axis=1)

    def to_bytes(self) -> bytes:
        """Header, biases and tables, little-endian: 24 + K (8 + 131,584) bytes."""
        return (
            HEADER.pack(MAGIC, self.count, self.prefix)
            + self.biases.astype("<i8").tobytes()
            + self.tables.astype("<i2").tobytes()
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Router":
        """What `to_bytes` wrote. Raises DataError for anything else; sizes are checked first."""
        if len(data) < HEADER.size or not data.startswith(MAGIC):
            raise DataError("router: this is no router, or one of another version")
        _, count, prefix = HEADER.unpack_from(data)
        _check(count, prefix)
        expected = HEADER.size + count * (8 + 2 * ROWS)
        if len(data) != expected:
            raise DataError(
                f"router: {len(data):,} bytes where {count} paths take {expected:,}; it is cut short or damaged"
            )
        biases = np.frombuffer(data, "<i8", count, HEADER.size).astype(np.int64)
        tables = np.frombuffer(data, "<i2", count * ROWS, HEADER.size + 8 * count).astype(np.int16)
        if tables.max() > 0 or biases.max() > BIAS or biases.min() < -BIAS:
            raise DataError("router: values out of range; it is damaged")
        return cls(prefix, tables.reshape(count, BUCKETS + 1, BUCKETS), biases)

    def digest(self) -> str:
        """blake3, hex, of `to_bytes`: who agrees on it routes every text alike."""
        return blake3(self.to_bytes()).hexdigest()

    # --- fitting

    @classmethod
    def _begun(
        cls, text: "_Text", count: int, prefix: int, random: np.random.Generator
    ) -> "Router":
        """One path around each of K windows, drawn one after the other where the paths so far explain
        the text worst (k-means++, Arthur and Vassilvitskii 2007, with excess nats for distances)."""
        counts = np.zeros((count, BUCKETS, BUCKETS))
        chosen = int(random.integers(text.windows))
        best = None
        for path in range(count):
            counts[path] = text.counted(np.array([chosen]))
            one = cls(prefix, text.tables(counts[path : path + 1]), np.zeros(1, np.int64))
            own = one._plain(text.folded[:, :prefix])[:, 0]
            best = own if best is None else np.maximum(best, own)
            excess = (best.max() - best).astype(np.float64)
            total = excess.sum()
            weights = excess / total if total else np.full(text.windows, 1 / text.windows)
            chosen = int(random.choice(text.windows, p=weights))
        return cls(prefix, text.tables(counts), np.zeros(count, np.int64))

    def _fitted(self, text: "_Text", turns: int) -> "Router":
        """After some turns of assigning windows, balanced, and counting tables anew."""
        router, before = self, np.full(text.windows, -1)
        for _ in range(turns if self.count > 1 else 1):
            balanced = router._balanced(text)
            paths = balanced.paths(text.folded)
            counts = np.stack([text.counted(paths == path) for path in range(self.count)])
            router = Router(self.prefix, text.tables(counts), balanced.biases)
            if (paths != before).mean() <= SETTLED:
                break
            before = paths
        return router

    def _balanced(self, text: "_Text") -> "Router":
        """With the biases that load all paths alike: each in turn is set to where its load is N / K
        (coordinate descent on the dual of the transport problem)."""
        looked_at = text.folded[:, : self.prefix]
        scores = self._plain(looked_at)
        biases = self.biases.copy()
        if self.count == 1:
            return Router(self.prefix, self.tables, np.zeros(1, np.int64))
        wanted = -(-text.windows // self.count)
        for _ in range(SWEEPS):
            before = biases.copy()
            for path in range(self.count):
                with_biases = scores + biases
                with_biases[:, path] = np.iinfo(np.int64).min
                missing = with_biases.max(axis=1) - scores[:, path]
                last = min(wanted, len(missing) - 1)
                nearest = np.partition(missing, (wanted - 1, last))
                biases[path] = (nearest[wanted - 1] + nearest[last]) // 2  # far from both sides
            if np.array_equal(before, biases):
                break
        biases -= int(np.median(biases))
        whole = min(looked_at.shape[1], self.prefix)  # what a bias is for is a whole prefix
        return Router(self.prefix, self.tables, np.clip(biases * self.prefix // whole, -BIAS, BIAS))

    def _likelihood(self, text: "_Text") -> int:
        """Of all of every window, under the path that its first tokens choose."""
        paths, total = self.paths(text.folded), 0
        for path in range(self.count):
            total += int((text.counted(paths == path) * self.tables[path, :BUCKETS]).sum())
        return total

    def _plain(self, looked_at: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64[N, K]: the scores without biases, of folded tokens int64[N, n]."""
        found = np.zeros((len(looked_at), self.count), np.int64)
        flat = self.tables.reshape(self.count, ROWS)
        for part in _parts(len(looked_at)):
            entries = _entries(looked_at[part])
            for path in range(self.count):
                found[part, path] = flat[path].take(entries).sum(axis=1, dtype=np.int64)
        return found


class _Text:
    """The windows that a router is fitted on, and what is counted in them."""

    def __init__(self, windows: NDArray[np.integer]) -> None:
        self.folded = fold(windows)
        self.windows = len(windows)
        pairs = self.folded[:, :-1] * BUCKETS + self.folded[:, 1:]
        self._pairs = pairs.astype(np.uint16)
        frequent = self.counted(np.ones(self.windows, bool)).sum(axis=0) + 0.5
        self._frequent = frequent / frequent.sum()

    def counted(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> NDArray[np.float64]:
        """[256, 256]: how often each bucket follows each, in the windows that are chosen."""
        found = np.bincount(self._pairs[which].reshape(-1), minlength=BUCKETS * BUCKETS)
        return found.reshape(BUCKETS, BUCKETS).astype(np.float64)

    def tables(self, counts: NDArray[np.float64]) -> NDArray[np.int16]:
        """int16[K, 257, 256] of counts [K, 256, 256]. Each row is drawn towards how frequent each bucket is
        in the path, and that towards all text: a bucket that the path has not seen is unlikely there, also
        after another that it has not seen."""
        tables = np.empty((len(counts), BUCKETS + 1, BUCKETS), np.int16)
        for path, own in enumerate(counts):
            frequent = _drawn(own.sum(axis=0), self._frequent, WHOLE)
            likely = np.vstack([_drawn(own, frequent, ROW), frequent])
            tables[path] = np.clip(np.rint(np.log(likely) * UNIT), FLOOR, 0)
        return tables


def _drawn(
    counts: NDArray[np.float64], towards: NDArray[np.float64], strength: float
) -> NDArray[np.float64]:
    """Probabilities of counts [..., 256], in each row as if `strength` tokens more had been seen."""
    total = counts.sum(axis=-1, keepdims=True)
    return np.asarray((counts + strength * towards) / (total + strength))


def _entries(folded: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where in a flat table the tokens int64[N, n] are looked up, each after the one before it."""
    before = np.full_like(folded, START)
    before[:, 1:] = folded[:, :-1]
    return before * BUCKETS + folded


def _parts(windows: int) -> Iterator[slice]:
    for first in range(0, windows, AT_ONCE):
        yield slice(first, first + AT_ONCE)


def _check(count: int, prefix: int) -> None:
    if not 1 <= count <= PATHS:
        raise DataError(f"router: {count} paths; expected 1 to {PATHS:,}")
    if not 1 <= prefix <= PREFIX:
        raise DataError(f"router: a prefix of {prefix} tokens; expected 1 to {PREFIX:,}")
