"""The bench for graphics cards, on a processor."""

import pytest

from bench.peer import gpu


@pytest.mark.parametrize("way", ["duckweed", "plain", "offload"])
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
