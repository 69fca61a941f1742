"""How well the planner knows what a step of reinforcement learning takes: `python -m bench.reason.pace` (some minutes).

Writes bench/results/reason-plan.json. Random runs are predicted from the pace of this machine with their model, 8 samples
to a problem and answers of at most 24 tokens, whatever the run itself has; it is measured right before the run, as by
somebody who plans a run and begins it. Then they are done by `train --simulate` (without the harvest at its end); their
first three rounds, in which memory is taken, do not count. Models have random weights, and about every second answer is right.

With --writers every run has as many peers that only write as its trainers need in order to learn from the answers of
others alone, and the figures go to bench/results/reason-plan-writers.json.

All times are of the processor (of this process, one thread) and not of the clock on the wall, so that other work on the
machine does not count; what a verifier's own process computes is not in them either.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from duckweed.learn.learner import Learner, Work
from duckweed.learn.model import model as models
from duckweed.learn.single import SingleDevice
from duckweed.learn.tasks import pace as paces
from duckweed.net.link_spec import parse_links
from duckweed.plan import reinforced
from duckweed.plan.inputs.existing import Measured, predict
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.run import folder as folders
from duckweed.run.events import RoundClosed
from duckweed.run.spec import RunSpec, override
from duckweed.run.task.pace import Pace

RESULTS = Path(__file__).parents[1] / "results"
MODELS = ("llama-0.5m", "llama-0.6m", "llama-1m")
ROUNDS = 6
# Rounds that are left out: memory is taken in them, and nobody has written for the first yet.
WARM = 3


def specification(where: Path, changes: dict[str, Any]) -> RunSpec:
    """A run on sums whose answers are right that begin with a letter, a digit or a sign of ASCII."""
    rows = where / "rows.jsonl"
    if not rows.is_file():
        rows.write_text(
            "".join(
                json.dumps({"question": f"{n} + {n * 7 % 101} = ?", "answer": "(?s)[!-~].*"}) + "\n"
                for n in range(2000)
            )
        )
    facts: dict[str, Any] = {
        "task.kind": "reinforce", "task.verifier": "regex", "task.marker": "", "task.samples": 8, "task.tokens": 24,
        "data.path": "rows.jsonl", "data.tokenizer": "bytes", "data.held_out": 0.05, "model.sequence": 128,
        "inner.batch": 64, "inner.optimizer": "adamw", "inner.warmup": 1, "rounds.count": ROUNDS,
        "rounds.evaluate": ROUNDS, "rounds.evaluate_tokens": 256, "rounds.patience": 600.0, "task.seconds": 60.0,
    }  # fmt: skip
    return override(RunSpec(), facts | changes)


def pace_of(where: Path, model: str) -> Pace:
    """How fast this machine is with a model."""
    spec = specification(where, {"model.source": model})
    ground = founding.prepare(spec, where, lambda _: None)
    one = founding.learner(spec, ground, "cpu")
    assert isinstance(one, SingleDevice)
    models.write_weights(one.model, models.read_weights(founding.first_model(spec, ground)))
    return paces.measure(one)


class Watched:
    """Notes the seconds of the spans that a learner trains."""

    def __init__(self, one: Learner) -> None:
        self.seconds: list[float] = []
        self._train = one.train
        one.train = self.train  # type: ignore[method-assign]

    def train(self, *given: Any, **named: Any) -> Work:
        work = self._train(*given, **named)
        self.seconds.append(work.seconds)
        return work


def run(where: Path, name: str, drawn: dict[str, Any], links: str) -> dict[str, Any]:
    """A simulated run; seconds of its spans, and of its rounds in virtual time."""
    spec = specification(where, drawn)
    ground = founding.prepare(spec, where, lambda _: None)
    folder = folders.create(where, name)
    state = founding.found(spec, ground, folder, "cpu", 1, lambda _: None)
    layout, peers = founding.layout(folder), spec.rounds.peers
    trainers = peers - spec.writers
    whole = Simulation(folder, spec, layout, ground, state, "cpu", parse_links(links, peers))
    watched = Watched(whole.workers[0].learner)
    whole.run()
    records = list(folder.records(RoundClosed))[WARM:]
    spans = watched.seconds[WARM * trainers :]
    times = [times for record in records for times in record.timings.values()]
    return {
        "parameters": layout.total,
        "span_s": median(spans),
        "spans_s": spans,
        "round_s": median(record.seconds for record in records),
        "coding_s": median(x.get("compress", 0.0) + x.get("apply", 0.0) for x in times),
        "sent": median(size for record in records for size in record.contribution_bytes),
        "fetched": median(x.update_bytes or sum(x.contribution_bytes) for x in records),
        "train_s": median(x["train"] for x in times),
    }


def compared(where: Path, number: int, draw: random.Random, writers: bool) -> dict[str, Any]:
    """One random run, predicted and done."""
    samples, steps = draw.choice((4, 8, 16)), draw.choice((1, 2, 3))
    model, trainers = draw.choice(MODELS), draw.choice((1, 2))
    drawn = {
        "model.source": model, "task.samples": samples, "task.tokens": draw.choice((8, 16, 32, 48)),
        "inner.batch": samples * draw.choice((4, 6, 8)), "inner.steps": steps, "rounds.peers": trainers,
    }  # fmt: skip
    if writers:
        lag = draw.choice((1, 2))
        peers = trainers * (1 + lag)
        drawn |= {"task.writers": trainers * lag, "task.staleness": lag, "rounds.peers": peers}
    up, down, trip = draw.choice((2, 10, 50)), draw.choice((10, 50)), draw.choice((10, 100))
    pace = pace_of(where, model)
    found = run(where, f"r{number}", drawn, f"{up}/{down} {trip}ms")
    planned = reinforced.plan(specification(where, drawn), pace)
    ours, span = planned.step, planned.learning if planned.fed else planned.alone
    size = found["parameters"] / 8
    asks = planned.fed * trip / 1000 / steps  # for the answers
    whole = predict(
        Measured(
            found["parameters"], trainers, steps, planned.round / steps + asks, found["sent"] / size,
            found["fetched"] / size, found["coding_s"], up * 1e6, down * 1e6, trip / 2000,
        )
    )  # fmt: skip
    return {
        **drawn, "links": f"{up}/{down} Mbit/s {trip} ms", **found,
        "pace": {x: getattr(pace, x) for x in pace.__struct_fields__},
        "write_s": ours.write * steps, "check_s": ours.check * steps, "learn_s": ours.train * steps,
        "predicted_span_s": span, "predicted_round_s": whole.seconds,
        "error": span / found["span_s"] - 1,
        "round_error": whole.seconds / found["round_s"] - 1,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--writers", action="store_true", help="with peers that only write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    time.perf_counter = time.process_time
    draw, rows = random.Random(given.seed), []
    with tempfile.TemporaryDirectory() as place:
        for number in range(given.count):
            rows.append(row := compared(Path(place), number, draw, given.writers))
            print(json.dumps(row), flush=True)
    result = {
        "seed": given.seed, "rows": rows, "largest_error": max(abs(row["error"]) for row in rows),
        "largest_round_error": max(abs(row["round_error"]) for row in rows),
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    name = "reason-plan-writers" if given.writers else "reason-plan"
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"largest errors: {result['largest_error']:.1%} of a span, {result['largest_round_error']:.1%} of a round"
    )


if __name__ == "__main__":
    main()
