"""A run of symbols and raw bits, at its entropy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duckweed.wire.entropy import stream
from duckweed.wire.entropy.stream import Symbols, Table
from duckweed.wire.entropy.tables import ONE
from duckweed.wire.frame import WireError

NO_RAW = np.zeros(0, np.uint8)


def table(rng, contexts: int, size: int) -> np.ndarray:
    """Any frequencies: each at least 1, and 2^14 in each context."""
    cuts = np.sort(rng.choice(np.arange(1, ONE), (contexts, size - 1), replace=True), axis=1)
    cuts = np.maximum.accumulate(cuts, axis=1)
    found = np.diff(cuts, axis=1, prepend=0, append=ONE)
    found = np.maximum(found, 1)
    found[np.arange(contexts), found.argmax(axis=1)] -= found.sum(axis=1) - ONE
    return found


def drawn(rng, frequencies: np.ndarray, count: int, likely: bool) -> tuple[np.ndarray, np.ndarray]:
    """Symbols that the tables foresee, or any."""
    contexts = rng.integers(0, len(frequencies), count).astype(np.uint8)
    ends = np.cumsum(frequencies, axis=1)[contexts]
    symbols = (rng.integers(0, ONE, count)[:, None] >= ends).sum(axis=1)
    if not likely:
        symbols = rng.integers(0, frequencies.shape[1], count)
    return symbols.astype(np.uint8), contexts


def read(run: stream.Run, values: int, parts: list[Symbols], bits: int):
    opened = stream.Open(values, run.words, run.raw, memoryview(run.data))
    found = []
    for _, contexts, table in parts:
        symbols = np.empty(len(contexts), np.uint8)
        opened.take(symbols, contexts, table)
        found.append(symbols)
    return found, opened.finish(bits)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_symbols_of_any_tables_come_back(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    parts = []
    for size in data.draw(st.lists(st.sampled_from([2, 3, 17, 90]), min_size=1, max_size=3)):
        frequencies = table(rng, data.draw(st.sampled_from([1, 5, 64])), size)
        count, likely = data.draw(st.integers(0, 3000)), data.draw(st.booleans())
        parts.append(Symbols(*drawn(rng, frequencies, count, likely), Table(frequencies)))
    values = max(len(part.symbols) for part in parts)
    raw = rng.integers(0, 256, data.draw(st.integers(0, 60))).astype(np.uint8)
    run = stream.write(values, parts, raw)
    found, got = read(run, values, parts, 8 * len(raw))
    for part, symbols in zip(parts, found, strict=True):
        assert (symbols == part.symbols).all()
    assert (got[: len(raw)] == raw).all()


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("count", [20_000, 300_000])
def test_size_is_the_entropy_and_a_byte_for_each_state(rate, count):
    yes = round(rate * ONE)
    symbols = (np.random.default_rng(0).random(count) < rate).astype(np.uint8)
    share = symbols.mean()
    bound = -count * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    flags = Symbols(symbols, np.zeros(count, np.uint8), Table(np.array([[ONE - yes, yes]])))
    raw = np.zeros(100, np.uint8)
    size = 8 * (len(stream.write(count, [flags], raw).data) - len(raw))
    assert bound - 64 < size < 1.002 * bound + 16 * 8


def test_a_wrong_probability_does_not_pass_unnoticed():
    symbols = (np.random.default_rng(0).random(5000) < 0.3).astype(np.uint8)
    contexts = np.zeros(5000, np.uint8)
    right, wrong = (Table(np.array([[ONE - yes, yes]])) for yes in (ONE // 4, ONE // 3))
    run = stream.write(5000, [Symbols(symbols, contexts, right)], NO_RAW)
    with pytest.raises(WireError):
        read(run, 5000, [Symbols(symbols, contexts, wrong)], 0)


@pytest.mark.parametrize("size", [2, 5])
def test_too_few_words_and_too_many_are_refused(size):
    rng = np.random.default_rng(size)
    frequencies = table(rng, 3, size)
    parts = [Symbols(*drawn(rng, frequencies, 4000, True), Table(frequencies))]
    run = stream.write(4000, parts, NO_RAW)
    for words in (0, 1, run.words - 1):
        data = run.data[: len(run.data) - 2 * (run.words - words)]
        with pytest.raises(WireError, match="cut short"):
            read(stream.Run(words, 0, data), 4000, parts, 0)
    with pytest.raises(WireError, match="1 words too many"):
        read(stream.Run(run.words + 1, 0, run.data + b"\0\0"), 4000, parts, 0)
