"""A peer's half of a round: what it keeps, and when."""

import numpy as np
import pytest
import torch
from fixtures import tiny

from duckweed.learn import model as models
from duckweed.learn.trainer import Trainer
from duckweed.merge.round import blob_hash
from duckweed.swarm import genesis
from duckweed.swarm.work import Worker, sizes
from duckweed.wire.contribution import decode


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    base = tmp_path_factory.mktemp("work")
    spec = tiny.specification(base, {"inner.state": "kept", "wire.feedback": 1.0})
    folder, ground, state = tiny.found(base, "run", spec)
    return spec, genesis.layout(folder), ground, state


def worker(ground):
    spec, layout, data, _ = ground
    model = models.build(genesis.configuration(spec, data))
    return Worker(spec, layout, data.dataset, Trainer(model, spec.inner, spec.total_steps, "cpu"))


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_a_contribution_says_what_it_is(ground):
    spec, layout, _, state = ground
    made = worker(ground).contribute(state, 2, 5)
    said = made.announcement
    assert (said.round, said.peer, said.block) == (0, 2, 5)
    assert (said.blob, said.size) == (blob_hash(made.blob), len(made.blob))
    assert (said.tokens, said.steps) == (spec.tokens_per_block, spec.inner.steps)
    assert 4 < said.loss < 7
    assert len(said.sizes) == len(layout.names)
    decode(spec.wire, made.blob, layout, state.scales)


def test_the_block_decides_the_contribution_and_the_peer_does_not(ground):
    state = ground[3]
    blobs = [worker(ground).contribute(state, p, b).blob for p, b in [(0, 1), (3, 1), (0, 2)]]
    assert blobs[0] == blobs[1] != blobs[2]


def test_what_was_accepted_stays_in_the_residual_once(ground):
    """Wanted = sent + residual, and the next contribution wants its own delta and that residual."""
    spec, layout, _, state = ground
    one = worker(ground)
    made = one.contribute(state, 0, 0)
    assert not one.residual.any()  # nothing is final before the round has closed
    one.settle(True)
    residual = one.residual.copy()
    assert residual.any()
    one.settle(True)  # a round without a contribution of this peer changes nothing
    assert one.residual.tobytes() == residual.tobytes()
    sent = decode(spec.wire, made.blob, layout, state.scales).values
    fresh = worker(ground)
    delta = fresh.trainer.train(
        state.weights, batches(ground, 0), 0, None, (spec.seed + 0) % 2**63
    ).delta
    np.testing.assert_allclose(sent + residual, delta, atol=1e-7)


def batches(ground, block):
    from duckweed.learn.dataset import batch

    spec, _, data, _ = ground
    inner = spec.inner
    for step in range(inner.steps):
        yield batch(
            data.dataset, spec.seed, block, step, inner.steps, inner.batch, spec.model.sequence
        )


@pytest.mark.parametrize("said", [True, False])
def test_what_was_refused_leaves_no_trace_in_residual_or_moments(ground, said):
    """Whether the refusal was heard or the round never closed for this peer."""
    state = ground[3]
    one, twin = worker(ground), worker(ground)
    for each in (one, twin):
        each.contribute(state, 0, 0)
        each.settle(True)
    one.contribute(state, 0, 7)
    if said:
        one.settle(False)
    a, b = one.contribute(state, 0, 1), twin.contribute(state, 0, 1)
    assert a.blob == b.blob
    assert a.announcement == b.announcement
    one.settle(True)
    twin.settle(True)
    assert one.residual.tobytes() == twin.residual.tobytes()
    assert one.moments
    assert same(one.moments, twin.moments)


def test_a_restarted_peer_goes_on_as_if_it_had_not_stopped(ground, tmp_path):
    state = ground[3]
    one = worker(ground)
    one.contribute(state, 0, 0)
    one.save(tmp_path / "residual.safetensors")  # before anyone knows whether it will count
    one.settle(True)
    again = worker(ground)
    assert again.load(tmp_path / "residual.safetensors")
    assert again.residual.tobytes() == one.residual.tobytes()
    assert again.contribute(state, 0, 1).blob == one.contribute(state, 0, 1).blob


def test_a_damaged_residual_is_not_taken_up(ground, tmp_path):
    one = worker(ground)
    path = tmp_path / "residual.safetensors"
    assert not one.load(path)
    one.contribute(ground[3], 0, 0)
    one.save(path)
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert not one.load(path)
    assert not one.residual.any()


def test_sizes_are_root_mean_squares(ground):
    layout = ground[1]
    x = np.ones(layout.total, np.float32) * 3
    assert sizes(x, layout) == pytest.approx([3.0] * len(layout.names))
