"""The arithmetic of the parity tables."""

import pytest

from bench.parity.table import front, ring_bytes, savings


def record(up, down, peers=4, steps=10):
    blobs = [{"up": 1.0, "down": 1.0}, {"up": up, "down": down}]
    return {
        "kind": "swarm",
        "peers": peers,
        "parameters": 1000,
        "changes": {"inner.steps": steps},
        "base": {},
        "measured": blobs,
    }


def test_a_ring_sends_almost_two_values_for_each_parameter():
    assert ring_bytes(2, 1000) == 2000
    assert ring_bytes(4, 1000) == 3000
    assert ring_bytes(1000, 1000) == pytest.approx(4000, rel=0.01)


def test_saving_is_what_the_ring_moves_in_a_round_over_the_blob_without_the_first_one():
    assert savings(record(up=30, down=60)) == (1000, 500)
    assert savings(record(up=30, down=60, steps=20)) == (2000, 1000)


def test_data_parallelism_saves_nothing():
    assert savings({"kind": "ddp"}) == (1, 1)


def test_the_front_is_what_no_other_point_beats():
    points = [(1, 2.0), (300, 2.1), (200, 2.2), (1000, 2.5)]
    assert front(points) == [True, True, False, True]
