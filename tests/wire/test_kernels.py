"""The loops over all values against their definitions, one value at a time, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duckweed.run.layout import Layout
from duckweed.wire import codec_of, feedback
from duckweed.wire.codecs.dense import Dense
from duckweed.wire.codecs.integer import Integer, quantise
from duckweed.wire.codecs.sparse import Sparse
from duckweed.wire.entropy import tables
from duckweed.wire.entropy.activity import matrix
from duckweed.wire.entropy.tables import ONE
from duckweed.wire.frame import WireError
from duckweed.wire.kernels import chunk, fit, rans, vectors

from .test_contribution import shaped
from .test_rans import drawn, table

WIRES = [
    Dense("fp32"),
    Dense("bf16"),
    Dense("int8"),
    Sparse(chunk=64, keep=3),
    Integer(),
    Integer(threshold=0.2, value=0.4, levels=7),
]
SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, -1.1754942e-38, 3.4028235e38, -3.4028235e38]
floats = st.one_of(
    st.sampled_from(SPECIAL), st.floats(width=32, allow_nan=False, allow_infinity=False)
)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 7, 8, 9, 1000, 4096, 4099, 8200, 9001]),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([2, 3, 17, 90]),
)
def test_the_coder_gives_the_words_and_states_of_the_definition(seed, count, lanes, size):
    rng = np.random.default_rng(seed)
    frequencies = table(rng, 64, size)
    symbols, contexts = drawn(rng, frequencies, count, bool(seed % 2))
    starts = np.cumsum(frequencies, axis=1) - frequencies
    states = [int(x) for x in rng.integers(1 << 16, 1 << 17, lanes)]
    given, out = np.array(states, np.uint64), []
    for i in range(count - 1, -1, -1):
        x, f = states[i % lanes], int(frequencies[contexts[i], symbols[i]])
        if x >= f << 18:
            out.append(x & 0xFFFF)
            x >>= 16
        states[i % lanes] = (x // f) * ONE + x % f + int(starts[contexts[i], symbols[i]])
    words = np.empty(count, np.uint16)
    at = rans.encode(symbols, contexts, size, rans.rows_of(frequencies), given, words)
    assert words[at:].tolist() == out[::-1]
    assert given.tolist() == states


def raw_bits_of(numbers: np.ndarray, rest: np.ndarray, low: int, leans: list[bool]) -> str:
    """The raw bits of the values, lowest first."""
    bits = ""
    for number, below, leaning in zip(numbers.tolist(), rest.tolist(), leans, strict=True):
        size, value = abs(number), f"{below:0{low}b}"[::-1] if low else ""
        if size >= chunk.DIRECT:
            value += f"{size:b}"[1:][::-1]
        bits += value + (str(int(number < 0)) if number and not leaning else "")
    return bits


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from([(1,), (3,), (5, 7), (64, 70), (3, 900)]), min_size=1, max_size=3),
    st.integers(0, 5),
    st.sampled_from([(np.int8, 1), (np.int8, 63), (np.int16, 300), (np.int32, 1 << 20)]),
    st.sampled_from([0.05, 0.5, 1.0]),
)
def test_raw_bits_are_those_of_the_definition_and_come_back(seed, shapes, low, kind, density):
    rng, (dtype, largest) = np.random.default_rng(seed), kind
    layout = Layout.of({str(i): shape for i, shape in enumerate(shapes)})
    total, widths = layout.total, np.array([matrix(shape)[1] for shape in shapes], np.int64)
    numbers = rng.integers(-largest, largest + 1, total) * (rng.random(total) < density)
    numbers, rest = numbers.astype(dtype), rng.integers(0, 1 << low, total).astype(np.uint8)
    leans = rng.integers(0, 2, len(shapes)).astype(np.uint8)
    start, stop = sorted(rng.integers(0, total + 1, 2).tolist())
    columns = np.cumsum(widths) - widths
    leanings, direct = rng.integers(0, 64, widths.sum()).astype(np.uint8), largest < chunk.DIRECT
    symbols, lean, contexts = np.empty((3, total), np.uint8)
    raw, offsets = np.zeros(2 * total + 3, np.uint32), np.array(layout.offsets)
    if start == stop:
        return
    count, leaning = chunk.split(
        numbers, start, stop, direct, rest, low, offsets, widths, columns, leans, leanings,
        symbols[: stop - start], lean, contexts, raw,
    )  # fmt: skip
    of = np.repeat(leans, layout.sizes)[start:stop].astype(bool)
    bits = raw_bits_of(numbers[start:stop], rest[start:stop], low, of.tolist())
    found = np.unpackbits(raw.view(np.uint8), bitorder="little")
    assert count == len(bits)
    assert "".join(map(str, found[:count])) == bits
    assert not found[count : count + 32].any()
    wanted = [chunk.symbol_of(abs(int(number))) for number in numbers[start:stop]]
    assert symbols[: stop - start].tolist() == wanted
    assert count == chunk.raw_bits(
        symbols[: stop - start], start, stop, direct, low, offsets, leans
    )
    back, below = np.zeros_like(numbers), np.zeros_like(rest)
    words = np.concatenate([raw, np.zeros(2, np.uint32)])
    assert not chunk.join(
        back, start, stop, direct, below, low, largest, offsets, leans,
        symbols[: stop - start], lean[: leaning + 1], words.view(np.uint8), words,
    )  # fmt: skip
    assert (back[start:stop] == numbers[start:stop]).all()
    assert not low or (below[start:stop] == rest[start:stop]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 5, 4096, 9003]), st.sampled_from([63, 5000]))
def test_symbols_are_counted_by_context(seed, length, largest):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(-largest, largest + 1, length + 10).astype(np.int16)
    contexts = rng.integers(0, 64, length).astype(np.uint8)
    size = chunk.symbol_of(largest) + 1
    counts = np.zeros((4, 64 * size), np.int32)
    chunk.count(counts, contexts, numbers, 10, largest < chunk.DIRECT)
    wanted = np.zeros((64, size), np.int64)
    for context, number in zip(contexts, numbers[10:].tolist(), strict=True):
        wanted[context, chunk.symbol_of(abs(number))] += 1
    assert (counts.sum(axis=0).reshape(64, size) == wanted).all()


@settings(max_examples=60, deadline=None)
@given(shaped(floats))
def test_codes_are_those_of_numpy_bit_for_bit(vector):
    layout, x, scales = vector
    for wire in (Integer(), Integer(threshold=0.2, value=0.4, levels=7)):
        codes = quantise(wire, x, layout, scales)
        for part, scale in zip(layout.slices(), scales, strict=True):
            border, step = np.float32(wire.threshold) * scale, np.float32(wire.value) * scale
            with np.errstate(all="ignore"):
                level = np.clip(np.rint(np.abs(x[part]) / step), 1, wire.levels)
            sent = (np.abs(x[part]) > border) & (step > 0)
            wanted = np.where(sent, np.sign(x[part]) * level, 0)
            assert (codes[part] == wanted).all()
    starts = np.array([0, layout.total])
    scale, codes = np.empty(1, np.float32), np.empty(layout.total, np.int8)
    vectors.to_int8(codes, scale, x, starts)
    assert scale[0] == min(np.abs(x).max() / np.float32(127), np.float32(2.67e36))
    if scale[0] > 0:
        wanted = np.clip(np.rint(x / scale[0]), -127, 127)
        assert (codes == wanted).all()


@settings(max_examples=60, deadline=None)
@given(shaped(floats), st.sampled_from(WIRES))
def test_compress_leaves_what_was_not_sent_bit_for_bit(vector, wire):
    layout, x, scales = vector
    codec, left = codec_of(wire, layout), x.copy()
    blob, sent = codec.encode(x, scales)
    with np.errstate(over="ignore"):  # what the integer wire sends of tiny values may be huge
        assert codec.compress(left, scales) == blob
        assert left.tobytes() == feedback.keep(x, sent).tobytes()


@pytest.mark.parametrize("wire", WIRES, ids=str)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scale", [0, 1])
def test_what_is_not_finite_is_refused_and_nothing_is_changed(wire, bad, scale):
    layout = Layout.of({"a": (300, 40), "b": (5, 5)})
    x = np.ones(layout.total, np.float32)
    x[-3] = bad
    left = x.copy()
    with pytest.raises(WireError, match="'b'"):
        codec_of(wire, layout).compress(left, np.full(2, scale, np.float32))
    assert left.tobytes() == x.tobytes()


def test_a_step_of_the_fit_is_that_of_newton():
    rng = np.random.default_rng(0)
    a, b, cap = rng.normal(-1, 1, 40), rng.normal(0, 1, 30), 3.0
    size = rng.integers(1, 50, 30).astype(np.float64)
    p = 1 / (1 + np.exp(-(a[:, None] + b)))
    sums = cap * p @ size + rng.normal(0, 40, 40)
    step = np.clip((sums - cap * p @ size) / (cap * (p * (1 - p)) @ size + 0.5), -1, 1)
    moved = a.copy()
    assert fit.newton(moved, sums, b, size, cap) == pytest.approx(np.abs(step).max(), rel=1e-9)
    assert moved == pytest.approx(np.clip(a + step, -9, 9), rel=1e-9)


@pytest.mark.parametrize("length", [1, 2, 1000])
def test_kinds_are_those_that_numpy_finds(length):
    x = np.random.default_rng(length).integers(-63, 64, length)
    for got, wanted in zip(
        fit.kinds(x), np.unique(x, return_inverse=True, return_counts=True), strict=True
    ):
        assert got.tolist() == wanted.tolist()


def test_what_is_fitted_lies_on_the_grid_of_the_tables():
    for name in ("PER_NAT", "HALF_LEVEL", "MAX_CLASS"):
        assert getattr(fit, name) == getattr(tables, name)
