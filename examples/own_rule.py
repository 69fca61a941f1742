"""A merge rule of one's own: per value the median of the peers, which one liar cannot move far
(coordinate-wise median, Yin et al., arXiv 1803.01498).

duckweed train --plugin examples/own_rule.py --set merge.rule=middle --set wire.kind=dense
python examples/own_rule.py     simulates a small run with it, and one with the mean
"""

from pathlib import Path

import numpy as np

import duckweed
from duckweed.merge.rules import register_rule
from duckweed.wire.total import CONTRIBUTIONS, FloatTotal

SMALL = {
    "data.path": f"{Path(__file__).parents[1]}/docs/*.md",
    "model.source": "llama-0.5m",
    "wire.kind": "dense",  # peers see each contribution, which `integer` adds up before
    "rounds.count": 3,
    "rounds.peers": 5,
    "inner.steps": 3,
    "inner.warmup": 5,
    "inner.batch": 2,
    "rounds.evaluate_tokens": 4096,
}


def middle(total: FloatTotal) -> np.ndarray:
    """The pseudo-gradient f32[P] of a round; `total.contributions` has what each peer sent. Every peer
    computes it, so it must give the same bits everywhere."""
    return np.median([one.values for one in total.contributions], axis=0).astype(np.float32)


register_rule("middle", middle, needs=[CONTRIBUTIONS])


if __name__ == "__main__":
    for rule in ("mean", "middle"):
        training = duckweed.simulate(SMALL, {"merge.rule": rule}, plugins=[__file__])
        for closed in training:
            print(f"{rule}, round {closed.round}: {closed.loss:.3f} nats per token")
        assert training.run.finished
