"""The bench for graphics cards, on a processor."""

import pytest

from bench.peer import gpu


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[pytest.mark.long] * ("compiled" in way)) for way in gpu.WAYS]
)
def test_a_step_is_measured_without_a_card(way):
    found = gpu.steps("llama-0.5m", way, gpu.SMALL, "cpu")
    assert found["tokens_per_second"] > 0
    assert found["mfu"] is None


def test_the_peak_of_a_card_is_that_of_the_planners_table(monkeypatch):
    monkeypatch.setattr(gpu, "name_of", lambda device: "NVIDIA H200")
    assert gpu.peak_flops("cuda") == pytest.approx(989.5e12)
    monkeypatch.setattr(gpu, "name_of", lambda device: "NVIDIA A100-SXM4-80GB")
    assert gpu.peak_flops("cuda") == pytest.approx(312e12)
    monkeypatch.setattr(gpu, "name_of", lambda device: "another card")
    assert gpu.peak_flops("cuda") is None


def test_every_cell_has_a_part_that_measures_it():
    for small in (False, True):
        assert {part for part, _, _ in gpu.cells(small)} == set(gpu.PARTS)


def test_what_an_exchange_takes_is_measured_without_a_card():
    found = gpu.exchange("llama-0.5m", "", gpu.SMALL, "cpu")
    assert 0 < found["bytes"] < found["parameters"]
    assert all(value > 0 for value in found.values())


@pytest.mark.slow
def test_rounds_and_parity_are_measured_without_a_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = gpu.peers("llama-0.5m", "2", gpu.SMALL, "cpu")
    assert both["rounds"] == gpu.SMALL.rounds
    assert both["tokens_per_second"] > 0
    swarm, alone = (
        gpu.parity("llama-0.5m", way, gpu.SMALL, "cpu") for way in ("4 peers", "data parallelism")
    )
    assert swarm["tokens"] == alone["tokens"]
    assert swarm["bytes_up_of_a_peer"] > 0
    assert 3 < swarm["held_out"] < 7
