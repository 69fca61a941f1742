import numpy as np
import pytest

from duckweed.run.layout import Layout
from duckweed.wire import WireError, codec_of
from duckweed.wire.codecs.dense import Dense, round_bf16, widen_bf16

from .models import MEDIUM, draw


def test_bf16_rounds_to_nearest_ties_to_even():
    bits = {
        0x3F800000: 0x3F80,  # 1.0 is exact
        0x3F808000: 0x3F80,  # half-way: down to even
        0x3F818000: 0x3F82,  # half-way: up to even
        0x3F808001: 0x3F81,  # just above half-way
        0x3F807FFF: 0x3F80,  # just below
        0xBF818000: 0xBF82,  # the same below zero
        0x80000000: 0x8000,  # minus zero stays
        0x00000001: 0x0000,  # the smallest float vanishes
        0x7F7FFFFF: 0x7F7F,  # the largest stays finite
        0xFF7FFFFF: 0xFF7F,
    }
    x = np.array(list(bits), np.uint32).view(np.float32)
    assert round_bf16(x).tolist() == list(bits.values())
    assert (widen_bf16(round_bf16(x)).view(np.uint32) >> 16).tolist() == list(bits.values())


def test_fp32_is_exact():
    x, _ = draw(MEDIUM)
    assert (
        codec_of(Dense("fp32"), MEDIUM)
        .decode(codec_of(Dense("fp32"), MEDIUM).encode(x, None).blob, None)
        .values.tobytes()
        == x.tobytes()
    )


def test_int8_is_off_by_half_a_step_of_its_block_at_most():
    layout = Layout.of({"a": (5000,), "b": (100,)})
    x, _ = draw(layout)
    x[4096:] *= 1000
    sent = codec_of(Dense("int8"), layout).encode(x, None).sent
    for block in (slice(0, 4096), slice(4096, 5000), slice(5000, 5100)):
        step = np.abs(x[block]).max() / 127
        assert np.abs(x[block] - sent[block]).max() <= step * 0.5001


def test_int8_takes_less_than_a_byte_a_value():
    x, _ = draw(MEDIUM)
    assert len(codec_of(Dense("int8"), MEDIUM).encode(x, None).blob) < 0.95 * MEDIUM.total


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_values_that_are_not_finite_are_refused_on_arrival(dtype):
    layout = Layout.of({"a": (8,)})
    blob = codec_of(Dense(dtype), layout).encode(np.ones(8, np.float32), None).blob
    with pytest.raises(WireError, match="not finite"):
        codec_of(Dense(dtype), layout).decode(blob[:-2] + b"\xff\x7f", None)
