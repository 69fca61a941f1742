"""A run with all peers stacked in one process, and data parallelism in the same code.

Everything but the inner steps is the project's own: batches, wire, error feedback, merge rules,
outer step. Bytes are counted every `MEASURED` rounds.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.parity.model import Stack
from duckweed.learn.data import dataset as datasets
from duckweed.learn.model import model as models
from duckweed.learn.optim.muon import guide
from duckweed.learn.optim.optimizer import OptimizerState
from duckweed.learn.optim.schedule import learning_rate
from duckweed.merge.outer import outer_step
from duckweed.merge.rules import find_rule
from duckweed.round import founding
from duckweed.round.founding import Ground
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.wire import feedback
from duckweed.wire.codec import codec_of

MEASURED = 20  # every so many rounds bytes are counted


BY_ADAM = ("embed", "lm_head", "router")  # in the names of matrices that AdamW steps, not Muon
CACHED = 8  # matrices orthogonalised together: so many stay in the processor's cache
# Odd quintics a x + b x^3 + c x^5 that, one after the other, bring singular values in [0.02, 1] to
# 1 +- 0.1, each the best approximation of 1 on the interval that the one before leaves (Remez;
# Polar Express, 2505.16932). With the tighter norm below three do the work of the customary five.
COEFFICIENTS = (
    (7.7110, -22.1138, 16.2487),
    (3.2153, -2.4112, 0.5013),
    (2.2183, -1.5940, 0.4107),
)


def orthogonalise(x: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, in half the operations of learn.muon: three
    polynomials for five, a tighter norm (|x x^T|^(1/2) bounds the largest singular value), and the
    polynomials evaluated on x x^T, exact enough in float32. x: [n, m, w], m <= w."""
    out = torch.empty_like(x)
    for some, place in zip(x.split(CACHED), out.split(CACHED), strict=True):
        gram = some @ some.mT
        size = gram.norm(dim=(-2, -1), keepdim=True).sqrt() + 1e-7
        gram /= size.square()
        whole = None
        for number, (a, b, c) in enumerate(COEFFICIENTS):
            step = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            step.diagonal(dim1=-2, dim2=-1).add_(a)
            whole = step if whole is None else step @ whole
            if number + 1 < len(COEFFICIENTS):
                gram = step @ (gram @ step)
        torch.bmm(whole / size, some, out=place)
    return out


class Steps:
    """The inner optimizer of M stacked models: duckweed.learn.optim's formulas."""

    def __init__(self, stack: Stack, spec: RunSpec) -> None:
        self.stack, self.inner = stack, spec.inner
        layout = stack.layout
        muon = spec.inner.optimizer == "muon"
        self.groups: dict[tuple[int, int], list[tuple[slice, bool]]] = {}
        self.named: dict[str, tuple[slice, tuple[int, ...]]] = {}
        adam, decayed = np.ones(layout.total, bool), np.zeros(layout.total, np.float32)
        for name, shape, part in zip(layout.names, layout.shapes, layout.slices(), strict=True):
            decayed[part] = len(shape) > 1
            if muon and len(shape) == 2 and not any(one in name for one in BY_ADAM):
                adam[part] = False
                self.named[f"muon.{name}"] = part, shape
                key = (min(shape), max(shape))
                self.groups.setdefault(key, []).append((part, shape[0] > shape[1]))
        self.adam, self.muon = _runs(adam), _runs(~adam)
        self.decayed = torch.from_numpy(decayed)
        self.first = torch.zeros_like(stack.weights)  # momentum, or Adam's first moment
        self.second = torch.zeros_like(stack.weights)
        self.count = 0

    def momenta(self, copy: int) -> OptimizerState:
        """Muon's momenta of one copy, by the names that duckweed gives them; they share its memory."""
        return {
            name: self.first[copy, part].view(shape).numpy()
            for name, (part, shape) in self.named.items()
        }

    def reset(self) -> None:
        self.first.zero_()
        self.second.zero_()
        self.count = 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step of every copy. Copy by copy: one copy's tensors fit the cache, all do not."""
        self.count += 1
        for copy in range(self.stack.copies):
            tensors = (self.stack.weights, self.stack.gradients, self.first, self.second)
            self._step(rate, *(x[copy] for x in tensors))
        self.stack.gradients.zero_()

    def _step(self, rate: float, w: Tensor, g: Tensor, first: Tensor, second: Tensor) -> None:
        inner = self.inner
        if inner.clip:
            g *= (inner.clip / (g.norm() + 1e-6)).clamp(max=1.0)
        for part in self.adam:
            self._adam(part, rate, w[part], g[part], first[part], second[part])
        for part in self.muon:
            first[part].mul_(inner.momentum).add_(g[part])
            g[part].add_(first[part], alpha=inner.momentum)
            w[part].mul_(1 - rate * inner.weight_decay)
        for (narrow, wide), members in self.groups.items():
            self._turn(narrow, wide, members, rate, w, g)

    def _adam(
        self, part: slice, rate: float, w: Tensor, g: Tensor, first: Tensor, second: Tensor
    ) -> None:
        one, two = self.inner.betas
        w.mul_(1 - rate * self.inner.weight_decay * self.decayed[part])
        first.lerp_(g, 1 - one)
        second.mul_(two).addcmul_(g, g, value=1 - two)
        size = second.sqrt().div_((1 - two**self.count) ** 0.5).add_(1e-8)
        w.addcdiv_(first, size, value=-rate / (1 - one**self.count))

    def _turn(
        self, narrow: int, wide: int, members: list[tuple[slice, bool]], rate: float,
        w: Tensor, g: Tensor,
    ) -> None:  # fmt: skip
        """Step the matrices of one shape by their momentum g, made orthogonal."""

        def matrix(x: Tensor, tall: bool) -> Tensor:
            return x.view(wide, narrow).mT if tall else x.view(narrow, wide)

        turned = orthogonalise(torch.stack([matrix(g[part], tall) for part, tall in members]))
        for update, (part, tall) in zip(turned, members, strict=True):
            matrix(w[part], tall).add_(update, alpha=-rate * 0.2 * wide**0.5)


def _runs(mask: np.ndarray) -> list[slice]:
    """Where mask is set, as slices."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


class Run:
    """One cell: `ddp` (one model, the batch of all peers, no rounds) or a swarm of peers.

    own_scale: the common scales follow what a round made alone, not that and the residual
    together as duckweed has it."""

    def __init__(self, spec: RunSpec, ground: Ground, ddp: bool, own_scale: bool = False) -> None:
        self.spec, self.ground, self.ddp, self.own_scale = spec, ground, ddp, own_scale
        self.dataset = ground.dataset
        model = founding.first_model(spec, ground)
        self.layout: Layout = models.layout_of(model)
        self.weights = models.read_weights(model)
        self.momentum = np.zeros_like(self.weights)
        self.peers = 1 if ddp else spec.rounds.peers
        self.stack = Stack(
            founding.configuration(spec, ground), models.layout_of(model), self.peers,
            spec.model.sequence,
        )  # fmt: skip
        self.steps = Steps(self.stack, spec)
        self.codec = codec_of(spec.wire, self.layout)
        self.shared = np.zeros(0, np.float32)
        if not ddp:
            learner = founding.learner(spec, ground, "cpu")
            self.shared = self.codec.first_shared(
                lambda: founding.first_gradient(spec, learner, self.weights)
            )
        self.residuals = [np.zeros(self.layout.total, np.float32) for _ in range(self.peers)]
        self.measured: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.curve: list[list[float]] = []

    def run(self, tell: Callable[[str], None]) -> dict[str, Any]:
        """All rounds. Returns the record of the cell."""
        began, spent = time.perf_counter(), time.process_time()
        torch.from_numpy(self.weights)
        self.stack.weights.detach().copy_(torch.from_numpy(self.weights))
        for round_ in range(self.spec.rounds.count):
            loss = self._train(round_)
            self.losses.append(loss)
            if not np.isfinite(loss):
                break
            if self.ddp:
                self._remember()
            else:
                self._exchange(round_)
            if (round_ + 1) % 50 == 0 and round_ + 1 < self.spec.rounds.count:
                bits = self.evaluate(8192)
                self.curve.append([round_ + 1, round(bits, 4)])
                tell(f"round {round_ + 1}: loss {loss:.3f}, held-out {bits:.4f}")
        return {
            "bits_per_byte": self.evaluate(self.spec.rounds.evaluate_tokens),
            "held_out_tokens": self.spec.rounds.evaluate_tokens,
            "tokens": self.spec.tokens_per_block * self.spec.rounds.peers * self.spec.rounds.count,
            "parameters": self.layout.total,
            "rounds": len(self.losses),
            "curve": self.curve,
            "train_loss": [
                round(float(x), 4) for x in self.losses[:: max(1, len(self.losses) // 50)]
            ],
            "measured": self.measured,
            "seconds": round(time.perf_counter() - began, 1),
            "cpu_seconds": round(time.process_time() - spent, 1),
        }

    def _batch(self, round_: int, step: int) -> Tensor:
        """int64[copies, b, S + 1]: the batches of the real run; for DDP those of all peers joined."""
        spec = self.spec
        inner, peers = spec.inner, spec.rounds.peers

        def of(peer: int) -> np.ndarray:
            return datasets.batch(
                self.dataset, spec.seed, round_ * peers + peer, step,
                inner.steps, inner.batch, spec.model.sequence,
            )  # fmt: skip

        windows = torch.from_numpy(np.stack([of(peer) for peer in range(peers)]))
        return windows.flatten(0, 1)[None] if self.ddp else windows

    def _train(self, round_: int) -> float:
        inner, total = self.spec.inner, 0.0
        if not self.ddp and inner.state == "fresh":
            self.steps.reset()
        for copy in range(self.stack.copies):
            guide(self.steps.momenta(copy), self.momentum, self.layout, inner.guide)
        for step in range(inner.steps):
            loss = self.stack.loss(self._batch(round_, step))
            loss.sum().backward()
            number = round_ * inner.steps + step
            self.steps.step(learning_rate(inner, number, self.spec.total_steps))
            total += float(loss.detach().mean())
        return total / inner.steps

    def _remember(self) -> None:
        """The step of a round without exchange, so that its momenta can be guided by it as well."""
        before, self.weights = self.weights, self.stack.weights.detach()[0].numpy().copy()
        self.momentum = before - self.weights

    def _exchange(self, round_: int) -> None:
        spec, codec = self.spec, self.codec
        made = [self._made(p) for p in range(self.peers)]
        wanted = [
            feedback.carry(x, residual, spec.wire.feedback)
            for x, residual in zip(made, self.residuals, strict=True)
        ]
        measure = round_ % MEASURED == MEASURED - 1 or round_ == 0
        encoded = [codec.encode(x, self.shared) for x in wanted]
        self.residuals = [
            feedback.keep(x, one.sent) for x, one in zip(wanted, encoded, strict=True)
        ]
        rule = find_rule(spec.rule)
        total = codec.total(self.shared, rule.needs)
        for one in encoded:
            total.add(codec.decode(one.blob, self.shared), 1)
        merged = rule(total)
        if measure:
            up = float(np.mean([len(one.blob) for one in encoded[:2]]))
            # Without an exact sum the others' blobs are fetched as they are; one's own is at hand.
            down = len(codec.update(total)) if codec.additive else up * (self.peers - 1)
            own = np.mean([np.linalg.norm(x) for x in made])
            left = np.mean([np.linalg.norm(r) for r in self.residuals])
            self.measured.append(
                {
                    "round": round_,
                    "up": up,
                    "down": float(down),
                    "merged_to_own_norm": round(float(np.linalg.norm(merged) / own), 3),
                    "residual_to_own_norm": round(float(left / own), 3),
                }
            )
        self.weights, self.momentum = outer_step(spec.outer, self.weights, self.momentum, merged)
        said = made if self.own_scale else wanted
        self.shared = np.array(
            codec.next_shared([codec.announce(x) for x in said], self.shared.tolist()), np.float32
        )
        self.stack.weights.detach().copy_(torch.from_numpy(self.weights))

    def _made(self, peer: int) -> np.ndarray:
        """A peer's pseudo-gradient, f32[P]."""
        return self.weights - self.stack.weights.detach()[peer].numpy()

    @torch.no_grad()
    def evaluate(self, tokens: int) -> float:
        """Held-out bits per byte (the tokenizer is bytes: one token, one byte)."""
        if not np.isfinite(self.losses[-1]):
            return float("nan")
        saved = self.stack.weights[0].clone()
        if not self.ddp:
            self.stack.weights[0].copy_(torch.from_numpy(self.weights))
        nats, count = 0.0, 0
        views = self.stack.parameters
        self.stack.parameters = {name: view[:1] for name, view in views.items()}
        for windows in datasets.held_out_batches(self.dataset, self.spec.model.sequence, tokens, 8):
            loss = self.stack.loss(torch.from_numpy(windows)[None])
            nats += float(loss) * windows.shape[0]
            count += windows.shape[0]
        self.stack.parameters = views
        self.stack.weights[0].copy_(saved)
        return nats / count / float(np.log(2))
