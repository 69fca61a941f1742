"""A newcomer in an open run: `python -m bench.trust.newcomer [--joins 5] [--rounds 14] [--steps 7]`.

Five peers train a model of 183,744 parameters by the product's own workers, rounds and filter, in one process. From the
round `joins` on the last of them is a newcomer, who has neither momenta nor a residual. Shown is how well its contribution agrees with
a majority, of what is usual, and whether it counts; once as the product has it (what a contribution that was left
out leaves is carried on) and once where it begins with nothing again until one has counted. Everything follows from
the seed of the specification. Writes bench/results/newcomer.json.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from duckweed.merge import trust
from duckweed.merge.filter import Compared, Judged, find_outliers
from duckweed.merge.rules import mean, register_rule
from duckweed.round import founding
from duckweed.round.engine import Engine, MemoryBlobs
from duckweed.round.worker import Worker
from duckweed.run.folder import create
from duckweed.run.spec import RunSpec, override
from duckweed.wire.total import CODES

RESULTS = Path(__file__).parents[1] / "results" / "newcomer.json"
PEERS = 5
MODEL: dict[str, object] = {
    "model.sequence": 64, "architecture.width": 64, "architecture.layers": 3, "architecture.heads": 4,
    "architecture.kv_heads": 4, "architecture.inner_width": 176,
}  # fmt: skip


class Seen(NamedTuple):
    """The newcomer's contribution to a round."""

    round: int
    agreement: float
    """With a majority, of what is usual; 0: left out for it."""
    counted: bool
    reason: str


def watched() -> dict[int, float]:
    """Register the merge rule `watched`: `filtered`, which tells what it found of each peer."""
    agreement: dict[int, float] = {}

    def find(compared: Compared) -> Judged:
        found = find_outliers(compared)
        agreement.update(found.agreement)
        return found

    register_rule("watched", mean.merge, [CODES], find)
    return agreement


def rounds(base: Path, joins: int, count: int, steps: int, carries: bool) -> Iterator[Seen]:
    """What became of the newcomer, round by round. carries: whether what was left out is carried on."""
    changes = {
        "rounds.peers": PEERS,
        "merge.rule": "watched",
        "rounds.count": 34,
        "inner.steps": steps,
    }
    spec = override(RunSpec(), MODEL | changes)
    ground = founding.prepare(spec, base, lambda text: None)
    folder = create(base / "runs", f"carries-{carries}")
    state = founding.found(spec, ground, folder, "cpu", 1, lambda text: None)
    layout, learner = founding.layout(folder), founding.learner(spec, ground, "cpu")
    workers = [Worker(spec, layout, learner) for _ in range(PEERS)]
    memory: dict[int, trust.Standing] = {}
    for number in range(count):
        if number == joins:
            workers[-1] = Worker(spec, layout, learner)
            memory.pop(PEERS - 1)
        made = [w.contribute(state, p, PEERS * number + p) for p, w in enumerate(workers)]
        engine = Engine(spec, layout, MemoryBlobs({x.announcement.blob: x.blob for x in made}))
        closed = engine.close(
            [float(x) for x in state.shared], [x.announcement for x in made], memory
        )
        trust.recall(memory, closed)
        state = engine.advance(state, closed)
        for peer, worker in enumerate(workers):
            worker.close_round(peer in (closed.carrying() if carries else closed.accepted), number)
        last = PEERS - 1
        if number >= joins:
            yield Seen(
                number, AGREEMENT[last], last in closed.accepted, closed.rejected.get(last, "")
            )


AGREEMENT = watched()


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--joins", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--steps", type=int, default=7)
    given = parser.parse_args()
    told = {}
    for carries in (True, False):
        name = "carried on" if carries else "begun anew"
        with tempfile.TemporaryDirectory() as place:
            found = []
            for seen in rounds(Path(place), given.joins, given.rounds, given.steps, carries):
                found.append(seen._asdict())
                print(name, seen, flush=True)
        told[name] = found
    RESULTS.write_text(json.dumps(vars(given) | told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
