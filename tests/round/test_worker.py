"""A peer's half of a round: what it keeps, and when."""

import msgspec
import numpy as np
import pytest
from fixtures import tiny

from duckweed.learn.learner import Part
from duckweed.learn.optim.muon import guide
from duckweed.merge.round import advance, blob_hash, close
from duckweed.round import founding
from duckweed.round.blocks import Span
from duckweed.round.engine import Engine, MemoryBlobs
from duckweed.round.worker import Worker, disk_needed
from duckweed.wire.codec import codec_of, rms


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    base = tmp_path_factory.mktemp("work")
    spec = tiny.specification(base, {"inner.state": "kept", "wire.feedback": 1.0})
    folder, ground, state = tiny.found(base, "run", spec)
    return spec, founding.layout(folder), ground, state


def worker(ground):
    spec, layout, data, _ = ground
    return Worker(spec, layout, founding.learner(spec, data, "cpu"))


def same(a, b):
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_contribution_says_what_it_is(ground):
    spec, layout, _, state = ground
    made = worker(ground).contribute(state, 2, 5)
    said = made.announcement
    assert (said.round, said.peer, said.block) == (0, 2, 5)
    assert (said.blob, said.size) == (blob_hash(made.blob), len(made.blob))
    assert (said.tokens, said.steps) == (spec.tokens_per_block, spec.inner.steps)
    assert 4 < said.loss < 7
    assert len(said.rms) == len(layout.names)
    codec_of(spec.wire, layout).decode(made.blob, state.shared)


def test_the_block_decides_the_contribution_and_the_peer_does_not(ground):
    state = ground[3]
    blobs = [worker(ground).contribute(state, p, b).blob for p, b in [(0, 1), (3, 1), (0, 2)]]
    assert blobs[0] == blobs[1] != blobs[2]


def test_what_was_accepted_stays_in_the_residual_once(ground):
    """Wanted = sent + residual, and the next contribution wants its own delta and that residual."""
    spec, layout, _, state = ground
    one = worker(ground)
    made = one.contribute(state, 0, 0)
    assert not one.carried.residual.any()  # nothing is final before the round has closed
    one.close_round(True)
    residual = one.carried.residual.copy()
    assert residual.any()
    one.close_round(True)  # a round without a contribution of this peer changes nothing
    assert one.carried.residual.tobytes() == residual.tobytes()
    sent = codec_of(spec.wire, layout).decode(made.blob, state.shared).values
    fresh = worker(ground)
    delta = fresh.learner.train(state.weights, Part(0, 0, spec.inner.steps, seed=spec.seed)).delta
    np.testing.assert_allclose(sent + residual, delta, atol=1e-7)


@pytest.mark.parametrize("said", [True, False])
def test_what_was_refused_leaves_no_trace_in_residual_or_optimizer_state(ground, said):
    """Whether the refusal was heard or the round never closed for this peer."""
    state = ground[3]
    one, twin = worker(ground), worker(ground)
    for each in (one, twin):
        each.contribute(state, 0, 0)
        each.close_round(True)
    one.contribute(state, 0, 7)
    if said:
        one.close_round(False)
    a, b = one.contribute(state, 0, 1), twin.contribute(state, 0, 1)
    assert a.blob == b.blob
    assert a.announcement == b.announcement
    one.close_round(True)
    twin.close_round(True)
    assert one.carried.residual.tobytes() == twin.carried.residual.tobytes()
    assert one.carried.optimizer
    assert same(one.carried.optimizer, twin.carried.optimizer)


def test_a_restarted_peer_goes_on_as_if_it_had_not_stopped(ground, tmp_path):
    state = ground[3]
    one = worker(ground)
    one.contribute(state, 0, 0)
    one.save(tmp_path / "residual.safetensors")  # before anyone knows whether it will count
    one.close_round(True)
    again = worker(ground)
    assert again.load(tmp_path / "residual.safetensors", 0)
    assert again.carried.residual.tobytes() == one.carried.residual.tobytes()
    assert again.contribute(state, 0, 1).blob == one.contribute(state, 0, 1).blob


def test_a_damaged_residual_is_not_taken_up(ground, tmp_path):
    one = worker(ground)
    path = tmp_path / "residual.safetensors"
    assert not one.load(path, 0)
    one.contribute(ground[3], 0, 0)
    one.save(path)
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert not one.load(path, 0)
    for start in (
        len(whole) // 2,
        len(whole) - 8,
    ):  # as a loss of power leaves what was not written yet
        path.write_bytes(whole[:start] + bytes(len(whole) - start))
        assert not one.load(path, 0)
    assert not one.carried.residual.any()


# --- momenta kept and guided

FP32 = {"wire.kind": "dense", "wire.dtype": "fp32"}


def merged(spec, layout, state, made):
    engine = Engine(spec, layout, MemoryBlobs({c.announcement.blob: c.blob for c in made}))
    closed = engine.close(state.shared.tolist(), [c.announcement for c in made])
    return engine.advance(state, closed)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_guess_of_the_momenta_is_put_right(tmp_path, share):
    """Muon's momentum is linear in the one that it began with: begun with a wrong guess and put right
    it ends as if begun with the right one, guided by what was merged meanwhile. (At a learning rate of
    nearly 0 the gradients are alike.)"""
    facts = FP32 | {
        "rounds.overlap": 0.7, "inner.steps": 5,
        "inner.learning_rate": 1e-8, "inner.momentum_warmup": 9, "inner.warmup": 0,
        "inner.guide": share, "inner.precision": "fp32",
    }  # fmt: skip
    spec = tiny.specification(tmp_path, facts)
    folder, ground, state = tiny.found(tmp_path, "run", spec)
    layout = founding.layout(folder)
    one = worker((spec, layout, ground, state))
    one.contribute(state, 0, 0)
    one.close_round(True, 0)
    rng = np.random.default_rng(0)
    step = rng.standard_normal(layout.total, np.float32)
    after = msgspec.structs.replace(state, round=1, momentum=step)
    block = Span(4, 0, 5)
    begun = one.ahead(state, block)
    assert begun.ahead == 4
    whole, stepwise = one.train(after, block), one.train(after, block, begun=begun)
    ends = [x.optimizer for x in (whole, stepwise)]
    matrices = [name for name in ends[0] if name.startswith("muon.")]
    assert len(matrices) == 14
    for name in matrices:
        np.testing.assert_allclose(ends[1][name], ends[0][name], atol=1e-4)


def guided(tmp_path, share, more):
    spec = tiny.specification(tmp_path, FP32 | more | {"inner.guide": share})
    folder, ground, state = tiny.found(tmp_path, "run", spec)
    return spec, founding.layout(folder), ground, state


def test_a_round_begins_with_momenta_turned_to_the_last_merged_step(tmp_path):
    """What a peer holds stays as it was: only the steps of the round begin elsewhere."""
    whole = {"outer.learning_rate": 1.0, "outer.momentum": 0.0}
    spec, layout, data, state = guided(tmp_path, 0.3, whole)
    one = worker((spec, layout, data, state))
    made = one.contribute(state, 0, 0)
    one.close_round(True)
    after = merged(spec, layout, state, [made])
    step = state.weights - after.weights
    np.testing.assert_allclose(after.momentum, step, atol=1e-6)
    before = {n: x.copy() for n, x in one.carried.optimizer.items()}
    turned = {n: x.copy() for n, x in before.items()}
    weights = set(layout.names)
    name = next(n for n in turned if n.startswith("muon."))
    assert name.removeprefix("muon.") in weights
    guide(turned, after.momentum, layout, 0.3)
    part = Part(block=1, first=0, steps=3, number=3, seed=spec.seed + 1)
    own = one.learner.train(after.weights, part, turned)
    found = one.train(after, Span(1, 0, 3)).delta
    assert found.tobytes() == own.delta.tobytes()
    assert same(one.carried.optimizer, before)


# --- with overlap


@pytest.fixture(scope="module", params=["fresh", "kept"])
def half(tmp_path_factory, request):
    """Two of three steps of a round are trained ahead."""
    base = tmp_path_factory.mktemp("half")
    facts = {
        "inner.state": request.param, "wire.feedback": 1.0, "rounds.overlap": 0.5,
        "inner.precision": "fp32",  # in bf16 the rounding of a step's weights alone moves the next one
    }  # fmt: skip
    spec = tiny.specification(base, facts)
    folder, ground, state = tiny.found(base, "run", spec)
    return spec, founding.layout(folder), ground, state


BLOCK = Span(4, 0, 3)


def moved(state, by):
    """The state one round on, and away by so much."""
    return msgspec.structs.replace(state, round=state.round + 1, weights=state.weights + by)


def test_what_was_begun_goes_on_from_the_newest_state(half):
    state = half[3]
    one = worker(half)
    begun = one.ahead(state, BLOCK)
    assert (begun.round, begun.steps, begun.ahead) == (1, 2, 2)
    # Nothing came in between: it is as if the block had been trained in one go.
    whole = worker(half).train(moved(state, 0), BLOCK)
    stepwise = one.train(moved(state, 0), BLOCK, begun=begun)
    np.testing.assert_allclose(stepwise.delta, whole.delta, atol=1e-6)
    assert stepwise.loss == pytest.approx(whole.loss, rel=1e-5)
    assert (stepwise.tokens, stepwise.steps, stepwise.ahead) == (whole.tokens, 3, 2)
    # The merge moved the weights: the last step is taken from there, the first two stay.
    begun = one.ahead(state, BLOCK)
    far = one.train(moved(state, np.float32(0.01)), BLOCK, begun=begun)
    assert far.delta.tobytes() != stepwise.delta.tobytes()
    assert far.loss != stepwise.loss
    said = one.compress(moved(state, 0), 0, far).announcement
    assert (said.round, said.block, said.steps, said.ahead) == (1, 4, 3, 2)


def test_training_ahead_touches_nothing_that_is_on_its_way(half, tmp_path):
    """The residual of a contribution that is being exchanged is that of the contribution, whatever
    is trained meanwhile, and it counts once."""
    state = half[3]
    one, twin = worker(half), worker(half)
    for each in (one, twin):
        each.contribute(state, 0, 0)
    one.ahead(state, BLOCK)
    one.save(tmp_path / "one")
    twin.save(tmp_path / "twin")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "twin").read_bytes()
    assert not one.carried.residual.any()
    for each in (one, twin):
        each.close_round(True, 0)
    assert one.carried.residual.tobytes() == twin.carried.residual.tobytes()
    residual = one.carried.residual.copy()
    made = one.train(moved(state, 0), BLOCK, begun=one.ahead(state, BLOCK))
    one.compress(moved(state, 0), 0, made)
    one.close_round(True, 0)  # told again of the round before, it changes nothing
    assert one.carried.residual.tobytes() == residual.tobytes()
    one.close_round(False, 1)
    assert one.carried.residual.tobytes() == residual.tobytes()


def test_if_all_send_the_same_nothing_that_was_trained_ahead_is_late(half, tmp_path):
    """The guess of the merge is then the merge; and a restarted peer makes the same guess."""
    spec, layout, _, state = half
    one = worker(half)
    made = one.contribute(state, 0, 0)
    one.save(tmp_path / "residual")
    closed, blobs = close(
        spec, layout, state.shared.tolist(), [made.announcement], lambda digest: made.blob
    )
    after = advance(spec, layout, state, closed, blobs.__getitem__)
    assert after.weights.tobytes() != state.weights.tobytes()
    begun = one.ahead(state, BLOCK)
    one.close_round(True, 0)
    whole, stepwise = one.train(after, BLOCK), one.train(after, BLOCK, begun=begun)
    np.testing.assert_allclose(stepwise.delta, whole.delta, atol=1e-6)
    again = worker(half)
    assert again.load(tmp_path / "residual", 0)
    for each in (one, again):
        assert each.ahead(state, BLOCK).delta.tobytes() == begun.delta.tobytes()


def test_who_has_sent_nothing_or_in_vain_guesses_nothing(half):
    state = half[3]
    one, twin = worker(half), worker(half)
    one.contribute(state, 0, 0)
    one.close_round(False, 0)
    assert one.ahead(state, BLOCK).delta.tobytes() == twin.ahead(state, BLOCK).delta.tobytes()


@pytest.mark.parametrize("accepted", [True, False])
def test_a_peer_killed_with_work_in_hand_keeps_its_residual_if_it_counts(half, tmp_path, accepted):
    state = half[3]
    one = worker(half)
    one.contribute(state, 0, 0)
    one.save(tmp_path / "residual")
    again = worker(half)
    assert again.load_pending(tmp_path / "residual", 0)
    assert not again.carried.residual.any()
    for each in (one, again):
        each.close_round(accepted, 0)
    assert again.carried.residual.tobytes() == one.carried.residual.tobytes()
    assert again.carried.residual.any() == accepted
    assert same(again.carried.optimizer, one.carried.optimizer)


def test_work_in_hand_of_which_nothing_is_left_is_forgotten_when_it_counts(half, tmp_path):
    one = worker(half)
    one.contribute(half[3], 0, 0)
    one.close_round(True)
    assert not one.load_pending(tmp_path / "no such file", 1)
    one.close_round(True, 1)
    assert not one.carried.residual.any()


def test_what_is_announced_are_root_mean_squares(ground):
    layout = ground[1]
    x = np.ones(layout.total, np.float32) * 3
    assert rms(x, layout) == pytest.approx([3.0] * len(layout.names))


@pytest.mark.parametrize("kind", ["fresh", "kept"])
def test_the_disk_that_is_asked_for_is_what_the_files_take(kind, tmp_path):
    """Three states and two residuals of real files with their moments, but for AdamW's second of
    small parts; what is on top is one vector of blobs."""
    spec = tiny.specification(tmp_path / "base", FP32 | {"inner.state": kind})
    folder, ground, state = tiny.found(tmp_path / "base", "run", spec)
    layout = founding.layout(folder)
    one = worker((spec, layout, ground, state))
    one.contribute(state, 0, 0)
    one.save(tmp_path / "residual")
    state.save(tmp_path / "state")
    state_size, residual = ((tmp_path / x).stat().st_size for x in ("state", "residual"))
    needed = disk_needed(spec.inner, layout)
    written = 3 * state_size + 2 * residual
    assert 0.8 * written < needed - 4 * layout.total < written
    assert 0.7 * 4 * residual < disk_needed(spec.inner, layout, 3) - needed < 4 * residual
