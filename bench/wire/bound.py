"""What a blob is measured against: bits that a coder needs who knows each tensor's distribution and no more."""

from math import lgamma, log

import numpy as np

from duckweed.run.layout import Layout
from duckweed.wire.codecs.sparse import Sparse

BLOCK = 1 << 22


def entropy(codes: np.ndarray, layout: Layout) -> float:
    """Order-0 entropy of each tensor, in bits per value."""
    bits = 0.0
    for part in layout.slices():
        low = int(codes[part].min())
        count = np.zeros(int(codes[part].max()) - low + 1, np.int64)
        for start in range(part.start, part.stop, BLOCK):
            block = codes[start : min(start + BLOCK, part.stop)].astype(np.int64)
            count += np.bincount(block - low, minlength=len(count))
        count = count[count > 0]
        bits -= float((count * np.log2(count / count.sum())).sum())
    return bits / layout.total


def conditional_entropy(codes: np.ndarray, memory: np.ndarray, layout: Layout) -> float:
    """Entropy of a code within its tensor, given what earlier rounds did there; bits per value."""
    bits = 0.0
    for part in layout.slices():
        kind = (memory[part] - memory[part].min()) * 4096
        kinds = np.unique(kind, return_counts=True)[1]
        pairs = np.unique(kind + codes[part], return_counts=True)[1]
        bits += float((kinds * np.log2(kinds)).sum() - (pairs * np.log2(pairs)).sum())
    return bits / layout.total


def choices(wire: Sparse) -> float:
    """log2 C(chunk, keep) and two bits a value sent, in bits per value of the model."""
    n, k = wire.chunk, wire.keep
    return ((lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2) + 2 * k) / n
