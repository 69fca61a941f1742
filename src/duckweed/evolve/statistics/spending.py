"""How strict the next test must be, so that few of all accepted changes are false.

e-LOND (Xu & Ramdas, Online multiple testing with e-values, AISTATS 2024, arXiv 2311.06412): the
t-th proposal that is confirmed is tested at

    alpha_t = alpha gamma_t (A_(t-1) + 1),        accepted when its e-value >= 1 / alpha_t

A: number accepted before; gamma: a sequence fixed beforehand that sums to 1. Then the expected
share of false ones among the accepted (the false discovery rate) is at most alpha, however the
e-values depend on one another, as they do here through shared parents, seeds and data: with a
false one accepted, 1 <= alpha_t E_t, and the final count is at least A_(t-1) + 1, so the expected
share is at most the sum of alpha gamma_t E[E_t] <= alpha.

gamma is flat over the number of confirmations that the campaign plans and falls as 1/t^2 behind:

    gamma_t = 1/(2 N) for t <= N,      N / (2 t (t-1)) for t > N

so a campaign that goes on (resumed with more budget) stays valid. Each single test's level stays
below alpha whatever was accepted before, because gamma_t t < 1.
"""

import msgspec

PLANNED = 20


class SpendingError(ValueError):
    """Settings with which no level can be given."""


class Spending(msgspec.Struct, frozen=True):
    """Only proposals that enter confirmation count as tests; screening is on other seeds."""

    alpha: float = 0.05  # false discovery rate of the campaign
    planned: int = PLANNED  # N: confirmations over which half of alpha is spent evenly
    tested: int = 0  # so far
    accepted: int = 0  # so far

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise SpendingError(f"alpha must lie between 0 and 1, got {self.alpha}")
        if self.planned < 1:
            raise SpendingError(f"a campaign plans at least one test, got {self.planned}")
        if not 0 <= self.accepted <= self.tested:
            raise SpendingError(f"{self.accepted} accepted of {self.tested} tested is impossible")

    @property
    def level(self) -> float:
        """alpha_t of the next test; fix it in the ledger before the test's first run."""
        return self.alpha * gamma(self.tested + 1, self.planned) * (self.accepted + 1)

    def record(self, accepted: bool) -> "Spending":
        """After the next test ended, in the order in which levels were given."""
        return msgspec.structs.replace(
            self, tested=self.tested + 1, accepted=self.accepted + int(accepted)
        )


def gamma(t: int, planned: int = PLANNED) -> float:
    """The t-th part of the budget, t = 1, 2, ...; sums to 1."""
    return 1 / (2 * planned) if t <= planned else planned / (2 * t * (t - 1))
