"""The update of Muon and NorMuon: momentum whose matrices are made orthogonal.

K. Jordan et al., "Muon: an optimizer for hidden layers" (2024); the factor 0.2 sqrt(max dimension)
that lets it share AdamW's learning rate is from "Muon is scalable for LLM training" (2502.16982).
"""

from collections.abc import Callable

import torch

from duckweed.learn.device import precision_for
from duckweed.learn.optim.optimizer import shrinking

# Quintic Newton-Schulz coefficients of Jordan et al.: steep at zero, singular values end in 0.7-1.2.
AT_ONCE = 1 << 25  # numbers of matrices that are made orthogonal together
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalise(g: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, roughly. g: [..., m, n]; same shape and dtype back."""
    tall, x = g.size(-2) > g.size(-1), g.reshape(-1, *g.shape[-2:])
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        # x' = A x + (B gram + C gram^2) x, each sum in the product that it is added to.
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return (x.mT if tall else x).reshape(g.shape)


def groups(
    parameters: list[torch.nn.Parameter],
) -> list[tuple[tuple[int, int], list[torch.nn.Parameter]]]:
    """(smaller and larger side, the matrices of these sides that are made orthogonal together): up to
    `AT_ONCE` numbers, because they are in memory some six times meanwhile."""
    found: list[tuple[tuple[int, int], list[torch.nn.Parameter]]] = []
    open_: dict[tuple[int, int], list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        sides = min(parameter.shape[-2:]), max(parameter.shape[-2:])
        group = open_.get(sides)
        if group is None or sum(p.numel() for p in group) + parameter.numel() > AT_ONCE:
            group = open_[sides] = []
            found.append((sides, group))
        group.append(parameter)
    return found


class MatrixMuon:
    """Muon over matrices (2-D, or stacks of matrices: 3-D), those of one shape orthogonalised together.

    normalise: the second beta of NorMuon (arXiv 2510.05491), which divides every row of the
    orthogonal update by the root of its running mean square and restores the size of the whole;
    None: plain Muon. cautious: see `shrinking`. precision: of the products of matrices ("auto": bf16 where the device
    multiplies it in hardware, as Jordan et al. do), a rounding that is well below what five iterations leave.
    """

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        momentum: float,
        weight_decay: float,
        nesterov: bool = True,
        iterations: int = 5,
        normalise: float | None = None,
        cautious: bool = False,
        precision: str = "fp32",
    ) -> None:
        self.precision = precision
        self.momentum, self.weight_decay = momentum, weight_decay
        self.nesterov, self.iterations = nesterov, iterations
        self.normalise, self.cautious = normalise, cautious
        self.orthogonal: Callable[[list[torch.Tensor]], list[torch.Tensor]] = self.together
        """Makes matrices of the same two sides orthogonal. Where they are sharded over processes, another way is
        put in here (duckweed.learn.site.sharded)."""
        self.groups = groups(parameters)
        self.buffers = {p: torch.zeros_like(p) for p in parameters}
        self.squares: dict[torch.nn.Parameter, torch.Tensor] = {}
        if normalise is not None:
            self.squares = {p: torch.zeros_like(p[..., :1]) for p in parameters}

    @torch.no_grad()
    def step(self, learning_rate: float, momentum: float | None = None) -> None:
        """Update every matrix by its gradient. momentum: instead of that given at the start."""
        momentum = self.momentum if momentum is None else momentum
        for (narrow, wide), group in self.groups:
            # Some never get one, such as attention to an encoder that is not there; an expert gets none
            # in a step in which no token is sent to it.
            parameters = [p for p in group if p.grad is not None]
            if not parameters:
                continue
            scale = -learning_rate * 0.2 * wide**0.5
            updates = self._updates(parameters, momentum)
            for parameter, update in zip(parameters, updates, strict=True):
                if self.normalise is not None:
                    update = self._normalised(parameter, update, narrow)
                decay = learning_rate * self.weight_decay
                if self.cautious:
                    parameter.mul_(shrinking(parameter, update, decay))
                else:
                    parameter.mul_(1 - decay)
                parameter.add_(update, alpha=scale)

    def _normalised(
        self, parameter: torch.nn.Parameter, update: torch.Tensor, narrow: int
    ) -> torch.Tensor:
        beta, squares = self.normalise, self.squares[parameter]
        assert beta is not None
        squares.lerp_(update.square().mean(-1, keepdim=True), 1 - beta)
        divided = update / (squares.sqrt() + 1e-8)
        # An orthogonal m x n matrix has the norm sqrt(min(m, n)).
        return divided * (narrow**0.5 / (divided.norm(dim=(-2, -1), keepdim=True) + 1e-8))

    def _updates(self, parameters: list[torch.nn.Parameter], momentum: float) -> list[torch.Tensor]:
        directions = []
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            buffer = self.buffers[parameter]
            buffer.mul_(momentum).add_(gradient)
            directions.append(gradient + momentum * buffer if self.nesterov else buffer)
        return self.orthogonal(directions)

    def together(self, directions: list[torch.Tensor]) -> list[torch.Tensor]:
        """Matrices and stacks of matrices of the same two sides, made orthogonal in one go."""
        wide = []
        for direction in directions:
            stack = direction.reshape(-1, *direction.shape[-2:])
            wide.append(stack.mT if stack.size(-2) > stack.size(-1) else stack)
        together = torch.cat(wide)
        together = together.to(precision_for(together.device.type, self.precision))
        made = orthogonalise(together, self.iterations).to(wide[0].dtype)
        parts = made.split([w.size(0) for w in wide])
        return [
            (part.mT if d.size(-2) > d.size(-1) else part).reshape(d.shape)
            for d, part in zip(directions, parts, strict=True)
        ]
