"""Work on parts of a vector, on as many threads as this process may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import NamedTuple, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")

AT_ONCE = 1 << 18
"""Values of a part."""
_count = max(1, int(os.environ.get("DUCKWEED_THREADS") or 1))


def use(threads: int) -> None:
    """From now on compute with so many threads (DUCKWEED_THREADS; one, if it is not set)."""
    global _count
    _count = max(1, threads)


def each(work: Callable[[Part], Result], parts: Iterable[Part]) -> list[Result]:
    """`work` of every part, in their order. Work that holds the interpreter's lock gains nothing.

    Raises what `work` raises, when no thread is at work any more."""
    listed = list(parts)
    helpers = min(_count, len(listed)) - 1
    if helpers < 1:
        return [work(part) for part in listed]
    found: dict[int, Result] = {}
    faults: list[BaseException] = []
    # Common to all threads: a step of this iterator is never taken by two.
    numbers = iter(range(len(listed)))

    def take() -> None:
        try:
            for number in numbers:
                found[number] = work(listed[number])
        except BaseException as fault:  # the others end with the part that they are at
            faults.append(fault)
            for _ in numbers:
                pass

    helping = [_pool(_count).submit(take) for _ in range(helpers)]
    take()
    wait([helper for helper in helping if not helper.cancel()])  # who has not begun comes too late
    if faults:
        fault = faults[0]
        try:
            raise fault
        finally:  # what was raised would hold itself, and all that was worked on
            faults.clear()
            del fault
    return [found[number] for number in range(len(listed))]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Kept, because to start a thread takes longer than the sums of a small tensor."""
    return ThreadPoolExecutor(threads, "wire")


if hasattr(os, "register_at_fork"):  # threads are not forked
    os.register_at_fork(after_in_child=_pool.cache_clear)


def stretches(count: int, length: int) -> list[slice]:
    """Slices of at most `length` that cover 0..count."""
    return [slice(start, min(start + length, count)) for start in range(0, count, length)]


def parts(count: int) -> list[slice]:
    """Slices that cover 0..count, each of which a core's cache holds."""
    return stretches(count, AT_ONCE)


class Within(NamedTuple):
    """A part of a stretch."""

    part: slice
    number: int
    """Of the stretch."""


def within(wholes: Iterable[slice]) -> list[Within]:
    """Parts that lie within one of the given stretches, such as the tensors of a model."""
    return [
        Within(slice(whole.start + part.start, whole.start + part.stop), number)
        for number, whole in enumerate(wholes)
        for part in parts(whole.stop - whole.start)
    ]
