"""Rules that `filtered` is compared with: other filters over the same inner products, and `filtered` as it
is without a memory of rounds (`momentary`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from duckweed.merge.filter import Compared, Filter, Judged, find_outliers
from duckweed.merge.rules import mean, register_rule
from duckweed.run.registry import RULES
from duckweed.wire.total import CODES


def _alike(compared: Compared) -> np.ndarray:
    """Inner products with tensors weighed alike, f64[M, M]."""
    joint = np.zeros((len(compared.peers),) * 2)
    for table in compared.tables:
        usual = float(np.median(np.diagonal(table)))
        if usual:
            joint += table / usual
    return joint


def spectral(compared: Compared) -> Judged:
    """While the first eigenvalue of the centred table exceeds 1.5 times the median one, out who makes it,
    down to a majority."""
    table, kept, out = _alike(compared), list(range(len(compared.peers))), {}
    while len(kept) > len(compared.peers) // 2 + 1:
        centre = np.eye(len(kept)) - 1 / len(kept)
        values, vectors = np.linalg.eigh(centre @ table[np.ix_(kept, kept)] @ centre)
        if values[-1] <= 1.5 * np.median(values[1:]):
            break
        out[compared.peers[kept.pop(int(np.argmax(np.abs(vectors[:, -1]))))]] = "spectral"
    return Judged(out)


def multi_krum(compared: Compared) -> Judged:
    """Told that four are hostile: the six whose squared distances to their nearest are least."""
    table, count = _alike(compared), len(compared.peers)
    hostile = int(0.4 * count)
    length = np.diagonal(table)
    apart = np.sort(length[:, None] + length[None, :] - 2 * table, axis=1)
    score = apart[:, 1 : count - hostile - 1].sum(1)
    return Judged({compared.peers[p]: "krum" for p in np.argsort(score)[count - hostile :]})


def cosine(compared: Compared) -> Judged:
    """Out whoever's median cosine with the others is below half of the median one."""
    table = _alike(compared)
    length = np.sqrt(np.maximum(np.diagonal(table), 1e-9))
    cosines = table / length[:, None] / length[None, :]
    count = len(cosines)
    middle = np.array([np.median(np.delete(cosines[p], p)) for p in range(count)])
    low = middle < 0.5 * np.median(middle)
    return Judged({compared.peers[p]: "cosine" for p in np.flatnonzero(low)})


def momentary(compared: Compared) -> Judged:
    """`filtered` without a memory of the rounds before."""
    return Judged(find_outliers(compared._replace(says=())).out)


OTHERS: dict[str, Filter] = {"spectral": spectral, "multi-krum": multi_krum, "cosine": cosine}


def register() -> None:
    """Make them merge rules of this process."""
    merge: Callable[..., np.ndarray] = mean.merge
    for name, filter_ in {**OTHERS, "momentary": momentary}.items():
        if name not in RULES.names():
            register_rule(name, merge, [CODES], filter_)
