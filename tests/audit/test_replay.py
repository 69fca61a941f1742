"""A contribution, done again by the functions that made it."""

import numpy as np
import pytest
from fixtures import tiny

from duckweed.audit.difference import difference
from duckweed.audit.replay import replay
from duckweed.round import founding
from duckweed.round.blocks import Span
from duckweed.round.engine import Engine, MemoryBlobs
from duckweed.round.worker import Worker
from duckweed.run.spec import override
from duckweed.wire.codec import codec_of

WIRES = {
    "integer": {"wire.kind": "integer"},
    "sparse": {"wire.kind": "sparse"},
    "int8": {"wire.kind": "dense", "wire.dtype": "int8", "wire.feedback": 1.0},
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    base = tmp_path_factory.mktemp("replay")
    spec = tiny.specification(base)
    folder, ground, state = tiny.found(base, "run", spec)
    return spec, founding.layout(folder), ground, state


@pytest.mark.parametrize("changes", WIRES.values(), ids=WIRES)
def test_a_contribution_done_again_is_the_same_to_the_last_bit(ground, changes):
    """Also in later rounds, where its peer has carried over residual and moments; and so is what it
    carries then."""
    base, layout, data, state = ground
    spec = override(base, changes)
    learner = founding.learner(spec, data, "cpu")
    worker, carried = Worker(spec, layout, learner), None
    for round_ in range(3):
        made = worker.contribute(state, 0, round_)
        worker.close_round(True)
        done = replay(spec, layout, learner, state, Span(round_, 0, spec.inner.steps), carried)
        assert done.contribution.blob == made.blob
        assert done.contribution.announcement == made.announcement
        assert done.carried.residual.tobytes() == worker.carried.residual.tobytes()
        assert done.carried.optimizer
        assert all(
            np.array_equal(done.carried.optimizer[name], value)
            for name, value in worker.carried.optimizer.items()
        )
        carried = done.carried
        engine = Engine(spec, layout, MemoryBlobs({made.announcement.blob: made.blob}))
        state = engine.advance(state, engine.close(state.shared.tolist(), [made.announcement]))


def test_what_was_carried_stays_as_it_is(ground):
    spec, layout, data, state = ground
    learner, span = founding.learner(spec, data, "cpu"), Span(0, 0, spec.inner.steps)
    carried = replay(spec, layout, learner, state, span).carried
    before = carried.residual.copy(), {name: x.copy() for name, x in carried.optimizer.items()}
    first, second = (
        replay(spec, layout, learner, state, span, carried).contribution.blob for _ in range(2)
    )
    assert first == second
    assert carried.residual.tobytes() == before[0].tobytes()
    assert all(np.array_equal(carried.optimizer[name], x) for name, x in before[1].items())


def test_without_what_was_carried_it_is_another_one(ground):
    spec, layout, data, state = ground
    learner, span = founding.learner(spec, data, "cpu"), Span(0, 0, spec.inner.steps)
    carried = replay(spec, layout, learner, state, span).carried
    with_it = replay(spec, layout, learner, state, span, carried).contribution.blob
    without = replay(spec, layout, learner, state, span).contribution.blob
    found = difference(spec, layout, state.shared, with_it, without)
    assert found.share > 0.05


@pytest.mark.parametrize("changes", WIRES.values(), ids=WIRES)
def test_a_difference_counts_codes_in_each_tensor(ground, changes):
    base, layout, data, state = ground
    spec = override(base, changes)
    codec, part = codec_of(spec.wire, layout), layout.slices()[3]
    made = Worker(spec, layout, founding.learner(spec, data, "cpu")).contribute(state, 0, 0)
    values = codec.decode(made.blob, state.shared).values.copy()
    sent = int(np.count_nonzero(values[part]))
    assert sent
    values[part] *= -1
    flipped = codec.encode(values, state.shared).blob
    same = difference(spec, layout, state.shared, made.blob, made.blob)
    assert (same.codes, same.differ, same.distance) == (layout.total, 0, 0)
    found = difference(
        spec, layout, state.shared, flipped, codec.encode(-values, state.shared).blob
    )
    assert found.distance == pytest.approx(2, rel=0.01)
    found = difference(spec, layout, state.shared, flipped, made.blob)
    assert [one.name for one in found.tensors if one.distance > 1] == [layout.names[3]]
    assert found.tensors[3].differ == sent
    assert found.tensors[3].distance == pytest.approx(2, rel=0.01)
