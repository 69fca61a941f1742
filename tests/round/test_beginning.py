"""Where a peer's own steps begin: the merged weights, and as much of what it could not send yet as fits."""

import msgspec
import numpy as np
import pytest
from fixtures import tiny

from duckweed.merge import trunk
from duckweed.round import beginning, founding
from duckweed.round.blocks import Span
from duckweed.round.engine import Engine, MemoryBlobs
from duckweed.round.worker import Worker
from duckweed.run.family import common, of_path
from duckweed.run.spec import override, parse
from duckweed.run.toml import write

ALONE = {
    "rounds.peers": 1, "inner.guide": 0.0, "inner.precision": "fp32",
    "outer.learning_rate": 1.0, "outer.momentum": 0.0,
}  # fmt: skip
INTEGER = {"wire.kind": "integer", "wire.feedback": 1.0}
OVERLAP = {"rounds.overlap": 0.5}


def rounds(base, changes, count=4):
    """Merged weights and worker after so many rounds of a peer that is alone, on the same text."""
    spec = tiny.specification(base, ALONE | changes)
    folder, ground, state = tiny.found(base, "run", spec)
    layout = founding.layout(folder)
    worker = Worker(spec, layout, founding.learner(spec, ground, "cpu"))
    begun = None
    for block in range(count):
        span = Span(block, 0, spec.inner.steps)
        made = worker.compress(state, 0, worker.train(state, span, begun=begun))
        if spec.rounds.overlap:
            begun = worker.ahead(state, Span(block + 1, 0, spec.inner.steps))
        engine = Engine(spec, layout, MemoryBlobs({made.announcement.blob: made.blob}))
        closed = engine.close(state.shared.tolist(), [made.announcement])
        worker.close_round(True)
        state = engine.advance(state, closed)
    return state.weights, worker.carried.residual


@pytest.mark.parametrize("more", [{}, OVERLAP], ids=["in turn", "ahead"])
def test_one_peer_alone_trains_as_if_all_of_it_were_sent(tmp_path, more):
    """Its weights are the merged ones and its residual, whatever the correlation is said to be."""
    whole = {"wire.kind": "dense", "wire.dtype": "fp32"}
    exact, nothing = rounds(tmp_path / "exact", whole | more)
    assert not nothing.any()
    for alike in (0.0, 0.4):
        merged, residual = rounds(tmp_path / f"{alike}", INTEGER | more | {"inner.residual": alike})
        assert np.abs(residual).max() > 1e-3
        np.testing.assert_allclose(merged - residual, exact, atol=2e-5)
    merged, residual = rounds(tmp_path / "forgotten", INTEGER | more)
    assert np.abs(merged - residual - exact).max() > 1e-3


def test_the_share_goes_from_all_of_it_to_the_correlation():
    assert [beginning.share(c, 1) for c in (0.0, 0.4, 1.0)] == [1.0, 1.0, 1.0]
    assert beginning.share(0.0, 8) == 1 / 8
    assert beginning.share(0.4, 10**9) == pytest.approx(0.4)
    found = [beginning.share(0.4, n) for n in range(1, 20)]
    assert found == sorted(found, reverse=True)


def test_the_share_is_the_best_guess_of_the_mean_of_all_residuals():
    """By draws: residuals with a part in common."""
    rng, peers, alike = np.random.default_rng(1), 5, 0.3
    same, own = rng.standard_normal(200_000), rng.standard_normal((peers, 200_000))
    residuals = np.sqrt(alike) * same + np.sqrt(1 - alike) * own
    first = residuals[0]
    best = float(first @ residuals.mean(0) / (first @ first))
    assert beginning.share(alike, peers) == pytest.approx(best, abs=0.01)


def test_without_it_a_peer_begins_from_the_merged_weights(tmp_path):
    spec = tiny.specification(tmp_path, INTEGER)
    merged, residual = np.ones(4, np.float32), np.full(4, 2.0, np.float32)
    folder, _, _ = tiny.found(tmp_path, "run", spec)
    layout = founding.layout(folder)
    assert beginning.weights(spec, layout, merged, residual) is merged
    kept_back = override(spec, {"inner.residual": 0.4, "wire.feedback": 0.0})
    assert beginning.weights(kept_back, layout, merged, residual) is merged


def test_of_a_trunk_a_peer_applies_what_all_paths_share_and_of_its_path_all(tmp_path):
    family = tiny.specification(
        tmp_path,
        INTEGER | {
            "inner.residual": 0.4, "paths.count": 4, "paths.prefix": 8, "paths.common": 0.2,
            "paths.shared": "trunk", "rounds.count": 5, "rounds.peers": 4,
        },
    )  # fmt: skip
    folder, _, _ = tiny.found(tmp_path, "run", common(family))
    layout, path = founding.layout(folder), of_path(family, 1, "0" * 64)
    zero, one = np.zeros(layout.total, np.float32), np.ones(layout.total, np.float32)
    begin = beginning.weights(path, layout, zero, one)
    split = trunk.split_of(path, layout)
    assert split.own.take(begin).tolist() == [-1.0] * split.own.layout.total
    np.testing.assert_allclose(split.trunk.take(begin), -0.55, rtol=1e-6)
    assert not zero.any()
    apart = override(path, {"paths.shared": "none"})
    assert beginning.weights(apart, layout, zero, one).tolist() == [-1.0] * layout.total


def test_a_specification_keeps_it_and_those_without_keep_their_identity(tmp_path):
    spec = tiny.specification(tmp_path)
    assert "residual" not in write(spec)
    named = override(spec, {"inner.residual": 0.4})
    assert parse(write(named)) == named
    assert msgspec.json.decode(msgspec.json.encode(named))["inner"]["residual"] == 0.4
    with pytest.raises(ValueError, match=r"inner.residual = 1.5"):
        override(spec, {"inner.residual": 1.5})
