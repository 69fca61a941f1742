"""The cells of short runs, and the picture of them."""

import re

import pytest

from bench.front import picture, plan
from bench.front.swarm import ring_bytes
from duckweed.run.schedule import Schedule


@pytest.mark.parametrize(("rounds", "total"), [(34, 260), (34, 520), (13, 260)])
def test_even_rounds_are_those_of_a_run_with_a_budget(rounds: int, total: int) -> None:
    schedule = Schedule(total, rounds)
    assert plan.evenly(rounds, total) == [schedule.steps_of(n) for n in range(rounds)]


def test_every_cell_of_the_demos_model_trains_on_the_same_tokens() -> None:
    for name, cell in plan.CELLS.items():
        if name == "smoke" or "-long-" in name:
            continue
        longer = 5 if "fivefold" in name else 2 if "eight" in name else 1
        changes = cell["changes"]
        # Cells of several crowds: each peer has as much text, whatever their number.
        peers = 4 if "-of-" in name else changes.get("rounds.peers", 4)
        sequences = changes.get("inner.batch", 8) * peers
        assert sum(cell["lengths"]) * sequences == longer * 260 * 32, name


def record(cell: str, peers: int, bits: float, up: float) -> dict:
    return {
        "cell": cell, "bits_per_byte": bits, "up": up, "lengths": [10, 10], "parameters": 1000,
        "specification": {"rounds": {"peers": peers}},
    }  # fmt: skip


def test_seeds_of_a_recipe_are_one_point_and_data_parallelism_sends_its_ring() -> None:
    records = [record("a-s0", 4, 2.0, 5e6), record("a-s1", 4, 1.9, 7e6), record("d", 1, 1.8, 0.0)]
    a, d = picture.points(records, {"a": "ours", "d": "theirs"})
    assert (a.megabytes, a.bits, a.parallel) == (6.0, [2.0, 1.9], False)
    assert d.parallel
    assert d.megabytes * 1e6 == ring_bytes(4, 1000, 20 * 8)


def test_less_loss_is_drawn_lower_and_more_bytes_further_right() -> None:
    found = [
        picture.Point("much", 500.0, [1.8], True),
        picture.Point("little", 5.0, [2.0], False),
    ]
    drawn = re.findall(r'circle cx="([\d.]+)" cy="([\d.]+)"', picture.svg(found))
    (much_x, much_y), (little_x, little_y) = [(float(x), float(y)) for x, y in drawn]
    assert much_x > little_x
    assert much_y > little_y
