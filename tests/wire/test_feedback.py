import numpy as np

from duckweed.wire import carry, codec_of, keep
from duckweed.wire.codecs.integer import Integer
from duckweed.wire.codecs.sparse import Sparse

from .models import MEDIUM, draw


def test_what_is_left_out_returns_decayed():
    delta = np.array([1.0, -2.0], np.float32)
    x = carry(delta, np.array([4.0, 8.0], np.float32), 0.5)
    assert x.tolist() == [3.0, 2.0]
    assert keep(x, np.array([3.0, 0.0], np.float32)).tolist() == [0.0, 2.0]


def test_arguments_are_not_changed_so_that_a_rejected_round_leaves_no_trace():
    delta, residual = np.ones(3, np.float32), np.full(3, 2, np.float32)
    x = carry(delta, residual, 1.0)
    keep(x, delta)
    assert delta.tolist() == [1, 1, 1]
    assert residual.tolist() == [2, 2, 2]


def test_without_decay_nothing_is_ever_lost():
    """The sum of all that was sent is the sum of all deltas but for one bounded residual."""
    for wire in (Integer(), Sparse(chunk=256, keep=16)):
        residual = np.zeros(MEDIUM.total, np.float32)
        given = np.zeros(MEDIUM.total)
        sent = np.zeros(MEDIUM.total)
        for round_ in range(5):
            delta, scales = draw(MEDIUM, round_)
            x = carry(delta, residual, 1.0)
            got = codec_of(wire, MEDIUM).encode(x, scales).sent
            residual = keep(x, got)
            given += delta
            sent += got
        np.testing.assert_allclose(sent + residual, given, atol=1e-4)
