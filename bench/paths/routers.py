"""The routers of the comparison, and how good each is before anything is trained.

The measure: bits per byte of the rest of held-out windows, after the prefix that routes them, under the byte
bigrams of all training text that is routed alike. It costs seconds where a run costs minutes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.paths.corpus import PREFIX, Corpus
from duckweed.learn.data.router import Router
from duckweed.round.founding import cache_folder

FITTED_ON = 8000  # windows


def fitted(corpus: Corpus, name: str, paths: int, seed: int) -> Router:
    """The same for all forms of a corpus, a seed and a number of paths; it is kept in the cache."""
    path = cache_folder() / "bench-paths" / f"router-{name}-{paths}-{seed}"
    if not path.exists():
        chosen = np.random.default_rng(seed).permutation(len(corpus.train))[:FITTED_ON]
        router = Router.fit(corpus.train[chosen], paths, PREFIX, seed)
        path.write_bytes(router.to_bytes())
    return Router.from_bytes(path.read_bytes())


def bigrams(corpus: Corpus, train: NDArray[np.int64], held_out: NDArray[np.int64]) -> float:
    """Bits per byte where the windows of each side are on these paths."""
    everything = _counts(corpus.train) + 0.01
    everything /= everything.sum(axis=1, keepdims=True)
    nats, measured = 0.0, 0
    for path in np.unique(held_out):
        counts = _counts(corpus.train[train == path])
        total = counts.sum(axis=1, keepdims=True)
        likely = (counts + 32 * everything) / (total + 32)
        windows = corpus.held_out[held_out == path]
        nats -= float(np.log(likely[windows[:, PREFIX - 1 : -1], windows[:, PREFIX:]]).sum())
        measured += windows[:, PREFIX:].size
    return nats / measured / float(np.log(2))


def compared(corpus: Corpus, name: str, asked: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """For each (number of paths, seed): bits, share of the gain that the true domains give, and how many
    held-out windows are of the domain that most of their path are of."""
    none = bigrams(corpus, np.zeros(len(corpus.train), int), np.zeros(len(corpus.held_out), int))
    true = bigrams(corpus, corpus.train_domain, corpus.held_out_domain)
    found = [{"router": "none", "bits": none, "share": 0.0, "purity": 1 / len(corpus.names)}]
    for paths, seed in asked:
        router = fitted(corpus, name, paths, seed)
        held_out = router.paths(corpus.held_out)
        bits = bigrams(corpus, router.paths(corpus.train), held_out)
        table = np.zeros((paths, len(corpus.names)), int)
        np.add.at(table, (held_out, corpus.held_out_domain), 1)
        purity = float(table.max(axis=1).sum() / table.sum())
        share = (none - bits) / (none - true)
        label = f"K = {paths}, seed {seed}"
        found.append({"router": label, "bits": bits, "share": share, "purity": purity})
    found.append({"router": "true domains", "bits": true, "share": 1.0, "purity": 1.0})
    return found


def _counts(windows: NDArray[np.uint8]) -> NDArray[np.float64]:
    pairs = windows[:, :-1].astype(np.int32) * 256 + windows[:, 1:]
    return np.bincount(pairs.reshape(-1), minlength=65536).reshape(256, 256).astype(np.float64)
