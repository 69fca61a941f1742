"""A contribution, done again by the functions that made it."""

import msgspec
import numpy as np
import pytest
from fixtures import tiny

from duckweed.audit.difference import difference
from duckweed.audit.duty import Claim, Unable, examine
from duckweed.audit.replay import replay
from duckweed.round import founding
from duckweed.round.blocks import Span
from duckweed.round.carried import Carried, packed, unpacked
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


@pytest.fixture(scope="module")
def claim(ground):
    """An honest claim of a second contribution, what examines it, and the state that it follows on."""
    spec, layout, data, state = ground
    learner = founding.learner(spec, data, "cpu")
    first = replay(spec, layout, learner, state, Span(0, 0, spec.inner.steps)).carried
    span = Span(1, 0, spec.inner.steps)
    done = replay(spec, layout, learner, state, span, first)
    said = done.contribution.announcement
    honest = Claim(
        span, said.tokens, said.loss, done.contribution.blob, packed(first), packed(done.carried)
    )
    return honest, lambda it, by=learner: examine(spec, layout, by, state, it)


def test_an_honest_contribution_fits_to_the_last_code(claim):
    honest, examined = claim
    found = examined(honest)
    assert (found.wrong, found.detail) == ([], "3 steps, all codes the same")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("tokens", lambda x: x + 1, "tokens claimed"),
        ("loss", lambda x: 1.1 * x, "training loss"),
        ("blob", lambda x: b"\xff" * len(x), ""),
        ("blob", lambda x: b"", ""),
        ("before", lambda x: b"", "distance"),
        ("before", lambda x: b"no arrays", "cannot be read"),
        ("after", lambda x: b"", "cannot be read"),
        ("after", lambda x: x[:-4] + b"\x00\x00\x80\x7f", "not finite"),
    ],
)
def test_whatever_a_peer_shows_instead_is_found_and_ends_no_auditor(claim, name, change, reason):
    honest, examined = claim
    wrong = examined(msgspec.structs.replace(honest, **{name: change(getattr(honest, name))})).wrong
    assert len(wrong) >= 1
    assert reason in " ".join(wrong)


def test_moments_of_another_optimizer_are_the_peers_fault_and_a_broken_machine_is_not(
    claim, ground
):
    spec, layout, data, _ = ground
    honest, examined = claim
    carried = unpacked(honest.before, layout)
    foreign = Carried(0, carried.residual, {"nonsense": np.ones(3, np.float32)})
    found = examined(msgspec.structs.replace(honest, before=packed(foreign)))
    assert found.wrong

    broken = founding.learner(spec, data, "cpu")

    def fails(*_, **__):
        raise RuntimeError("out of memory")

    broken.train = fails
    with pytest.raises(Unable, match="out of memory"):
        examined(honest, broken)


def test_honest_work_of_a_machine_that_multiplies_in_bf16_passes_on_one_that_does_not(ground):
    base, layout, data, state = ground
    span = Span(0, 0, base.inner.steps)
    theirs = override(base, {"inner.precision": "bf16"})
    done = replay(theirs, layout, founding.learner(theirs, data, "cpu"), state, span)
    said = done.contribution.announcement
    claim = Claim(span, said.tokens, said.loss, done.contribution.blob, b"", packed(done.carried))
    own = founding.learner(override(base, {"inner.precision": "fp32"}), data, "cpu")
    found = examine(override(base, {"inner.precision": "auto"}), layout, own, state, claim)
    assert found.wrong == []
    assert "codes differ" in found.detail
