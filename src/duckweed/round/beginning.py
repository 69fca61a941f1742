"""The weights that a peer's own steps begin from in a round. Pure functions; nothing is stored here.

A contribution leaves out a part of what its peer has learnt, the residual. The next contribution carries it (error
feedback), but a peer that begins from the merged weights alone has forgotten it meanwhile, and learns some of it
again. So a peer may begin from the merged weights with its residual applied, as in CSER (arXiv 2007.13221), and sends
what it would have sent. There the whole of it is applied, by any number of peers. Here as much as the merge of all peers'
residuals is expected to hold: with n peers whose residuals have the correlation c, the best linear guess of
their mean is (c + (1 - c) / n) times one's own.
"""

import numpy as np
from msgspec import UNSET

from duckweed.merge import trunk
from duckweed.run.family import paths_of
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.wire import feedback


def share(correlation: float, peers: int) -> float:
    """Of its residual, that a peer begins a round with. peers: whose contributions are merged."""
    return correlation + (1 - correlation) / peers


def weights(spec: RunSpec, layout: Layout, merged: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """What a peer begins from, f32[P]. merged: the weights of all peers, f32[P], or where the next ones are expected;
    residual: what the peer's contributions up to these have left out, f32[P]."""
    alike, peers = spec.inner.residual, spec.rounds.peers
    if alike is UNSET or not spec.wire.feedback:
        return merged
    begin = feedback.carry(merged, residual, -share(alike, peers))
    if split := trunk.split_of(spec, layout):
        everybody = peers * paths_of(spec).count  # about, where the paths have not equally many
        for here in split.trunk.slices:
            begin[here] = feedback.carry(merged[here], residual[here], -share(alike, everybody))
    return begin
