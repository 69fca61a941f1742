"""The data of a path: those sequences of a data set that the router gives to it, as a data set of its own.

Which sequence goes where is a pure function of its first tokens and the router, and `tokens_hash` covers what
came of it: who has another text, or another router, has another data set.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from duckweed.learn.data.dataset import (
    FORMAT,
    HELD_OUT,
    MANIFEST,
    TOKENIZER,
    TRAIN,
    Dataset,
    held_out_windows,
    sequences,
    tokens_hash,
    windows_of,
)
from duckweed.learn.data.preparation import cached
from duckweed.learn.data.reading import DataError
from duckweed.learn.data.router import Router

ROUTES = 1  # of what this module writes; with another number, the data of paths are prepared anew
CHUNK = 1 << 22  # tokens of windows that are in memory at a time
FITTED = 8192  # windows that a router is fitted on


class Shares(msgspec.Struct, frozen=True):
    """How many sequences of a data set each of K paths is given."""

    train: list[int]
    held_out: list[int]


def fit(dataset: Dataset, length: int, count: int, prefix: int, seed: int) -> Router:
    """A router for the training text, in sequences of `length` targets. Raises DataError where the text has fewer
    sequences than paths."""
    windows = sequences(dataset, length)
    if windows < count:
        raise DataError(
            f"data: {windows} sequences of {length} tokens cannot feed {count} paths; give more text, or "
            "lower paths.count or model.sequence"
        )
    some = min(windows, FITTED)
    chosen = np.arange(some, dtype=np.int64) * windows // some
    return Router.fit(windows_of(dataset, chosen, length), count, prefix, seed)


def routes(dataset: Dataset, router: Router, length: int, held_out: bool) -> NDArray[np.int64]:
    """The path of each window of one side, int64[N]."""
    windows = held_out_windows(dataset, length) if held_out else sequences(dataset, length)
    found = [
        router.paths(windows_of(dataset, some, length, held_out))
        for some in _some(np.arange(windows, dtype=np.int64), length)
    ]
    return np.concatenate(found).astype(np.int64)


def shares(dataset: Dataset, router: Router, length: int) -> Shares:
    """What each path is given. Raises DataError where nothing is held out."""
    count = router.count
    train, held_out = (
        np.bincount(routes(dataset, router, length, side), minlength=count).tolist()
        for side in (False, True)
    )
    return Shares(train, held_out)


def check(shares: Shares, needed: list[int], length: int) -> None:
    """Raises DataError if a path starves: it has fewer training sequences than its peers need for one step, or
    none is held out. needed: sequences of a step of all peers of each path."""
    count, total = len(needed), sum(shares.train)
    fed = [
        found >= least and held_out > 0
        for found, held_out, least in zip(shares.train, shares.held_out, needed, strict=True)
    ]
    enough = min(total // (2 * max(needed)), sum(shares.held_out) // 4)
    would = min(sum(fed), enough)
    if would >= 2:
        advice = f"Give more text, or lower paths.count: {would} might do"
    elif enough >= count:
        advice = "The sequences are too alike for paths: give text of several kinds, or leave [paths] out"
    else:
        advice = "This text is too little for paths: give more, or leave [paths] out"
    for path, (found, least) in enumerate(zip(shares.train, needed, strict=True)):
        if fed[path]:
            continue
        what = (
            f"{found} of {total:,} training sequences of {length} tokens, and a step of its peers takes {least}"
            if found < least
            else f"none of {sum(shares.held_out):,} held-out sequences, so that it could not be measured"
        )
        raise DataError(f"data: path {path} of {count} starves: it is given {what}. {advice}")


def prepare(dataset: Dataset, router: Router, length: int, path: int, cache: Path) -> Dataset:
    """The data set of a path, read from a folder below `cache` or made there from that of all text. Its
    windows have `length` targets. Raises DataError."""
    key = [FORMAT, ROUTES, dataset.manifest.tokens_hash, router.digest(), length, path]
    name = blake3(msgspec.json.encode(key)).hexdigest(16)
    return cached(name, cache, lambda part: _write(dataset, router, length, path, part))


def _write(dataset: Dataset, router: Router, length: int, path: int, part: Path) -> None:
    whole, sizes, given = dataset.manifest, [], []
    for side, name in ((False, TRAIN), (True, HELD_OUT)):
        found = routes(dataset, router, length, side)
        chosen = np.flatnonzero(found == path)
        with (part / name).open("wb") as file:
            for some in _some(chosen, length):
                windows = windows_of(dataset, some, length, side)
                file.write(windows.astype(np.dtype(whole.dtype).newbyteorder("<")).tobytes())
        sizes.append(len(chosen) * (length + 1))
        given.append((len(chosen), len(found)))
    dataset.tokenizer.save(part / TOKENIZER)
    train, held_out = sizes
    words = (
        f"path {path} of {router.count}: {given[0][0]:,} of {given[0][1]:,} sequences "
        f"({given[0][0] / given[0][1]:.1%}), and {given[1][0]:,} of {given[1][1]:,} held-out ones"
    )
    manifest = msgspec.structs.replace(
        whole,
        tokens_hash=tokens_hash(part),
        train_tokens=train,
        train_bytes=whole.train_bytes * train // max(1, whole.train_tokens),
        held_out_tokens=held_out,
        held_out_bytes=_text_bytes(dataset, part / HELD_OUT, length),
        routed=words,
        window=length + 1,
    )
    (part / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))


def _text_bytes(dataset: Dataset, file: Path, length: int) -> int:
    """Bytes of the text of held-out windows."""
    windows = np.fromfile(file, np.dtype(dataset.manifest.dtype).newbyteorder("<"))
    rows = windows.reshape(-1, length + 1)
    return sum(len(dataset.tokenizer.decode(row).encode()) for row in rows)


def _some(chosen: NDArray[np.int64], length: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of windows, as many at a time as may be in memory."""
    step = max(1, CHUNK // (length + 1))
    for first in range(0, max(1, len(chosen)), step):
        yield chosen[first : first + step]
