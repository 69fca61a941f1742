import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duckweed.learn.data.reading import DataError
from duckweed.learn.data.router import BUCKETS, HEADER, Router, fold

LENGTH, PREFIX = 64, 24


def languages(count, seed=0, windows=400):
    """Windows of `count` made-up languages, int64[count x windows, LENGTH], and which is which. Each language
    has all the letters of the others and an order of its own in which they follow each other."""
    random = np.random.default_rng(seed)
    texts, whose = [], []
    for language in range(count):
        following = np.random.default_rng(100 + language).permutation(20)
        text = random.integers(20, size=(windows, LENGTH))
        for place in range(1, LENGTH):
            regular = random.random(windows) < 0.6
            text[regular, place] = following[text[regular, place - 1]]
        texts.append(text + 97)
        whose += [language] * windows
    order = random.permutation(len(whose))
    return np.concatenate(texts)[order], np.array(whose)[order]


@pytest.fixture(scope="module")
def fitted():
    windows, _ = languages(4)
    return Router.fit(windows, 4, PREFIX, seed=3)


def agreement(paths, whose, count):
    """Share of windows that are on the path on which most of their language are."""
    seen = np.zeros((count, count), int)
    np.add.at(seen, (whose, paths), 1)
    assert len(set(seen.argmax(axis=1).tolist())) == count  # no two languages on one path
    return seen.max(axis=1).sum() / len(whose)


def test_each_language_gets_a_path_of_its_own_also_for_text_that_was_not_fitted(fitted):
    windows, whose = languages(4, seed=9)
    assert agreement(fitted.paths(windows), whose, 4) > 0.95


def test_texts_without_a_letter_in_common_are_told_apart():
    random = np.random.default_rng(0)
    windows = random.integers(97, 123, (48, 257))
    windows[::2] -= 32
    paths = Router.fit(windows, 2, 64, seed=0).paths(windows)
    assert len(set(paths[::2].tolist())) == len(set(paths[1::2].tolist())) == 1
    assert paths[0] != paths[1]


def test_all_paths_are_loaded_alike_though_one_language_has_most_of_the_text():
    windows, whose = languages(2)
    uneven = np.concatenate([windows[whose == 0], windows[whose == 1][:40]])
    router = Router.fit(uneven, 2, PREFIX, seed=0)
    loads = np.bincount(router.paths(uneven), minlength=2) / len(uneven)
    assert abs(loads - 0.5).max() < 0.02


def test_the_same_text_and_seed_give_the_same_router_and_another_seed_may_not():
    windows, _ = languages(4)
    same = [Router.fit(windows, 4, PREFIX, seed=3).digest() for _ in range(2)]
    assert same[0] == same[1] != Router.fit(windows, 4, PREFIX, seed=4).digest()


def test_what_comes_after_the_prefix_does_not_change_the_path(fitted):
    windows, _ = languages(4, seed=9)
    changed = windows.copy()
    changed[:, PREFIX:] = 0
    assert np.array_equal(fitted.scores(windows), fitted.scores(changed))
    assert np.array_equal(fitted.paths(windows), fitted.paths(windows[:, :PREFIX]))


def test_a_window_shorter_than_the_prefix_is_routed_by_what_there_is(fitted):
    windows, whose = languages(4, seed=9)
    assert agreement(fitted.paths(windows[:, : PREFIX // 2]), whose, 4) > 0.8
    assert fitted.paths(windows[:, :1]).max() < 4
    assert np.array_equal(fitted.scores(windows[:, :0]), np.zeros((len(windows), 4)))


def test_the_bias_of_a_short_window_is_in_proportion():
    tables = np.zeros((2, BUCKETS + 1, BUCKETS), np.int16)
    router = Router(10, tables, np.array([0, -1000]))
    assert router.scores(np.zeros((1, 10), int)).tolist() == [[0, -1000]]
    assert router.scores(np.zeros((1, 25), int)).tolist() == [[0, -1000]]
    assert router.scores(np.zeros((1, 5), int)).tolist() == [[0, -500]]


def test_a_score_is_the_sum_over_the_tokens_of_the_prefix():
    random = np.random.default_rng(1)
    tables = random.integers(-9000, 0, (3, BUCKETS + 1, BUCKETS)).astype(np.int16)
    router = Router(5, tables, np.array([7, -3, 0]))
    windows = random.integers(BUCKETS, size=(4, 8))
    for window, scores in zip(windows, router.scores(windows), strict=True):
        before = [BUCKETS, *window[:4]]
        for path, bias in enumerate(router.biases):
            steps = [int(tables[path, a, b]) for a, b in zip(before, window[:5], strict=True)]
            assert scores[path] == sum(steps) + bias


def test_golden_scores_that_every_machine_must_reach():
    entries = np.arange(2 * (BUCKETS + 1) * BUCKETS, dtype=np.int64)
    tables = -(entries * 2_654_435_761 % 20_000).astype(np.int16).reshape(2, BUCKETS + 1, BUCKETS)
    router = Router(6, tables, np.array([5, -70]))
    windows = np.array([[72, 101, 108, 108, 111, 33], [300, 70_000, 5, 128_255, 0, 2]])
    assert router.scores(windows).tolist() == GOLDEN_SCORES
    assert router.digest() == GOLDEN_DIGEST


GOLDEN_SCORES = [[-61504, -67851], [-53486, -79833]]
GOLDEN_DIGEST = "f95c27a14228451c904e37ba695f572c11a4d25e9f9a18bfe0e4c325867278d2"


def test_more_windows_than_are_looked_up_at_once_are_routed_as_each_alone(fitted):
    windows, _ = languages(4, seed=2, windows=600)
    whole = fitted.paths(windows)
    assert len(windows) > 2048
    assert np.array_equal(whole[::101], [fitted.paths(w[None])[0] for w in windows[::101]])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64, np.uint32])
def test_tokens_of_any_integer_type_are_routed_alike(fitted, kind):
    windows, _ = languages(4, seed=9)
    assert np.array_equal(fitted.paths(windows.astype(kind)), fitted.paths(windows))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_bytes_are_their_own_buckets_and_larger_ids_fall_into_one(ids):
    folded = fold(np.array(ids, np.int64)).tolist()
    assert all(0 <= bucket < 256 for bucket in folded)
    assert all(bucket == id_ for id_, bucket in zip(ids, folded, strict=True) if id_ < 256)


def test_ids_of_a_large_vocabulary_spread_evenly_over_the_buckets():
    loads = np.bincount(fold(np.arange(256, 128_256)), minlength=256)
    assert loads.min() > 0.9 * loads.mean()
    assert loads.max() < 1.1 * loads.mean()


def test_a_large_vocabulary_is_routed_by_language_too():
    windows, whose = languages(4)
    router = Router.fit(windows * 331, 4, PREFIX, seed=0)
    fresh, whose = languages(4, seed=9)
    assert agreement(router.paths(fresh * 331), whose, 4) > 0.9


def test_one_path_takes_everything():
    windows, _ = languages(2)
    assert not Router.fit(windows, 1, PREFIX, seed=0).paths(windows).any()


def test_text_without_any_difference_still_makes_a_router():
    router = Router.fit(np.full((64, 16), 65), 4, 8, seed=0)
    assert set(router.paths(np.full((5, 16), 65)).tolist()) <= {0, 1, 2, 3}


def test_a_router_comes_back_from_its_bytes(fitted):
    again = Router.from_bytes(fitted.to_bytes())
    windows, _ = languages(4, seed=9)
    assert again.digest() == fitted.digest()
    assert np.array_equal(again.scores(windows), fitted.scores(windows))


def test_bytes_that_are_no_router_are_refused(fitted):
    data = fitted.to_bytes()
    for wrong in (b"", data[:10], b"x" + data[1:], data[:-1], data + b"\0", data[: HEADER.size]):
        with pytest.raises(DataError, match=r"no router|cut short"):
            Router.from_bytes(wrong)


def header(count, prefix, like):
    magic, _, _ = HEADER.unpack_from(like)
    return HEADER.pack(magic, count, prefix)


def test_sizes_out_of_range_are_refused_before_anything_is_allocated(fitted):
    data = fitted.to_bytes()
    for count, prefix in ((0, 24), (2**32 - 1, 24), (4, 0), (4, 2**32 - 1)):
        with pytest.raises(DataError, match="expected 1 to"):
            Router.from_bytes(header(count, prefix, data) + data[HEADER.size :])
    with pytest.raises(DataError, match="4096 paths take"):
        Router.from_bytes(header(4096, 24, data) + data[HEADER.size :])


def test_values_out_of_range_are_refused(fitted):
    data = bytearray(fitted.to_bytes())
    data[-2:] = (5).to_bytes(2, "little")
    with pytest.raises(DataError, match="out of range"):
        Router.from_bytes(bytes(data))
    data = bytearray(fitted.to_bytes())
    data[HEADER.size : HEADER.size + 8] = (2**50).to_bytes(8, "little")
    with pytest.raises(DataError, match="out of range"):
        Router.from_bytes(bytes(data))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_with_a_message(data):
    with pytest.raises(DataError):
        Router.from_bytes(data)


def test_too_little_text_and_senseless_numbers_are_named():
    windows, _ = languages(2)
    with pytest.raises(DataError, match="3 windows of text do not feed 8 paths"):
        Router.fit(windows[:3], 8, PREFIX, seed=0)
    with pytest.raises(DataError, match="0 paths"):
        Router.fit(windows, 0, PREFIX, seed=0)
    with pytest.raises(DataError, match="prefix of 0"):
        Router.fit(windows, 2, 0, seed=0)
    with pytest.raises(DataError, match="shape"):
        Router.fit(windows[0], 2, PREFIX, seed=0)
    with pytest.raises(DataError, match="negative"):
        Router.fit(windows - 200, 2, PREFIX, seed=0)
    with pytest.raises(DataError, match="float64"):
        Router.fit(windows.astype(float), 2, PREFIX, seed=0)
