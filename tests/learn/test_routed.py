"""The data of a path: the sequences that the router gives to it, and no others."""

import numpy as np
import pytest
from fixtures import tiny

from duckweed.learn.data import dataset as datasets
from duckweed.learn.data import preparation, routed
from duckweed.learn.data.dataset import windows_of
from duckweed.learn.data.reading import DataError
from duckweed.learn.data.routed import Shares
from duckweed.run.sections import DataSpec

LENGTH, PREFIX, COUNT = 32, 8, 3


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    base = tmp_path_factory.mktemp("text")
    (base / "a.txt").write_text(tiny.text())
    return preparation.prepare(DataSpec("a.txt"), base, cache)


@pytest.fixture(scope="module")
def router(whole):
    return routed.fit(whole, LENGTH, COUNT, PREFIX, 0)


@pytest.fixture(scope="module")
def paths(whole, router, cache):
    return [routed.prepare(whole, router, LENGTH, path, cache) for path in range(COUNT)]


def rows(dataset, held_out):
    count = (
        datasets.held_out_windows(dataset, LENGTH)
        if held_out
        else datasets.sequences(dataset, LENGTH)
    )
    return [tuple(row) for row in windows_of(dataset, np.arange(count), LENGTH, held_out)]


@pytest.mark.parametrize("held_out", [False, True])
def test_each_sequence_goes_to_one_path_and_none_is_lost(whole, paths, held_out):
    together = [row for path in paths for row in rows(path, held_out)]
    assert sorted(together) == sorted(rows(whole, held_out))


def test_a_path_has_what_the_router_gives_to_it(whole, router, paths):
    given = router.paths(windows_of(whole, np.arange(datasets.sequences(whole, LENGTH)), LENGTH))
    expected = np.bincount(given, minlength=COUNT).tolist()
    assert [datasets.sequences(path, LENGTH) for path in paths] == expected
    assert routed.shares(whole, router, LENGTH).train == expected
    for number, path in enumerate(paths):
        own = np.array(rows(path, False))
        assert (router.paths(own[:, :PREFIX]) == number).all()


def test_batches_of_a_path_are_its_own_sequences_each_once_an_epoch(paths):
    path, own = paths[1], set(rows(paths[1], False))
    count = datasets.sequences(path, LENGTH)
    batches = [datasets.batch(path, 5, 0, step, count, 1, LENGTH) for step in range(count)]
    seen = [tuple(row) for batch in batches for row in batch]
    assert len(seen) == count
    assert set(seen) == own


def test_another_router_or_another_path_has_another_hash(whole, paths, cache):
    other = routed.fit(whole, LENGTH, COUNT, PREFIX, 1)
    hashes = {path.manifest.tokens_hash for path in paths}
    hashes.add(routed.prepare(whole, other, LENGTH, 0, cache).manifest.tokens_hash)
    assert len(hashes) == COUNT + 1
    for path in paths:
        path.verify()
        assert path.manifest.hash == whole.manifest.hash  # of the same text
        assert path.manifest.told().startswith("path ")


def test_bytes_per_token_are_those_of_the_held_out_text(paths):
    for path in paths:
        assert path.manifest.held_out_bytes == int((path.held_out != 0).sum())


def test_sequences_of_another_length_are_refused(paths):
    with pytest.raises(
        DataError, match="was routed in sequences of 32 tokens, and the run's have 16"
    ):
        datasets.sequences(paths[0], 16)


def test_too_little_text_is_named_before_a_router_is_fitted(whole):
    with pytest.raises(DataError, match=r"sequences of 16384 tokens cannot feed 3 paths"):
        routed.fit(whole, 16384, COUNT, PREFIX, 0)


@pytest.mark.parametrize(
    ("shares", "needed", "said"),
    [
        (Shares([90, 3, 90], [9, 9, 9]), [4, 4, 4], r"path 1 of 3 starves: it is given 3 of 183 training"),
        (Shares([9, 3], [9, 9]), [4, 4], "too little for paths: give more, or leave"),
        (Shares([900, 0], [90, 0]), [4, 4], r"path 1 of 2 starves.*too alike for paths: give text of several"),
        (Shares([90, 90, 90, 90], [9, 9, 0, 9]), [4, 4, 4, 4], r"path 2 of 4 starves.*none of 27 held-out"),
        (Shares([90, 3, 90, 90], [9, 9, 9, 9]), [4] * 4, r"paths.count: 3 might do"),
    ],
)  # fmt: skip
def test_a_path_that_starves_is_named_with_a_number_of_paths_that_would_do(shares, needed, said):
    with pytest.raises(DataError, match=said):
        routed.check(shares, needed, LENGTH)


def test_paths_that_are_fed_are_let_through():
    routed.check(Shares([4, 4], [1, 1]), [4, 4], LENGTH)
