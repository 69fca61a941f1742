"""The policy gradient: pure functions of rewards and of what tokens cost.

With pi the probability of a written token now, mu that with which it was written, r = pi / mu, and A the
advantage of its answer, the loss of a token is

    -keep A r + pull (log r)^2
    keep = not (A > 0 and pi - mu > trust) and not (A < 0 and pi - mu < -trust)

the mean of it over all tokens of a batch, whichever answer they are of (as in DAPO, arXiv 2503.14476, where a
long answer weighs as much for each token as a short one). The mask by the difference of probabilities is
DPPO's with total variation (arXiv 2602.04879); the squared logarithm, which stands for a divergence from the
model that wrote, is from Kimi K2.5 (arXiv 2602.02276). trust = 0.2 and pull = 0.001 are what prime-rl has as
its default. Against a ratio that is clipped (PPO, GRPO) the mask does not stop rare tokens early, whose ratio
is large when their probability has hardly moved.

The second form (`cispo_loss`) bounds the weight of a token and leaves out none, and a divergence from the
weights that the run began from (`start_divergence`) may be added to either.
"""

import numpy as np
import torch
from numpy.typing import NDArray

LOG_RATIO = 20.0  # the logarithm of a ratio is cut there, so that the loss stays finite


def advantages(rewards: NDArray[np.float32], deviation: bool = False) -> NDArray[np.float32]:
    """Of each answer of each group f32[g, s]: its reward minus the mean of its group, which needs no model
    of values (GRPO, arXiv 2402.03300). Without division by the deviation, which would make groups that are
    nearly all right or all wrong weigh most (Dr. GRPO, arXiv 2503.20783); deviation: with it."""
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    return (centred / (rewards.std(axis=1, keepdims=True) + 1e-6) if deviation else centred).astype(
        np.float32
    )


def has_spread(rewards: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which groups f32[g, s] have answers of different rewards: others teach nothing (DAPO, 2503.14476)."""
    return np.ptp(rewards, axis=1) > 1e-6


def policy_loss(
    nats: torch.Tensor,
    then: torch.Tensor,
    advantage: torch.Tensor,
    written: torch.Tensor,
    trust: float,
    pull: float,
) -> torch.Tensor:
    """The mean loss over written tokens. nats, then: minus the logarithm of the probability of each token now
    and when it was written, f32[b, l]; advantage: f32[b]; written: 1 where a token counts, [b, l]."""
    logs = (then - nats).clamp(-LOG_RATIO, LOG_RATIO) * written
    moved = (torch.exp(-nats) - torch.exp(-then)).detach()
    gain = advantage[:, None]
    keep = ~((gain > 0) & (moved > trust)) & ~((gain < 0) & (moved < -trust))
    each = pull * logs**2 - keep * gain * torch.exp(logs)
    return (each * written).sum() / written.sum()


def cispo_loss(
    nats: torch.Tensor,
    then: torch.Tensor,
    advantage: torch.Tensor,
    written: torch.Tensor,
    bound: float,
    pull: float,
) -> torch.Tensor:
    """CISPO (arXiv 2506.13585), arguments as of `policy_loss`: of a token, with sg what no gradient passes,

        -sg(min(r, bound)) A log pi + pull (log r)^2

    The weight has no lower bound, as its authors have it. The mean is over all tokens; pull = 0 is the published
    form.
    """
    logs = (then - nats).clamp(-LOG_RATIO, LOG_RATIO) * written
    weight = torch.exp(logs).clamp(max=bound).detach()
    each = pull * logs**2 + weight * advantage[:, None] * nats
    return (each * written).sum() / written.sum()


def start_divergence(
    nats: torch.Tensor, then: torch.Tensor, start: torch.Tensor, written: torch.Tensor
) -> torch.Tensor:
    """What has the gradient of the divergence KL(pi, sigma) of the next token, in the mean over written tokens; start:
    what each costs by sigma, the model that the run began from, f32[b, l]. The others as of `policy_loss`.

    Of a token it is sg(r (log pi - log sigma)) log pi. Its gradient is that of the estimate which DeepSeek-V3.2
    (arXiv 2512.02556, equation 7) has, r (sigma / pi - log(sigma / pi) - 1): in that of the latter sigma / pi cancels, so
    that here nothing large is subtracted from itself. The ratio makes it right for tokens that older weights
    wrote. The value means nothing.
    """
    logs = (then - nats).clamp(-LOG_RATIO, LOG_RATIO)
    apart = (start - nats).clamp(-LOG_RATIO, LOG_RATIO)
    each = -(torch.exp(logs) * apart).detach() * nats
    return (each * written).sum() / written.sum()
