"""What a contribution must satisfy before it counts; each refusal is a reason a person can read."""

import math
from collections.abc import Sequence

from duckweed.merge.exact import median

NORM_FACTOR = 10.0


def announced_sizes(sizes: Sequence[float], tensors: int) -> str | None:
    """Refuse sizes (RMS per tensor) that are missing, negative or not finite."""
    if len(sizes) != tensors:
        return f"announced {len(sizes)} tensor sizes, the model has {tensors} tensors"
    if not all(math.isfinite(size) and size >= 0 for size in sizes):
        return "announced a size that is negative or not finite"
    return None


def copies(blobs: Sequence[str]) -> dict[int, str]:
    """Position -> reason for every blob that an earlier position has sent too."""
    first: dict[str, int] = {}
    found = {}
    for position, blob in enumerate(blobs):
        if blob in first:
            found[position] = f"the same bytes as contribution {first[blob]}"
        first.setdefault(blob, position)
    return found


def too_large(norms: Sequence[float]) -> dict[int, str]:
    """Position -> reason for norms beyond NORM_FACTOR times the median; needs three to judge."""
    if len(norms) < 3:
        return {}
    middle = median(list(norms))
    return {
        position: f"{norm / middle:.3g} times as large as the median contribution"
        for position, norm in enumerate(norms)
        if middle > 0 and norm > NORM_FACTOR * middle
    }
