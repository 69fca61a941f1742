"""What a contribution must satisfy before it counts; each refusal is a reason a person can read."""

from collections.abc import Mapping, Sequence

from duckweed.wire.exact import median

NORM_FACTOR = 10.0


def copies(blobs: Sequence[str]) -> dict[int, str]:
    """Position -> reason for every blob that an earlier position has sent too."""
    first: dict[str, int] = {}
    found = {}
    for position, blob in enumerate(blobs):
        if blob in first:
            found[position] = f"the same bytes as contribution {first[blob]}"
        first.setdefault(blob, position)
    return found


def too_large(norms: Mapping[int, float]) -> dict[int, str]:
    """Position -> reason for norms beyond NORM_FACTOR times the median; needs three to judge.
    norms: position -> norm of those not refused already, so that these cannot move the median."""
    if len(norms) < 3:
        return {}
    middle = median(list(norms.values()))
    return {
        position: f"{norm / middle:.3g} times as large as the median contribution"
        for position, norm in norms.items()
        if middle > 0 and norm > NORM_FACTOR * middle
    }
