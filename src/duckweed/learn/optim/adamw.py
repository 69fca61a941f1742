"""AdamW (Loshchilov and Hutter, arXiv 1711.05101) for all parameters: torch's, fused."""

from typing import Any

import torch

from duckweed.learn.optim.optimizer import InnerOptimizer


class AdamW(InnerOptimizer):
    """`inner.betas`, `inner.epsilon`."""

    def elementwise_over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        inner = self.inner
        return torch.optim.AdamW(groups, lr=1.0, betas=inner.betas, eps=inner.epsilon, fused=True)
