"""NorMuon (arXiv 2510.05491): Muon whose update has its rows divided by their running size."""

from torch import nn

from duckweed.learn.optim.muon import Muon
from duckweed.run.sections import Inner


class NorMuon(Muon):
    """The running mean square of a row decays by the second of `inner.betas`."""

    def __init__(self, model: nn.Module, inner: Inner) -> None:
        self.normalise = inner.betas[1]
        super().__init__(model, inner)
