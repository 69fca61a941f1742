"""From nothing to a small reasoner: worked solutions first, then reinforcement learning with four peers.

`python -m bench.reason FOLDER [--seed N] [--rl ROUNDS]` trains both stages in one process and on a virtual
clock, examines the model after each, and writes bench/results/reason-N.json (docs/reason.md).
"""

import argparse
import ast
import json
import operator
import random
import re
import time
from pathlib import Path

import msgspec
import torch

import duckweed

RESULTS = Path(__file__).parents[1] / "results"
TASKS: dict[str, dict[str, object]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1},
    "basic_arithmetic": {
        "min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1, "operators": ["+", "-", "*"],
    },
}  # fmt: skip
ROWS, HELD_OUT = 12_000, 0.05
SEQUENCE, TOKENS = 160, 56
MICRO = 64  # sequences trained at a time: more are no faster, and take more memory
COMMON = {
    "model.source": "llama-0.5m", "model.sequence": SEQUENCE, "data.held_out": HELD_OUT,
    "inner.precision": "fp32",  # the same on every machine: a CPU with AMX would compute in bf16
}  # fmt: skip

SIGNS = {ast.Add: ("+", operator.add), ast.Sub: ("-", operator.sub), ast.Mult: ("*", operator.mul)}


def steps(question: str) -> str:
    """What stands in parentheses first, a step a line, then the answer."""
    found = re.search(r"[-\d(][-+*() \d]*", question.rpartition(":")[2])
    assert found
    lines: list[str] = []
    value = reckoned(ast.parse(found[0].strip(), mode="eval").body, lines)
    return "\n".join([*lines, f"Answer: {value}"])


def reckoned(node: ast.expr, lines: list[str]) -> int:
    """Its value; each sum, difference and product on the way is a line."""
    match node:
        case ast.BinOp(left, sign, right):
            one, other = reckoned(left, lines), reckoned(right, lines)
            mark, reckon = SIGNS[type(sign)]
            lines.append(f"{one}{mark}{other}={reckon(one, other)}")
            return reckon(one, other)
        case ast.UnaryOp(operand=operand):
            return -reckoned(operand, lines)
        case ast.Constant(int(value)):
            return value
    raise ValueError(ast.dump(node))


def worked_solutions(path: Path, seed: int) -> None:
    """Problems of the training side with their worked solutions, one a line."""
    from duckweed.learn.tasks.environments import draw, make

    rows = []
    for number, (name, settings) in enumerate(TASKS.items()):
        environment = make(name, settings)
        for key in range(ROWS // len(TASKS)):
            one = draw(environment, (seed << 40) + (number << 32) + key, False, HELD_OUT)
            question = environment.question(one)
            solution = steps(question)
            assert environment.score(one, solution.rpartition("Answer:")[2].strip()) == 1
            rows.append({"prompt": question, "completion": solution})
    random.Random(seed).shuffle(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def trained(base: Path, name: str, seed: int, facts: dict[str, object]) -> dict[str, object]:
    """Train a run, unless that is done; its curve."""
    began, folder = time.perf_counter(), base / "runs" / name
    if not (folder / "report.html").is_file():
        if folder.exists():
            training = duckweed.open(folder).simulate()
        else:
            training = duckweed.simulate(
                COMMON | facts | {"seed": seed},
                base=base,
                runs=base / "runs",
                name=name,
                micro=MICRO,
            )
        for event in training:
            written = event.written.words() if event.written else f"loss {event.loss:.3f}"
            held = "" if event.held_out is None else f", held out {event.held_out:.3f}"
            print(f"{name} {event.round}: {written}{held}", flush=True)
    told = duckweed.open(folder)
    return {
        "seconds": time.perf_counter() - began,
        "curve": [(n, round(x, 4)) for n, x in told.losses()],
        "bytes_up": sum(x.up for x in told.history().traffic.values()),
        "rounds": len(told.history().rounds),
    }


def examined(folder: Path, problems: int, samples: int = 8) -> dict[str, object]:
    """pass@k on held-out problems."""
    from duckweed import session

    changes = {
        "tokens": TOKENS,
        "environments": {name: {"settings": x} for name, x in TASKS.items()},
    }
    found = session.examine(
        folder, list(TASKS), samples, problems, "cpu", (), lambda text: None, changes
    )
    return {
        x.name: {
            **{f"pass@{k}": (round(x.pass_at(k), 4), x.interval(k)) for k in (1, 4, samples)},
            "tokens": x.tokens,
            "shown": msgspec.to_builtins(x.shown),
        }
        for x in found
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sft", type=int, default=60, help="rounds of worked solutions")
    parser.add_argument("--rl", type=int, default=30, help="rounds of reinforcement learning")
    parser.add_argument("--rate", type=float, default=0.004, help="of reinforcement learning")
    parser.add_argument("--answers", type=int, default=2048, help="of a round, all peers together")
    parser.add_argument("--steps", type=int, default=1, help="inner steps of a round")
    parser.add_argument("--ratio", default="mask", help="form of the policy's loss: mask or cispo")
    parser.add_argument("--peers", type=int, default=4, help="that train by reinforcement learning")
    parser.add_argument("--writers", type=int, default=0, help="peers more that only write answers")
    parser.add_argument("--staleness", type=int, default=1, help="rounds that these have for them")
    parser.add_argument("--problems", type=int, default=200, help="held-out ones of each family")
    parser.add_argument("--name", default="", help="of the second run")
    given = parser.parse_args()
    torch.set_num_threads(1)
    base, seed = given.folder, given.seed
    base.mkdir(parents=True, exist_ok=True)
    if not (base / f"worked-{seed}.jsonl").is_file():
        worked_solutions(base / f"worked-{seed}.jsonl", seed)
    sft, rl = f"sft-{seed}", f"rl-{seed}{given.name}"
    result: dict[str, object] = {"seed": seed, "tasks": TASKS, **vars(given)}
    del result["folder"]
    result["sft run"] = trained(
        base, sft, seed,
        {
            "task.kind": "chat", "data.path": f"worked-{seed}.jsonl", "rounds.peers": 1,
            "rounds.count": given.sft, "inner.steps": 20, "inner.batch": 16, "rounds.evaluate": 5,
            "rounds.evaluate_tokens": 8192, "inner.learning_rate": 0.01,
        },
    )  # fmt: skip
    exam = base / f"exam-{sft}.json"  # the same for several second runs
    if not exam.is_file():
        exam.write_text(json.dumps(examined(base / "runs" / sft, given.problems)))
    result["sft exam"] = json.loads(exam.read_text())
    print(json.dumps(result, indent=1), flush=True)
    result["rl run"] = trained(
        base, rl, seed,
        {
            "task.kind": "reinforce", "model.source": f"runs/{sft}", "model.weights": "given",
            "data.tokenizer": f"runs/{sft}/model", "task.tokens": TOKENS, "task.samples": 16, "task.ratio": given.ratio,
            "task.writers": given.writers, "task.staleness": given.staleness,
            "task.environments": {name: {"settings": x} for name, x in TASKS.items()},
            "rounds.peers": given.peers + given.writers, "rounds.count": given.rl, "inner.steps": given.steps,
            "inner.batch": given.answers // given.peers // given.steps, "inner.optimizer": "muon",
            "inner.learning_rate": given.rate, "inner.momentum": 0.9, "inner.weight_decay": 0.0,
            "inner.embedding_rate": 0.1, "inner.head_rate": 0.1, "inner.vector_rate": 0.1,
            "inner.warmup": given.steps, "inner.decay": 0.5, "rounds.patience": 600.0, "rounds.evaluate": 5,
            "rounds.evaluate_tokens": 256 * TOKENS,
        },
    )  # fmt: skip
    result["rl exam"] = examined(base / "runs" / rl, given.problems)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"reason-{seed}{given.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
