"""A newcomer in a run whose merge leaves out who disagrees: its own momenta and residual must grow first."""

import pytest
from fixtures import tiny

from duckweed.merge import trust
from duckweed.round import founding
from duckweed.round.engine import Engine, MemoryBlobs
from duckweed.round.worker import Worker

PEERS, JOINS, ROUNDS = 5, 4, 16


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """Each round as it closed; from the fifth on the last peer is a newcomer."""
    base = tmp_path_factory.mktemp("newcomer")
    changes = {"merge.rule": "filtered", "rounds.peers": PEERS, "rounds.count": 40}
    spec = tiny.specification(base, changes | {"inner.steps": 8, "inner.state": "kept"})
    folder, ground, state = tiny.found(base, "run", spec)
    layout, learner = founding.layout(folder), founding.learner(spec, ground, "cpu")
    workers = [Worker(spec, layout, learner) for _ in range(PEERS)]
    memory, closed = {}, []
    for number in range(ROUNDS):
        if number == JOINS:
            workers[-1] = Worker(spec, layout, learner)
            memory.pop(PEERS - 1)
        blobs = MemoryBlobs()
        made = [w.contribute(state, p, PEERS * number + p) for p, w in enumerate(workers)]
        blobs.update({one.announcement.blob: one.blob for one in made})
        engine = Engine(spec, layout, blobs)
        handed = [one.announcement for one in made]
        closed.append(engine.close([float(x) for x in state.shared], handed, memory))
        trust.recall(memory, closed[-1])
        state = engine.advance(state, closed[-1])
        for peer, one in enumerate(workers):
            one.close_round(peer in closed[-1].carrying(), number)
    return closed


def test_a_newcomer_counts_after_some_rounds_and_its_work_is_not_forgotten(rounds):
    """In a model as small as this one contributions are long and short by turns, and a newcomer is out of
    step for some rounds more: then every second one counts."""
    newcomer = PEERS - 1
    counted = [one.round for one in rounds[JOINS:] if newcomer in one.accepted]
    assert len(counted) >= 4
    assert rounds[-1].standing[newcomer].work == rounds[-1].standing[0].work // ROUNDS * len(
        counted
    )


def test_nobody_else_is_left_out_meanwhile(rounds):
    assert all(set(one.accepted) >= set(range(PEERS - 1)) for one in rounds)
