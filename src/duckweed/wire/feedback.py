"""Error feedback: what compression left out of one round is carried into the next.

Pure functions: nothing is stored here, so that the caller can commit a residual once, when the
contribution that it belongs to has been accepted, and drop it otherwise. Formula: Seide et al.,
Interspeech 2014; with decay as in SparseLoCo (arXiv 2508.15706).
"""

from __future__ import annotations

import numpy as np

from duckweed.wire import threads


def carry(
    delta: np.ndarray, residual: np.ndarray, beta: float, out: np.ndarray | None = None
) -> np.ndarray:
    """What to compress: ``delta + beta * residual``, f32[P]. ``beta = 0`` ignores the residual. ``out``: where to
    put it, for example ``delta`` itself."""
    from duckweed.wire.kernels import vectors

    delta = np.asarray(delta, np.float32)
    if beta == 0:
        return delta
    x = np.empty_like(delta) if out is None else out
    threads.each(
        lambda part: vectors.carry(x[part], delta[part], residual[part], np.float32(beta)),
        threads.parts(len(x)),
    )
    return x


def keep(x: np.ndarray, sent: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """What the contribution left out, ``x - sent``: the residual of the next round, f32[P].
    ``out``: where to put it, for example ``x`` itself."""
    return np.subtract(x, sent, out=out, dtype=np.float32)
