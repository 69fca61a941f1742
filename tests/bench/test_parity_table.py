"""The arithmetic of the parity tables."""

import pytest

from bench.parity.table import front, gaps_table, ring_bytes, savings


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


def trained(kind, seed, loss, **changes):
    return {
        "kind": kind,
        "peers": 4,
        "tokens": 1000,
        "seed": seed,
        "bits_per_byte": loss,
        "base": {},
        "changes": changes,
    }


def test_the_better_baseline_is_better_over_all_seeds_in_common_and_not_on_one_lucky_seed():
    records = {
        "fp32-s0": trained("swarm", 0, 2.0),
        "fp32-s1": trained("swarm", 1, 2.0),
        "ddp-steady-s0": trained("ddp", 0, 1.90),
        "ddp-steady-s1": trained("ddp", 1, 1.90),
        "ddp-uneven-s0": trained("ddp", 0, 1.80),
        "ddp-uneven-s1": trained("ddp", 1, 2.02),
        "ddp-lucky-s0": trained("ddp", 0, 1.50),
    }
    last = gaps_table(records).splitlines()[-1]
    assert "ddp-steady" in last
    assert "+5.26 % (+5.26, +5.26)" in last


def test_a_wire_is_compared_with_the_same_recipe_that_exchanges_floats():
    fp32 = {"wire": {"kind": "dense", "dtype": "fp32", "feedback": 0.0}}
    records = {
        "fp32-s0": trained("swarm", 0, 2.0, **fp32),
        "fp32-guided-s0": trained("swarm", 0, 1.8, **{**fp32, "inner.guide": 0.1}),
        "int-guided-s0": trained("swarm", 0, 1.89, **{"inner.guide": 0.1}),
        "int-at-half-s0": trained("swarm", 0, 2.2, **{"inner.steps": 15}),
    }
    rows = {
        line.split("|")[1].strip(): line.split("|")[2] for line in gaps_table(records).splitlines()
    }
    assert rows["int-guided"].strip() == "+5.00 % (one seed)"
    assert rows["fp32"].strip() == rows["fp32-guided"].strip() == ""
    assert rows["int-at-half"].strip() == "not run"
