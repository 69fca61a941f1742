"""A training loop of one's own: a learner that steps with plain SGD and averages its last weights.

duckweed train --plugin examples/own_loop.py
python examples/own_loop.py     simulates a small run with it
"""

import time
from pathlib import Path

import numpy as np
import torch

import duckweed
from duckweed.learn.device import seeded
from duckweed.learn.learner import Work
from duckweed.learn.model.model import read_weights, write_weights
from duckweed.learn.registry import register_learner
from duckweed.learn.single import SingleDevice

RATE, AVERAGED = 0.5, 0.5  # learning rate; share of the steps whose weights are averaged


class Averaging(SingleDevice):
    """`evaluate` and the model stay those of duckweed; only the loop is another. It must be a pure
    function of weights and part: another peer may have to do the same block again."""

    def train(self, weights, part, optimizer=None, report=None, keep=False):
        began, losses, tokens, mean = time.perf_counter(), [], 0, np.zeros_like(weights)
        first = int(part.steps * (1 - AVERAGED))  # of the averaged steps
        with seeded(part.seed, self.device):
            write_weights(self.model, weights)
            sgd = torch.optim.SGD(self.model.parameters(), RATE)
            for step, batch in enumerate(self.task.batches(part, self.model)):
                sgd.zero_grad()
                loss = self.loss(batch)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                sgd.step()
                losses.append(loss.item())
                tokens += self.task.count(batch)
                if report:
                    report(step + 1, sum(losses) / len(losses))
                if step >= first:
                    mean += read_weights(self.model) / np.float32(part.steps - first)
        return Work(weights - mean, tokens, float(np.mean(losses)), time.perf_counter() - began, {})


register_learner("averaging", Averaging)


if __name__ == "__main__":
    docs = f"{Path(__file__).parents[1]}/docs/*.md"
    small = {"data.path": docs, "model.source": "llama-0.5m", "rounds.peers": 2}
    small |= {"rounds.count": 3, "inner.steps": 7, "inner.batch": 2}
    for closed in duckweed.simulate(small, plugins=[__file__]):
        print(f"round {closed.round}: {closed.loss:.3f} nats per token")
