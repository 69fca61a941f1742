"""The loss of reinforcement learning without peers, wire and merge: one model trains alone on its own answers.

`python -m bench.reason.alone MODEL [--task chain_sum] [--optimizer muon] [--rate 0.002] [--steps 60]` begins from a
model's folder, as bench/reason/reasoner.py leaves one in runs/sft-0/model, and prints a line a step (docs/reason.md).
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from bench.reason.reasoner import HELD_OUT, TASKS, TOKENS
from duckweed.learn.data import tokenizer as tokenizers
from duckweed.learn.data.permutation import derive
from duckweed.learn.model.given import model_in
from duckweed.learn.model.network import Network
from duckweed.learn.optim.registry import make_optimizer
from duckweed.learn.tasks.policy import advantages, has_spread, policy_loss
from duckweed.learn.tasks.problems import Problems, Wording, right
from duckweed.learn.tasks.rollout import Answers, write
from duckweed.run.sections import Inner
from duckweed.run.task.sections import Environment, Reinforce

SAMPLES, PROBLEMS, ROWS = 16, 16, 32  # answers to a problem, problems of a step, rows at a time
EXAM, EVERY, WARMUP = 64, 12, 5  # held-out problems with 8 answers each; steps between exams


class Alone:
    """A model and the problems of one family."""

    def __init__(self, folder: Path, name: str, rate: float, optimizer: str = "adamw") -> None:
        self.model = model_in(folder)
        self.wording = Wording(tokenizers.load(folder))
        task = Reinforce({name: Environment(settings=TASKS[name])}, tokens=TOKENS, samples=SAMPLES)
        self.task, self.problems = task, Problems(task, 0, HELD_OUT)
        self.network, self.rate = Network(self.model, "cpu", torch.float32), rate
        # As bench/reason/reasoner.py has them; AdamW has but one rate.
        ends = {
            f"{part}_rate": 0.1 for part in ("embedding", "head", "vector") if optimizer == "muon"
        }
        inner = Inner(
            optimizer=optimizer, learning_rate=rate, weight_decay=0.0, momentum=0.9, **ends
        )
        self.optimizer = make_optimizer(self.model, inner)

    def written(
        self, places: range, held_out: bool, samples: int, key: int
    ) -> tuple[list[list[int]], Answers, np.ndarray]:
        """Prompts, answers and rewards f32[problems, samples]."""
        asked = [self.problems.at(place, held_out) for place in places]
        prompts = [self.wording.prompt(self.problems.conversation(x)) for x in asked]
        repeated = [prompt for prompt in prompts for _ in range(samples)]
        keys = [derive(0, key, place, n) for place in places for n in range(samples)]
        answers = write(self.model, repeated, keys, TOKENS, 1.0, self.wording.stops)
        texts = self.wording.texts(answers)
        scores = [self.problems.score(asked[n // samples], text) for n, text in enumerate(texts)]
        return repeated, answers, np.array(scores, np.float32).reshape(-1, samples)

    def exam(self) -> tuple[float, float]:
        """pass@1 and pass@8 on held-out problems."""
        parts = [range(n, n + 32) for n in range(0, EXAM, 32)]
        scores = np.concatenate([self.written(part, True, 8, 3)[2] for part in parts])
        solved = np.vectorize(right)(scores)
        return float(solved.mean()), float(solved.any(1).mean())

    def step(self, number: int) -> str:
        """One step; what it was like."""
        said = self.gradient(number)
        self.optimizer.step(self.rate * min(1.0, number / WARMUP), number)
        return f"{number}: {said}"

    def gradient(self, number: int) -> str:
        """Write the answers of a step and add up their gradient; what they were like."""
        places = range((number - 1) * PROBLEMS, number * PROBLEMS)
        prompts, answers, rewards = self.written(places, False, SAMPLES, 7)
        spread = has_spread(rewards)
        rows = np.flatnonzero(np.repeat(spread, SAMPLES))
        gains, off = advantages(rewards).reshape(-1), 0.0
        total = float(answers.lengths[rows].sum())
        for first in range(0, len(rows), ROWS):
            some = rows[first : first + ROWS]
            ids, written, then = self._batch(some, prompts, answers)
            nats = self.network.nats(ids[:, 1:], 1.0, input_ids=ids[:, :-1])
            off = max(off, float(((nats.detach() - then).abs() * written).max()))
            gain = torch.from_numpy(gains[some])
            loss = policy_loss(nats, then, gain, written, self.task.trust, self.task.pull)
            (loss * (written.sum() / total)).backward()
        return (
            f"reward {rewards.mean():.3f}, {1 - spread.mean():.0%} of groups without spread, costs of tokens off by "
            f"{off:.1e} nats at most"
        )

    def _batch(
        self, rows: np.ndarray, prompts: list[list[int]], answers: Answers
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """ids [b, l + 1]; which targets were written, and their costs then, [b, l]."""
        longest = max(len(prompts[n]) + int(answers.lengths[n]) for n in rows)
        ids = np.zeros((len(rows), longest), np.int64)
        written, then = np.zeros((2, len(rows), longest), np.float32)
        for row, n in enumerate(rows):
            begin, count = len(prompts[n]), int(answers.lengths[n])
            ids[row, :begin], to = prompts[n], slice(begin, begin + count)
            ids[row, to], written[row, to] = answers.ids[n, :count], 1
            then[row, to] = answers.nats[n, :count]
        return (
            torch.from_numpy(ids), torch.from_numpy(written[:, 1:]), torch.from_numpy(then[:, 1:])
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--task", default="chain_sum", choices=TASKS)
    parser.add_argument("--optimizer", default="muon", choices=("adamw", "muon"))
    parser.add_argument("--rate", type=float, default=0.002)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began, alone = time.perf_counter(), Alone(given.model, given.task, given.rate, given.optimizer)
    for number in range(given.steps + 1):
        if number:
            print(alone.step(number), flush=True)
        if number % EVERY == 0:
            one, eight = alone.exam()
            seconds = time.perf_counter() - began
            print(f"held out: pass@1 {one:.1%}, pass@8 {eight:.1%} ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
