import errno
import os
import shutil
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duckweed.learn.data import corpus, dataset
from duckweed.learn.data.dataset import Dataset, check_size, held_out_batches, sequences
from duckweed.learn.data.preparation import prepare
from duckweed.learn.data.reading import DataError
from duckweed.run.sections import DataSpec

TEXTS = [f"document {i}: " + "word " * (i % 7) + "\n" for i in range(200)]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        (folder / f"{i:03}.txt").write_bytes(text.encode())
    return folder


def of_tokens(train, held_out=1000):
    """A data set whose tokens are their own positions."""
    return Dataset(None, None, np.arange(train, dtype="<u4"), np.arange(held_out, dtype="<u4"))


def texts_of(found, tokens):
    tokenizer = found.tokenizer
    ends = np.flatnonzero(tokens == tokenizer.end)
    return [tokenizer.decode(ids) for ids in np.split(tokens, ends + 1)[:-1]]


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_every_document_is_on_one_side_whole_and_counted(tmp_path, data, tokenizer):
    found = prepare(DataSpec("data", tokenizer=tokenizer, held_out=0.2), tmp_path, tmp_path / "c")
    train, held_out = texts_of(found, found.train), texts_of(found, found.held_out)
    assert sorted(train + held_out) == sorted(TEXTS)
    assert not set(train) & set(held_out)
    assert 20 < len(held_out) < 60
    m = found.manifest
    assert (m.split, m.documents, m.skipped) == ("documents", len(TEXTS), {})
    for texts, documents, size, tokens, stored in (
        (train, m.train_documents, m.train_bytes, m.train_tokens, found.train),
        (held_out, m.held_out_documents, m.held_out_bytes, m.held_out_tokens, found.held_out),
    ):
        assert (documents, tokens) == (len(texts), len(stored))
        assert size == sum(len(text.encode()) for text in texts)
        assert tokenizer != "bytes" or tokens == size + documents
    found.verify()


def test_golden_hashes_that_every_machine_must_reach(tmp_path, data):
    m = prepare(DataSpec("data"), tmp_path, tmp_path / "cache").manifest
    assert m.hash == "ebd0f3309629ee4092e462bee51d50d60e749ce1605d73a13fe733587c821179"
    assert m.tokens_hash == "c026e3802f2c6ea26e79f07756f2aba718b50551039491bb5427ed5c99e7dda8"


def test_the_same_text_elsewhere_gives_the_same_tokens(tmp_path, data):
    spec = DataSpec("data", tokenizer="bpe:300")
    here = prepare(spec, tmp_path, tmp_path / "cache")
    shutil.copytree(data, tmp_path / "there" / "data", copy_function=shutil.copyfile)
    there = prepare(spec, tmp_path / "there", tmp_path / "cache")
    assert here.folder != there.folder
    assert here.manifest == there.manifest


def test_a_document_stays_on_its_side_and_so_do_its_copies(tmp_path, data):
    spec = DataSpec("data", held_out=0.2)
    before = prepare(spec, tmp_path, tmp_path / "cache")
    for i, text in enumerate(TEXTS):
        (data / f"copy-{i}.txt").write_bytes(text.encode())
        (data / f"new-{i}.txt").write_bytes(b"new " + text.encode())
    after = prepare(spec, tmp_path, tmp_path / "cache")
    assert after.manifest.documents == 3 * len(TEXTS)
    train, held_out = texts_of(after, after.train), texts_of(after, after.held_out)
    assert not set(train) & set(held_out)
    assert set(texts_of(before, before.train)) <= set(train)


def test_a_single_text_is_split_by_position(tmp_path):
    text = "".join(f"line {i} ä\n" for i in range(1000))
    (tmp_path / "book.txt").write_bytes(text.encode())
    found = prepare(DataSpec("book.txt"), tmp_path, tmp_path / "cache")
    (train,), (held_out,) = texts_of(found, found.train), texts_of(found, found.held_out)
    assert train + held_out == text
    assert found.manifest.split == "position"
    assert found.manifest.held_out_bytes == pytest.approx(0.05 * len(text.encode()), abs=2)


def test_a_cut_by_position_does_not_split_a_character(tmp_path):
    for size in range(20, 24):
        (tmp_path / "a.txt").write_bytes(("x" * (size % 4) + "🎉" * size).encode())
        found = prepare(DataSpec("a.txt", held_out=0.5), tmp_path, tmp_path / "cache")
        for tokens in (found.train, found.held_out):
            assert bytes(tokens).decode().rstrip("\0").strip("x").strip("🎉") == ""


def test_uneven_documents_are_split_by_position(tmp_path):
    (tmp_path / "d").mkdir()
    for i in range(30):  # one of them is most of the text
        (tmp_path / "d" / f"{i:02}").write_text(f"{i} " * (20_000 if i == 3 else 2))
    found = prepare(DataSpec("d"), tmp_path, tmp_path / "cache")
    assert found.manifest.split == "position"
    total = found.manifest.train_bytes + found.manifest.held_out_bytes
    assert found.manifest.held_out_bytes == pytest.approx(0.05 * total, abs=2)


def test_everything_can_be_held_out_for_an_evaluation(tmp_path, data):
    found = prepare(DataSpec("data", held_out=1.0), tmp_path, tmp_path / "cache")
    assert (found.manifest.split, len(found.train)) == ("documents", 0)
    assert texts_of(found, found.held_out) == TEXTS
    Dataset.open(found.folder)


def test_what_did_not_change_is_read_once(tmp_path, data):
    calls = []
    spec, cache = DataSpec("data"), tmp_path / "cache"

    def again(spec=spec):
        calls.clear()
        prepare(spec, tmp_path, cache, lambda what, done: calls.append((what, done)))
        return bool(calls)

    assert again()
    total = sum(len(text) for text in TEXTS)
    assert ("read", total) in calls
    assert calls[-1] == ("tokenise", total)
    assert not again()
    (data / "000.txt").write_text("something else")
    assert again()
    assert again(DataSpec("data", held_out=0.3))
    assert not again()


def test_a_tokenizer_file_that_changed_is_noticed(tmp_path, data):
    for size in (300, 310):
        dataset.tokenizers.train_bpe(TEXTS, size).save(tmp_path / "tok")
        for name in ("tok", "tok/tokenizer.json"):
            found = prepare(DataSpec("data", tokenizer=name), tmp_path, tmp_path / "cache")
            assert found.manifest.vocabulary == size


def test_many_at_once_prepare_once(tmp_path, data):
    readers, found = set(), []

    def work(number):
        report = lambda what, done: readers.add(number)  # noqa: E731
        found.append(prepare(DataSpec("data"), tmp_path, tmp_path / "cache", report))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(readers) == 1
    assert len({one.folder for one in found}) == 1
    assert len(found) == 5


def test_a_killed_attempt_and_a_damaged_cache_are_made_again(tmp_path, data):
    spec, cache = DataSpec("data"), tmp_path / "cache"
    first = prepare(spec, tmp_path, cache)
    folder, manifest = first.folder, first.manifest
    folder.rename(folder.with_suffix(".part"))  # as if killed before the rename
    assert prepare(spec, tmp_path, cache).manifest == manifest
    os.truncate(folder / "train.bin", 10)
    assert prepare(spec, tmp_path, cache).manifest == manifest
    assert sorted(p.suffix for p in cache.iterdir()) == ["", ".lock"]


def test_open_notices_damage(tmp_path, data):
    folder = prepare(DataSpec("data"), tmp_path, tmp_path / "cache").folder
    with pytest.raises(DataError, match="is damaged"):
        Dataset.open(tmp_path)
    tokens = bytearray((folder / "train.bin").read_bytes())
    tokens[5] ^= 1
    (folder / "train.bin").write_bytes(tokens)
    with pytest.raises(DataError, match="was altered"):
        Dataset.open(folder).verify()
    os.truncate(folder / "train.bin", 10)
    with pytest.raises(DataError, match=r"train\.bin has 10 bytes instead of"):
        Dataset.open(folder)
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"uint8"', '"object"'))
    with pytest.raises(DataError, match="unknown type object"):
        Dataset.open(folder)
    (folder / "manifest.json").write_text(text.replace('"format": 1', '"format": 99'))
    with pytest.raises(DataError, match="format 99"):
        Dataset.open(folder)
    (folder / "manifest.json").write_text(text[:50])
    with pytest.raises(DataError, match="is damaged"):
        Dataset.open(folder)


def test_a_disk_without_room(tmp_path, data, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(DataError, match="MB are free; free some room"):
            prepare(DataSpec("data"), tmp_path, tmp_path / "cache")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(corpus.Spool, "fill", full)
    with pytest.raises(DataError, match="No space left on device"):
        prepare(DataSpec("data"), tmp_path, tmp_path / "cache")
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".lock"]


def test_too_little_data_for_a_batch():
    assert sequences(of_tokens(0), 10) == 0
    assert sequences(of_tokens(10), 10) == 0
    assert sequences(of_tokens(11), 10) == 1
    assert sequences(of_tokens(21), 10) == 2
    check_size(of_tokens(21), 10, 2)
    with pytest.raises(DataError, match="2 sequences of 10 tokens, but 3 are needed"):
        check_size(of_tokens(21), 10, 3)
    with pytest.raises(DataError, match="10 held-out tokens are fewer than one sequence"):
        check_size(of_tokens(21, held_out=10), 10, 1)
    with pytest.raises(DataError, match="0 sequences"):
        dataset.batch(of_tokens(5), 0, 0, 0, 1, 1, 10)


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**64 - 1))
def test_every_window_once_an_epoch_whatever_the_blocks(windows, steps, size, seed):
    length, epochs = 4, 3
    found = of_tokens(windows * length + 1)
    needed = epochs * windows
    rows = [
        row
        for block in range(-(-needed // (steps * size)))
        for step in range(steps)
        for row in dataset.batch(found, seed, block, step, steps, size, length)
    ]
    for epoch in range(epochs):
        starts = sorted(row[0] // length for row in rows[epoch * windows : (epoch + 1) * windows])
        assert starts == list(range(windows))
    for row in rows:
        assert row.tolist() == list(range(row[0], row[0] + length + 1))


def test_golden_batch_that_every_machine_must_reach():
    found = of_tokens(10_001)
    got = dataset.batch(found, seed=7, block=3, step=2, steps=10, batch=4, length=100)
    assert got.dtype == np.int64
    assert got.shape == (4, 101)
    assert (got[:, 0] // 100).tolist() == [33, 0, 68, 31]
    assert dataset.position(3, 2, 10, 4) == 128


def test_seeds_and_epochs_have_orders_of_their_own():
    found = of_tokens(1001)

    def order(seed, block):
        return tuple(dataset.batch(found, seed, block, 0, 1, 100, 10)[:, 0].tolist())

    orders = {order(1, 0), order(1, 1), order(2, 0), order(2, 1)}
    assert len(orders) == 4
    assert len({tuple(sorted(o)) for o in orders}) == 1


@given(st.integers(11, 2000), st.integers(1, 3000))
def test_held_out_windows_are_spread_apart_and_limited(tokens, limit):
    found = of_tokens(1, held_out=tokens)
    rows = np.concatenate(list(held_out_batches(found, 10, limit, batch=7)))
    windows = (tokens - 1) // 10
    starts = rows[:, 0] // 10
    assert len(starts) == min(windows, max(1, limit // 10))
    gaps = np.diff([*starts, windows])
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    assert (rows == rows[:, :1] + np.arange(11)).all()


def test_held_out_without_a_limit_is_every_window_once():
    batches = list(held_out_batches(of_tokens(1, held_out=101), 10, batch=4))
    assert [len(b) for b in batches] == [4, 4, 2]
    assert np.concatenate(batches)[:, 0].tolist() == list(range(0, 100, 10))
    with pytest.raises(DataError, match="held-out tokens are fewer"):
        list(held_out_batches(of_tokens(1, held_out=10), 10))
