import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duckweed.wire.entropy.rans import ONE, Decoder, Encoder
from duckweed.wire.frame import HEADER, Reader, WireError, Writer

STEPS = 1 << 13  # lanes as the entropy alone wants them


def write(runs, raw) -> bytes:
    encoder = Encoder(STEPS)
    for flags, one in runs:
        encoder.put(flags, one)
    encoder.raw(raw)
    writer = Writer(9, b"test")
    encoder.write(writer)
    return writer.blob()


def read(blob, runs, raw):
    reader = Reader(blob, 9, b"test")
    decoder = Decoder(reader, max([len(flags) for flags, _ in runs] + [1]), STEPS)
    flags = [decoder.take(len(flags), one) for flags, one in runs]
    bits = decoder.finish(len(raw))
    reader.end()
    return flags, bits


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_runs_of_flags_with_any_probabilities(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    runs = []
    for count in data.draw(st.lists(st.integers(0, 3000), max_size=4)):
        one = rng.integers(1, ONE, count).astype(np.uint16)
        kind = data.draw(st.sampled_from(["likely", "unlikely", "any"]))
        likely = rng.integers(0, ONE, count) < one
        flags = {"likely": likely, "unlikely": ~likely, "any": rng.random(count) < 0.5}[kind]
        runs.append((flags, one))
    raw = rng.random(data.draw(st.integers(0, 400))) < 0.5
    flags, bits = read(write(runs, raw), runs, raw)
    for got, (sent, _) in zip(flags, runs, strict=True):
        assert (got == sent).all()
    assert (bits == raw).all()


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("count", [20_000, 300_000])
def test_size_is_the_entropy_and_little_more(rate, count):
    flags = np.random.default_rng(0).random(count) < rate
    share = flags.mean()
    bound = -count * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    raw = np.zeros(count // 50, np.bool_)
    size = 8 * (len(write([(flags, round(rate * ONE))], raw)) - HEADER) - len(raw)
    assert bound - 64 < size < 1.02 * bound + 64


def test_a_wrong_probability_does_not_pass_unnoticed():
    flags = np.random.default_rng(0).random(5000) < 0.3
    blob = write([(flags, ONE // 4)], np.zeros(0, np.bool_))
    with pytest.raises(WireError):
        read(blob, [(flags, ONE // 3)], np.zeros(0, np.bool_))
