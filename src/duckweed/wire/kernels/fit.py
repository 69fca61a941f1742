"""Fitting the side information of one tensor, from sums over its rows and columns: the classes of a map of activity
(duckweed.wire.entropy.activity says which model that is) and those of leaning signs. In floating point: only an
encoder fits.
"""

from __future__ import annotations

import math

import numpy as np

from duckweed.wire.kernels.jit import kernel

# As in duckweed.wire.entropy.tables, which a test compares: what a kernel took from another file would stay in its cache.
PER_NAT, HALF_LEVEL, MAX_CLASS = 4, 32, 63
_MAX_STEP = 7
_CLOSE = 0.02  # nats: a fit that moves less is done
_PER_LUMP = 8  # groups of rows in one natural logit
_ROWS, _COLUMNS = 1, 2


@kernel
def plane(rows, columns, cap, squares, row_classes, column_classes):  # type: ignore[no-untyped-def]
    """The map of a tensor. rows, columns: sums of min(magnitude, cap), int64[R] and int64[C]; squares: the sum of
    their squares. Fills in the classes, int64[R] and int64[C], of whichever of rows and columns pay for them.
    Returns base, step of rows, step of columns; a step of 0 means that all classes are 0."""
    row_classes[:], column_classes[:] = 0, 0
    total, values = rows.sum(), len(rows) * len(columns)
    trials = values * cap
    rate = min(max(total / trials, 0.5 / trials), 1 - 0.5 / trials)
    flat = _grid_of(_logit(rate))
    if min(len(rows), len(columns)) == 1 or not 0 < total < trials:
        return flat, 0, 0
    fisher = cap * rate * (1 - rate)  # of one value, if it were binomial; it may spread more
    dispersion = max(1.0, (squares / values - (total / values) ** 2) / fisher)
    row_step = _step_of(len(columns) * fisher / dispersion)
    column_step = _step_of(len(rows) * fisher / dispersion)
    if row_step == column_step == 0:
        return flat, 0, 0
    a, b = _rasch(rows, columns, float(cap))
    middle = np.median(a)
    uneven = _classes_of(a - middle, row_step), _classes_of(b, column_step)
    best, base, used = np.inf, flat, 0
    for sides in (0, _ROWS | _COLUMNS, _ROWS, _COLUMNS):
        by_rows, by_columns = (sides & _ROWS) != 0, (sides & _COLUMNS) != 0
        if (by_rows and row_step == 0) or (by_columns and column_step == 0):
            continue
        start = _grid_of(middle) if by_rows else flat
        x = row_step * uneven[0] if by_rows else row_classes
        y = column_step * uneven[1] if by_columns else column_classes
        bits = _bits(start, x, y, rows, columns, cap, dispersion)
        if bits < best:
            best, base, used = bits, start, sides
    if used & _ROWS:
        row_classes[:] = uneven[0]
    if used & _COLUMNS:
        column_classes[:] = uneven[1]
    return base, row_step * (used & _ROWS > 0), column_step * (used & _COLUMNS > 0)


@kernel
def lean(count, minus, rows, classes):  # type: ignore[no-untyped-def]
    """Of a tensor of C columns, of which `count` are not zero and `minus` are negative, int64[C]: fill in the class
    of each column's signs, int64[C]. Returns their step; 0 where signs do not lean enough to pay for the classes."""
    classes[:] = 0
    total = count.sum()
    step = _step_of(total / len(count) / 4) if total and rows > 1 else 0
    if step == 0:
        return 0
    odds = np.empty(len(count), np.float64)
    for c in range(len(count)):
        odds[c] = math.log((minus[c] + 0.5) / (count[c] - minus[c] + 0.5))
    found = _classes_of(odds, step)
    nats = 0.0
    for c in range(len(count)):
        odd = found[c] * (step / PER_NAT)
        nats += count[c] * _softplus(odd) - minus[c] * odd
    if nats / math.log(2) + _entropy(kinds(found)[2]) >= 0.99 * total - 64:
        return 0
    classes[:] = found
    return step


@kernel
def _logit(rate):  # type: ignore[no-untyped-def]
    return math.log(rate / (1 - rate))


@kernel
def _softplus(x):  # type: ignore[no-untyped-def]
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@kernel
def _grid_of(logit):  # type: ignore[no-untyped-def]
    """The grid point nearest to a rate with these log-odds."""
    return int(max(-HALF_LEVEL, min(HALF_LEVEL - 1, np.rint(logit * PER_NAT)))) + HALF_LEVEL


@kernel
def _step_of(fisher):  # type: ignore[no-untyped-def]
    """Grid points from one class to the next; 0 where a class says too little to be sent."""
    step = PER_NAT * math.sqrt(12 / fisher)
    return 0 if step > 2 * _MAX_STEP else int(max(1, min(_MAX_STEP, np.rint(step))))


@kernel
def _classes_of(logits, step):  # type: ignore[no-untyped-def]
    """Log-odds in whole steps, int64."""
    found = np.zeros(len(logits), np.int64)
    if step:
        for i in range(len(logits)):
            found[i] = int(np.rint(logits[i] * (PER_NAT / step)))
            found[i] = max(-MAX_CLASS, min(MAX_CLASS, found[i]))
    return found


@kernel
def _rasch(rows, columns, cap):  # type: ignore[no-untyped-def]
    """Log-odds of rows, float64[R], and what columns add to them, float64[C]: Newton steps in turn on rows and
    columns, each lumped into groups of almost equal sums."""
    rate = (rows.sum() + 0.5) / (len(rows) * len(columns) * cap + 1)
    sums_a, sizes_a, of_row = _lump(rows, len(columns) * cap, rate)
    sums_b, sizes_b, of_column = _lump(columns, len(rows) * cap, rate)
    a = _log_odds(sums_a, len(columns) * cap, rate)
    b = _log_odds(sums_b, len(rows) * cap, rate) - _logit(rate)
    for _ in range(6):
        step = newton(a, sums_a, b, sizes_b, cap)
        more = newton(b, sums_b, a, sizes_a, cap)
        if max(step, more) < _CLOSE:
            break
    return a[of_row], b[of_column]


@kernel
def _lump(sums, trials, rate):  # type: ignore[no-untyped-def]
    """Mean sum and size of each group, float64, and the group of each member."""
    keys = np.rint(_PER_LUMP * _log_odds(sums, trials, rate)).astype(np.int64)
    _, of, sizes = kinds(keys)
    means = np.zeros(len(sizes), np.float64)
    for i in range(len(sums)):
        means[of[i]] += sums[i]
    return means / sizes, sizes.astype(np.float64), of


@kernel
def _log_odds(yes, trials, rate):  # type: ignore[no-untyped-def]
    """Log-odds of yes / trials, drawn a little towards the rate of the whole."""
    return np.log((yes + rate) / (trials - yes + 1 - rate))


@kernel
def newton(ours, sums, theirs, sizes, cap):  # type: ignore[no-untyped-def]
    """A Newton step of log-odds `ours`, float64[A], of which each has a sum of magnitudes, float64[A]; `theirs`,
    float64[B], are those of the other side, each of as many members as `sizes` says, float64[B]. cap: the most that a value
    counts. Returns how far the one that moved most has moved."""
    odds = np.exp(-theirs)  # of a product of the two: one exponential for each, not for each pair
    most = 0.0
    for i in range(len(ours)):
        own, expected, spread = math.exp(-ours[i]), 0.0, 0.0
        for j in range(len(theirs)):
            p = 1.0 / (1.0 + own * odds[j])
            expected += sizes[j] * p
            spread += sizes[j] * p * (1.0 - p)
        step = (sums[i] - cap * expected) / (cap * spread + 0.5)
        step = max(-1.0, min(1.0, step))
        ours[i] = max(-9.0, min(9.0, ours[i] + step))
        most = max(most, abs(step))
    return most


@kernel
def _bits(base, of_rows, of_columns, rows, columns, cap, dispersion):  # type: ignore[no-untyped-def]
    """Bits for the values at these levels, int64[R] and int64[C], and for the levels, both at their entropy."""
    which_a, of_a, sizes_a = kinds(of_rows)
    which_b, of_b, sizes_b = kinds(of_columns)
    a, b = (base - HALF_LEVEL + which_a) / PER_NAT, which_b / PER_NAT
    nats = 0.0
    for i in range(len(a)):
        inner = 0.0
        for j in range(len(b)):
            inner += sizes_b[j] * _softplus(a[i] + b[j])
        nats += cap * sizes_a[i] * inner
    for i in range(len(rows)):
        nats -= a[of_a[i]] * rows[i]
    for i in range(len(columns)):
        nats -= b[of_b[i]] * columns[i]
    return nats / math.log(2) / dispersion + _entropy(sizes_a) + _entropy(sizes_b)


@kernel
def _entropy(sizes):  # type: ignore[no-untyped-def]
    """Bits that say of every member which kind it is, where each kind has as many as `sizes` says."""
    total, bits = sizes.sum(), 0.0
    for size in sizes:
        bits -= size * math.log2(size / total)
    return bits


@kernel
def kinds(x):  # type: ignore[no-untyped-def]
    """The numbers that come among small integers int64[N], ascending; for each of the N which of them it is;
    how often each comes."""
    low, high = x[0], x[0]
    for i in range(len(x)):
        low, high = min(low, x[i]), max(high, x[i])
    seen = np.zeros(high - low + 1, np.int64)
    for i in range(len(x)):
        seen[x[i] - low] += 1
    which, sizes = np.empty(len(seen), np.int64), np.empty(len(seen), np.int64)
    place, found = np.empty(len(seen), np.int64), 0
    for k in range(len(seen)):
        which[found], sizes[found], place[k] = low + k, seen[k], found
        found += np.intp(seen[k] > 0)
    of = np.empty(len(x), np.int64)
    for i in range(len(x)):
        of[i] = place[x[i] - low]
    return which[:found], of, sizes[:found]
