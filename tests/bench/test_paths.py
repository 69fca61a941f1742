"""The comparison of paths with a dense model: what is merged over whom, and how sizes are read off."""

import math

import numpy as np
import pytest

from bench.paths import corpus as corpora
from bench.paths import plan, routers, table
from bench.paths.corpus import LENGTH, Corpus
from bench.paths.swarm import Cell, Swarm, run

SMALL = {"rounds": 2, "peers": 4, "steps": 1, "batch": 1, "paths": 2}


@pytest.fixture
def text(monkeypatch, tmp_path):
    """Two made-up domains, one of small and one of capital letters."""
    random = np.random.default_rng(0)
    windows = random.integers(97, 123, (64, LENGTH + 1)).astype(np.uint8)
    windows[::2] -= 32
    domain = np.arange(64) % 2
    made = Corpus(("capital", "small"), windows[:48], domain[:48], windows[48:], domain[48:])
    monkeypatch.setattr(corpora, "load", lambda name: made)
    monkeypatch.setattr(routers, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr("bench.paths.swarm.cache_folder", lambda: tmp_path)
    (tmp_path / "bench-paths").mkdir()
    return made


def trained(form: str, **more: object) -> Swarm:
    swarm = Swarm(Cell(form, 0.01, **(SMALL | more)))
    for number in range(swarm.cell.rounds):
        swarm._round(number, measured=False)
    return swarm


def test_paths_that_never_branch_are_the_dense_model_bit_for_bit(text):
    dense, paths = trained("dense"), trained("none", start=1.0)
    assert np.array_equal(paths.weights[0], dense.weights[0])
    assert np.array_equal(paths.weights[1], dense.weights[0])


def test_separate_paths_share_nothing_after_the_branch(text):
    swarm = trained("none", start=0.0)
    assert not swarm.common.any()
    moved = swarm.weights[0] != swarm.weights[1]
    assert moved.mean() > 0.9  # an embedding of a byte that no text has stays as it was


def test_a_common_trunk_is_the_same_in_all_paths_and_feed_forward_parts_are_not(text):
    swarm = trained("trunk", start=0.0)
    assert np.array_equal(swarm.weights[0, swarm.common], swarm.weights[1, swarm.common])
    assert (swarm.weights[0, ~swarm.common] != swarm.weights[1, ~swarm.common]).mean() > 0.9
    assert np.array_equal(swarm.merged[0, swarm.common], swarm.merged[1, swarm.common])


def test_the_router_tells_the_two_domains_apart_and_each_path_trains_on_its_own(text):
    swarm = trained("none", start=0.0)
    for path in range(2):
        assert len(set(text.train_domain[swarm.texts[1 + path]].tolist())) == 1


def test_more_paths_than_peers_take_turns(text):
    swarm = trained("none", start=0.0, paths=4, peers=2)
    assert swarm.taken.tolist() == [0, 1, 1, 1, 1]
    assert swarm.counts.tolist() == [1, 1, 1, 1]


def test_a_factor_shortens_the_steps_of_one_contributor_only(text):
    whole = trained("none", start=0.0, peers=2, rounds=1)
    half = trained("none", start=0.0, peers=2, rounds=1, factor=0.5)
    assert np.allclose(half.merged, whole.merged / 2)
    many = [trained("none", start=0.0, rounds=1, factor=f).merged for f in (1.0, 0.5)]
    assert np.array_equal(*many)


def test_a_record_has_what_the_tables_read(text):
    record = Swarm(Cell("trunk", 0.01, start=0.5, mix=True, **SMALL)).run()
    assert record["total"] == record["common"] + 2 * (record["held"] - record["common"])
    assert record["bits_per_byte"] > 0
    assert set(record["by_domain"]) == {"capital", "small"}
    mixed = record["mixed"]
    assert mixed["best path in hindsight"] <= mixed["routed"] <= mixed["mean over single paths"]


@pytest.mark.parametrize("form", ["none", "top2"])
def test_a_cell_that_was_stopped_goes_on_to_the_same_bits(text, form):
    cell = Cell(form, 0.01, start=0.5, **SMALL)
    stopped = Swarm(cell)
    stopped._round(0, measured=False)
    stopped.done = 1
    stopped._save()
    gone_on = Swarm(cell)
    gone_on.run()
    assert np.array_equal(gone_on.weights, trained(form, start=0.5).weights)
    run(cell)
    assert not stopped.kept("progress").exists()


def test_a_cell_without_a_rate_takes_the_best_that_was_tried_and_says_which_are_missing():
    bits = {0.005: 4.2, 0.01: 4.1, 0.02: 4.3}
    found = {f"0.3M-rate-whole-{rate}": {"bits_per_byte": x} for rate, x in bits.items()}
    cell = plan.resolved("0.3M-whole-k4-seed1", found)
    assert (cell.rate, cell.shape, cell.seed, cell.peers) == (0.01, "295k x 4", 1, 1)
    found.pop("0.3M-rate-whole-0.005")
    with pytest.raises(LookupError, match=r"First: .* run 0.3M-rate-whole-0.005$"):
        plan.resolved("0.3M-whole-k4-seed1", found)


def test_all_kinds_of_a_size_see_as_many_tokens_as_twenty_for_each_value_of_a_path():
    for size, held in (("66k", 65_760), ("0.3M", 295_488), ("1M", 1_016_960)):
        for kind in plan.KINDS:
            cell = plan.kind_of(kind, size)
            tokens = cell.rounds * cell.peers * cell.steps * cell.batch * LENGTH
            assert tokens / held == pytest.approx(20, rel=0.03)


def test_an_equivalent_size_lies_between_the_dense_models_around_it():
    known = [(math.log(1e5), 4.0), (math.log(2e5), 3.8), (math.log(4e5), 3.7)]
    assert table.interpolated(known, 4.0) == pytest.approx(1e5)
    assert table.interpolated(known, 3.9) == pytest.approx(1e5 * 2**0.5)
    assert table.interpolated(known, 3.75) == pytest.approx(2e5 * 2**0.5)
    assert table.interpolated(known, 3.6) == pytest.approx(8e5)
    assert table.interpolated(known, 4.2) == pytest.approx(0.5e5)


def test_held_out_windows_are_of_as_many_documents_as_there_are():
    documents = [np.full((40, LENGTH + 1), n, np.uint8) for n in range(10)]
    documents.append(np.full((1, LENGTH + 1), 10, np.uint8))
    found = corpora._spread(documents, 30)
    assert len(found) == 30
    assert len(set(found[:, 0].tolist())) >= 10
    assert np.bincount(found[:, 0]).max() <= 3
    assert len(corpora._spread(documents[-1:] + documents[:1], 20)) == 20
