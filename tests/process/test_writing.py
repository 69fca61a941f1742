"""Peers that only write: what they write is learnt from a round later, by others, to the same bits everywhere."""

import pytest

from .test_conversing import puzzles, rounds, simulated


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("writing")


def with_writers(base, changes=None):
    return puzzles(
        base, {"rounds.peers": 3, "task.writers": 1, "rounds.count": 4} | (changes or {})
    )


@pytest.fixture(scope="module")
def written(base):
    return simulated(base, "written", with_writers(base))


def test_answers_of_a_peer_that_only_writes_are_learnt_from_in_the_next_round(written):
    folder, events, _ = written
    spec = with_writers(folder.path.parent.parent)
    entries = rounds(folder)
    for entry in entries:
        print(
            entry.closed.round,
            entry.blocks,
            entry.closed.accepted,
            entry.closed.rejected,
            entry.writings,
        )
    assert [list(x.writings) for x in entries] == [[2], [2], [2], []]
