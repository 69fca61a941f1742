"""How much of the gradient of reinforcement learning is signal, and which optimizer's step follows it unharmed.

`python -m bench.reason.noise MODEL [--task chain_sum]` begins from a model's folder, as bench/reason/reasoner.py leaves one in
runs/sft-0/model. It computes the gradient of several batches of 256 answers at the same weights: the cosine between two of
them is the share of a batch's squared length that is signal. Then it steps once along the mean of all, by the geometry of
three optimizers and by several lengths, and examines the model after each. Writes bench/results/reason-noise.json.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.reason.alone import Alone
from bench.reason.reasoner import TASKS

RESULTS = Path(__file__).parents[1] / "results" / "reason-noise.json"
LENGTHS = {
    "plain": (0.03, 0.1, 0.3),
    "AdamW": (0.0003, 0.001, 0.002),
    "Muon": (0.005, 0.01, 0.02),
}
"""Of a step: its Euclidean length; the rate of one step of AdamW from nothing, whose every value is as long as that; the
rate of a step of Muon."""


def signal(gradients: torch.Tensor) -> float:
    """Mean product of two different gradients f32[n, P] over the mean squared length of one."""
    products = gradients @ gradients.T
    count = len(gradients)
    between = (products.sum() - products.trace()) / (count * (count - 1))
    return float(between / (products.trace() / count))


def direction(kind: str, gradient: torch.Tensor, length: float) -> torch.Tensor:
    """The step of length 1 for a tensor's gradient; length: of the whole gradient. Muon: hidden matrices alone."""
    if kind == "plain":
        return gradient / length
    if kind == "AdamW":
        return gradient.sign()
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    scale: float = 0.2 * max(gradient.shape) ** 0.5
    return scale * (u @ v)


class Bench:
    """A model, its gradient, and steps from where it stands."""

    def __init__(self, folder: Path, task: str) -> None:
        self.alone = Alone(folder, task, 0.001)  # the rate is not used
        named = dict(self.alone.model.named_parameters())
        self.parameters = list(named.values())
        self.hidden = [x.ndim == 2 and ".layers." in name for name, x in named.items()]
        self.start = [x.detach().clone() for x in self.parameters]

    def gradients(self, batches: int) -> torch.Tensor:
        """f32[batches, P]"""
        found = []
        for number in range(1, batches + 1):
            self.alone.model.zero_grad()
            self.alone.gradient(number)
            found.append(torch.cat([x.grad.flatten() for x in self._with_gradients()]))
        return torch.stack(found)

    def stepped(self, kind: str, gradient: torch.Tensor, by: float) -> tuple[float, float]:
        """pass@1 and pass@8 after one step; the weights are as before afterwards."""
        parts = gradient.split([x.numel() for x in self.parameters])
        with torch.no_grad():
            for x, part, hidden in zip(self.parameters, parts, self.hidden, strict=True):
                if hidden or kind != "Muon":
                    x -= by * direction(kind, part.view_as(x), float(gradient.norm()))
            found = self.alone.exam()
            for x, before in zip(self.parameters, self.start, strict=True):
                x.copy_(before)
        return found

    def _with_gradients(self) -> Sequence[torch.nn.Parameter]:
        for x in self.parameters:
            if x.grad is None:
                x.grad = torch.zeros_like(x)
        return self.parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--task", default="chain_sum", choices=TASKS)
    parser.add_argument("--batches", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(given.model, given.task)
    before, gradients = bench.alone.exam(), bench.gradients(given.batches)
    told = {
        "task": given.task,
        "answers": 256 * given.batches,
        "signal": signal(gradients),
        "before": before,
    }
    print(json.dumps(told), flush=True)
    steps = []
    for kind, lengths in LENGTHS.items():
        for by in lengths:
            one, eight = bench.stepped(kind, gradients.mean(0), by)
            steps.append({"step": kind, "length": by, "pass@1": one, "pass@8": eight})
            print(json.dumps(steps[-1]), flush=True)
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps(known | {given.task: told | {"steps": steps}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
