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
    _clear(row_classes)
    _clear(column_classes)
    total, values = _sum(rows), len(rows) * len(columns)
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
    a, sizes, of_row, b, of_column = _rasch(rows, columns, float(cap))
    middle = _median(a, sizes)
    by_row = _classes_of(a, of_row, middle, row_step)
    by_column = _classes_of(b, of_column, 0.0, column_step)
    best, base, used = math.inf, flat, 0
    for sides in (0, _ROWS | _COLUMNS, _ROWS, _COLUMNS):
        x = row_step if sides & _ROWS else 0
        y = column_step if sides & _COLUMNS else 0
        if (sides & _ROWS and x == 0) or (sides & _COLUMNS and y == 0):
            continue
        start = _grid_of(middle) if x else flat
        of_rows, of_columns = by_row if x else row_classes, by_column if y else column_classes
        bits = _bits(start, x, of_rows, y, of_columns, rows, columns, cap, dispersion)
        if bits < best:
            best, base, used = bits, start, sides
    if used & _ROWS:
        _copy(row_classes, by_row)
    if used & _COLUMNS:
        _copy(column_classes, by_column)
    return base, row_step * (used & _ROWS > 0), column_step * (used & _COLUMNS > 0)


@kernel
def lean(count, minus, rows, classes):  # type: ignore[no-untyped-def]
    """Of a tensor of C columns, of which `count` are not zero and `minus` are negative, int64[C]: fill in the class
    of each column's signs, int64[C]. Returns their step; 0 where signs do not lean enough to pay for the classes."""
    _clear(classes)
    total = _sum(count)
    step = _step_of(total / len(count) / 4) if total and rows > 1 else 0
    if step == 0:
        return 0
    found, nats = np.empty(len(count), np.int64), 0.0
    for c in range(len(count)):
        found[c] = _class_of(math.log((minus[c] + 0.5) / (count[c] - minus[c] + 0.5)), step)
        odd = found[c] * (step / PER_NAT)
        nats += count[c] * _softplus(odd) - minus[c] * odd
    if nats / math.log(2) + _entropy(kinds(found)[2]) >= 0.99 * total - 64:
        return 0
    _copy(classes, found)
    return step


# No operations on whole arrays below: those take numba several times as long to compile as a loop.


@kernel
def _clear(x):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        x[i] = 0


@kernel
def _copy(to, x):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        to[i] = x[i]


@kernel
def _sum(x):  # type: ignore[no-untyped-def]
    total = np.int64(0)
    for i in range(len(x)):
        total += x[i]
    return total


@kernel
def _median(values, sizes):  # type: ignore[no-untyped-def]
    """Of values, each as often as `sizes` says."""
    total = _sum(sizes)
    return (_ranked(values, sizes, (total - 1) // 2) + _ranked(values, sizes, total // 2)) / 2


@kernel
def _ranked(values, sizes, rank):  # type: ignore[no-untyped-def]
    for value in values:
        below, through = 0, 0
        for j in range(len(values)):
            below += sizes[j] * np.intp(values[j] < value)
            through += sizes[j] * np.intp(values[j] <= value)
        if below <= rank < through:
            return value
    return values[0]


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
def _class_of(logit, step):  # type: ignore[no-untyped-def]
    """Log-odds in whole steps."""
    return max(-MAX_CLASS, min(MAX_CLASS, int(np.rint(logit * (PER_NAT / step)))))


@kernel
def _classes_of(logits, of, origin, step):  # type: ignore[no-untyped-def]
    """The class of each of the numbers that `of` points to, int64; zeros where the step is 0."""
    found = np.zeros(len(of), np.int64)
    if step:
        for i in range(len(of)):
            found[i] = _class_of(logits[of[i]] - origin, step)
    return found


@kernel
def _rasch(rows, columns, cap):  # type: ignore[no-untyped-def]
    """Groups of rows and of columns of almost equal sums: log-odds of the rows of each, float64[A], how many there are, and
    the group of each row; what the columns of each add to them, float64[B], and the group of each column. By Newton
    steps in turn on rows and columns."""
    rate = (_sum(rows) + 0.5) / (len(rows) * len(columns) * cap + 1)
    of_a, of_b = len(columns) * cap, len(rows) * cap  # trials
    sums_a, sizes_a, of_row = _lump(rows, of_a, rate)
    sums_b, sizes_b, of_column = _lump(columns, of_b, rate)
    a, b = np.empty(len(sums_a), np.float64), np.empty(len(sums_b), np.float64)
    for i in range(len(a)):
        a[i] = _log_odds(sums_a[i], of_a, rate)
    for j in range(len(b)):
        b[j] = _log_odds(sums_b[j], of_b, rate) - _logit(rate)
    for _ in range(6):
        step = newton(a, sums_a, b, sizes_b, cap)
        more = newton(b, sums_b, a, sizes_a, cap)
        if max(step, more) < _CLOSE:
            break
    return a, sizes_a, of_row, b, of_column


@kernel
def _lump(sums, trials, rate):  # type: ignore[no-untyped-def]
    """Mean sum of each group, float64, its size, int64, and the group of each member."""
    keys = np.empty(len(sums), np.int64)
    for i in range(len(sums)):
        keys[i] = int(np.rint(_PER_LUMP * _log_odds(sums[i], trials, rate)))
    _, of, sizes = kinds(keys)
    means = np.zeros(len(sizes), np.float64)
    for i in range(len(sums)):
        means[of[i]] += sums[i]
    for group in range(len(means)):
        means[group] /= sizes[group]
    return means, sizes, of


@kernel
def _log_odds(yes, trials, rate):  # type: ignore[no-untyped-def]
    """Log-odds of yes / trials, drawn a little towards the rate of the whole."""
    return math.log((yes + rate) / (trials - yes + 1 - rate))


@kernel
def newton(ours, sums, theirs, sizes, cap):  # type: ignore[no-untyped-def]
    """A Newton step of log-odds `ours`, float64[A], of which each has a sum of magnitudes, float64[A]; `theirs`,
    float64[B], are those of the other side, each of as many members as `sizes` says, int64[B]. cap: the most that a value
    counts. Returns how far the one that moved most has moved."""
    odds = np.empty(len(theirs), np.float64)  # one exponential for each, not for each pair
    for j in range(len(theirs)):
        odds[j] = math.exp(-theirs[j])
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
def _bits(base, x, of_rows, y, of_columns, rows, columns, cap, dispersion):  # type: ignore[no-untyped-def]
    """Bits for the values under these classes, int64[R] in steps of x and int64[C] in steps of y, and for the classes,
    both at their entropy."""
    which_a, of_a, sizes_a = kinds(of_rows)
    which_b, of_b, sizes_b = kinds(of_columns)
    nats = 0.0
    for i in range(len(which_a)):
        inner = 0.0
        for j in range(len(which_b)):
            inner += sizes_b[j] * _softplus(
                _logit_at(base, x * which_a[i]) + y * which_b[j] / PER_NAT
            )
        nats += cap * sizes_a[i] * inner
    for i in range(len(rows)):
        nats -= _logit_at(base, x * which_a[of_a[i]]) * rows[i]
    for i in range(len(columns)):
        nats -= y * which_b[of_b[i]] / PER_NAT * columns[i]
    return nats / math.log(2) / dispersion + _entropy(sizes_a) + _entropy(sizes_b)


@kernel
def _logit_at(base, level):  # type: ignore[no-untyped-def]
    return (base - HALF_LEVEL + level) / PER_NAT


@kernel
def _entropy(sizes):  # type: ignore[no-untyped-def]
    """Bits that say of every member which kind it is, where each kind has as many as `sizes` says."""
    total, bits = _sum(sizes), 0.0
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
