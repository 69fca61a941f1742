"""Which answers of others a span learns from."""

import numpy as np

from duckweed.ledger.entries import Writing
from duckweed.merge.round import blob_hash
from duckweed.round.answers import given, meeting
from duckweed.round.blocks import Span
from duckweed.run.checked import LOSS
from duckweed.run.spec import RunSpec, override
from duckweed.run.task import rollouts as packing
from duckweed.run.task.rollouts import Rollouts

SPEC = override(RunSpec(), {
    "task.kind": "reinforce", "task.samples": 2, "task.tokens": 4, "inner.batch": 4,
    "inner.steps": 6, "model.sequence": 16,
})  # fmt: skip


def made(steps, seed=0):
    """Answers to two problems a step, of which some have no room for one."""
    rng = np.random.default_rng(seed)
    asked = rng.random(2 * steps) < 0.7
    lengths = rng.integers(1, 5, 2 * int(asked.sum()))
    tokens = int(lengths.sum())
    return Rollouts(
        asked, lengths, rng.integers(0, 99, tokens), rng.random(tokens).astype(np.float32),
        rng.integers(0, 2, len(lengths)).astype(np.float32),
    )  # fmt: skip


def said(blob, block, first, steps):
    return Writing(3, 2, block, first, steps, 8, 0.5, blob_hash(blob)), blob


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_answers_are_divided_into_steps_and_put_together_again():
    for seed in range(20):
        whole = made(6, seed)
        parts = packing.split(whole, 6)
        assert [len(part.asked) for part in parts] == [2] * 6
        joined = parts[0]
        for part in parts[1:]:
            joined = joined + part
        assert same(joined, whole)


def test_a_span_learns_from_the_answers_to_its_own_steps_and_writes_the_others_itself():
    whole, more = made(3), made(2, 1)
    found = [said(packing.encode(whole), 7, 0, 3), said(packing.encode(more), 7, 4, 2)]
    steps = given(SPEC, Span(7, 2, 3), found)
    assert sorted(steps) == [2, 4]
    assert same(steps[2], packing.split(whole, 3)[2])
    assert same(steps[4], packing.split(more, 2)[0])


def test_only_answers_for_a_step_of_the_span_are_asked_for():
    writings = [said(b"", block, first, 2)[0] for block, first in ((7, 0), (7, 4), (8, 2))]
    assert meeting(writings, Span(7, 2, 2)) == []
    assert meeting(writings, Span(7, 1, 4)) == writings[:2]


def test_answers_that_cannot_be_read_are_passed_over():
    good = packing.encode(made(3))
    found = [said(good, 7, 0, 3), said(good[:-3], 7, 3, 3), said(b"no answers", 7, 3, 3)]
    assert sorted(given(SPEC, Span(7, 0, 6), found)) == [0, 1, 2]


def test_answers_with_costs_that_no_model_has_are_passed_over():
    """Else whoever learns from them hands in sums that the coordinator does not take."""
    for cost in (np.nan, np.inf, -1.0, 1e30, 2 * LOSS):
        whole = made(3)
        whole.nats[0] = cost
        assert given(SPEC, Span(7, 0, 6), [said(packing.encode(whole), 7, 0, 3)]) == {}
