"""How well an audit tells honest contributions from others: `python -m bench.trust.audit FOLDER PART`.

PART is one of:
`make`: two peers train some rounds as `duckweed train` does without a specification, by the product's own workers; what an audit
is given (state, span, what is carried, the contribution) goes into FOLDER, for the other parts.
`machines`: processes with other threads, instruction sets and precisions do the contributions again.
`chains`: the same (of what is compared with the peer's own) without what the peer carried, which is recomputed too, from its first round on.
`cheats`: contributions that were not made as they should be.
`table`: prints the tables of docs/audit.md.

Each part writes its share of bench/results/audit.json.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from duckweed.audit.difference import Difference, difference
from duckweed.audit.replay import replay
from duckweed.learn import memory
from duckweed.learn.fit import Wish
from duckweed.ledger.entries import Closed
from duckweed.round import founding
from duckweed.round.blocks import Span
from duckweed.round.carried import Handed, distances, packed, unpacked
from duckweed.round.engine import Engine, MemoryBlobs
from duckweed.round.worker import Carried, Worker
from duckweed.run import defaults
from duckweed.run import folder as folders
from duckweed.run import spec as specs
from duckweed.run import state as states
from duckweed.run.folder import RunFolder
from duckweed.run.spec import override
from duckweed.run.state import State
from duckweed.wire.codec import codec_of

RESULTS = Path(__file__).parents[1] / "results" / "audit.json"
PEERS, ROUNDS, CASES, STEPS = 2, 6, (0, 2, 5), 15
"""Of the run that is audited: of peer 0 the contributions to the rounds CASES are done again."""
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
SSE = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
}
WITHOUT_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
MACHINES: dict[str, tuple[dict[str, str], str]] = {
    "the same": ({}, "fp32"),
    "2 threads": ({"OMP_NUM_THREADS": "2"}, "fp32"),
    "AVX2": (AVX2, "fp32"),
    "AVX2, 2 threads": (AVX2 | {"OMP_NUM_THREADS": "2"}, "fp32"),
    "SSE": (SSE, "fp32"),
    "fp32, compiled": ({}, "fp32"),
    "bf16": ({}, "bf16"),
    "bf16, compiled": ({}, "bf16"),
    "bf16, 2 threads": ({"OMP_NUM_THREADS": "2"}, "bf16"),
    "bf16 without AMX": (WITHOUT_AMX, "bf16"),
    "bf16, compiled, and bf16": ({}, "bf16"),
}
"""Name -> environment beside OMP_NUM_THREADS=1, and the precision of products. Layers are compiled where the name says so."""
AGAINST = dict.fromkeys(("bf16, 2 threads", "bf16 without AMX", "bf16, compiled, and bf16"), "bf16")
"""Compared with what another machine of MACHINES made, and not with the peer's own (float32)."""
NOISE = 10
"""Of `jitter`: one code in so many is set."""


class Bench:
    """The run that is audited, as its folder has it."""

    def __init__(self, place: Path, precision: str = "fp32", compiled: bool = False) -> None:
        self.place, self.folder = place, RunFolder(place / "run")
        spec = specs.load(self.folder.spec)
        self.ground = founding.reopen(self.folder, spec)
        self.layout = founding.layout(self.folder)
        self.spec = override(spec, {"inner.precision": precision})
        self.learner = founding.learner(
            self.spec, self.ground, "cpu", Wish(compile=compiled), print
        )

    def state(self, round_: int) -> State:
        return states.load(self.folder.state(round_), self.layout)

    def carried(self, round_: int) -> Carried | None:
        """What peer 0 carried into a round."""
        worker = Worker(self.spec, self.layout, self.learner)
        return worker.carried if worker.load(self._kept(round_ - 1), round_ - 1) else None

    def carried_apart(self, round_: int, out: Path, other: Path | None) -> float:
        """How far what is carried on after a round is from that of peer 0, or of another machine: the largest
        distance of its parts."""
        codec, shared = codec_of(self.spec.wire, self.layout), self.state(round_).shared

        def handed(blob: bytes, carried: bytes) -> Handed:
            return Handed(codec.decode(blob, shared).values, unpacked(carried, self.layout))

        made = handed(*((out / f"{round_}{end}").read_bytes() for end in ("", ".carried")))
        if other:
            theirs = handed(*((other / f"{round_}{end}").read_bytes() for end in ("", ".carried")))
        else:
            theirs = handed(self.claimed(round_), self._kept(round_).read_bytes())
        return max(distances(theirs, made).values())

    def _kept(self, round_: int) -> Path:
        return self.place / f"carried-{round_}.safetensors"

    def claimed(self, round_: int) -> bytes:
        return (self.place / f"claimed-{round_}").read_bytes()

    def span(self, round_: int, peer: int = 0) -> Span:
        return Span(PEERS * round_ + peer, 0, self.spec.inner.steps)

    def compare(self, round_: int, blob: bytes, other: bytes | None = None) -> dict[str, Any]:
        """A blob against another; None: the contribution that peer 0 made."""
        shared = self.state(round_).shared
        other = self.claimed(round_) if other is None else other
        return told(difference(self.spec, self.layout, shared, blob, other))


def told(found: Difference) -> dict[str, Any]:
    large = [one for one in found.tensors if one.codes >= 1000]
    return {
        "share": found.differ / found.codes,
        "differ": found.differ,
        "codes": found.codes,
        "distance": found.distance,
        "worst share of a tensor": max(one.differ / one.codes for one in large),
        "worst distance of a tensor": max(one.distance for one in large),
        "worst codes of a small tensor": max(
            (one.differ for one in found.tensors if one.codes < 1000), default=0
        ),
    }


def make(place: Path) -> None:
    """Two peers of the demo, some rounds; the first one's contributions and what it carried are kept."""
    spec = defaults.start(
        {"rounds.count": 34, "inner.steps": STEPS, "rounds.peers": PEERS, "inner.precision": "fp32"}
    )
    ground = founding.prepare(spec, place, print)
    folder = folders.create(place, "run")
    state = founding.found(spec, ground, folder, "cpu", 1, print)
    bench = Bench(place)
    workers = [Worker(spec, bench.layout, bench.learner) for _ in range(PEERS)]
    for number in range(ROUNDS):
        state.save(folder.state(number))
        made = [
            worker.compress(state, peer, worker.train(state, bench.span(number, peer)))
            for peer, worker in enumerate(workers)
        ]
        workers[0].save(bench._kept(number))
        (place / f"claimed-{number}").write_bytes(made[0].blob)
        (place / f"other-{number}").write_bytes(made[1].blob)
        blobs = MemoryBlobs({one.announcement.blob: one.blob for one in made})
        engine = Engine(spec, bench.layout, blobs)
        closed: Closed = engine.close(state.shared.tolist(), [one.announcement for one in made])
        state = engine.advance(state, closed)
        for peer, worker in enumerate(workers):
            worker.close_round(peer in closed.carrying())
        print(f"round {number}: loss {made[0].announcement.loss:.3f}", flush=True)


def work(place: Path, out: Path, precision: str, chain: bool, compiled: bool) -> None:
    """In a process of its own: do the contributions again."""
    import torch

    memory.one_heap()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    bench = Bench(place, precision, compiled)
    carried = None
    for number in range(ROUNDS) if chain else CASES:
        if not chain:
            carried = bench.carried(number)
        state, span = bench.state(number), bench.span(number)
        done = replay(bench.spec, bench.layout, bench.learner, state, span, carried)
        carried = done.carried
        (out / f"{number}").write_bytes(done.contribution.blob)
        (out / f"{number}.carried").write_bytes(packed(done.carried))
        (out / f"{number}.loss").write_text(repr(done.contribution.announcement.loss))


def elsewhere(place: Path, name: str, chain: bool) -> dict[str, Any]:
    """What a process of another kind reaches."""
    more, precision = MACHINES[name]
    began = time.perf_counter()
    out = place / f"{'chain' if chain else 'made'} {name}"
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "bench.trust.audit", str(place), "work", str(out), precision]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
    command += ["chain"] * chain + ["compiled"] * ("compiled" in name)
    subprocess.run(command, check=True, env=environment)
    bench, found = Bench(place), {}
    for number in range(ROUNDS) if chain else CASES:
        other = place / f"made {AGAINST[name]}" / f"{number}" if name in AGAINST else None
        found[number] = bench.compare(
            number, (out / f"{number}").read_bytes(), other.read_bytes() if other else None
        )
        if not chain:
            found[number]["carried"] = bench.carried_apart(
                number, out, place / f"made {AGAINST[name]}" if name in AGAINST else None
            )
        found[number]["loss"] = float((out / f"{number}.loss").read_text())
    seconds = round(time.perf_counter() - began, 1)
    print(name, seconds, {n: f"{one['share']:.2e}" for n, one in sorted(found.items())}, flush=True)
    return {"seconds": seconds, "rounds": {str(n): found[n] for n in sorted(found)}}


def cheats(place: Path) -> dict[str, Any]:
    """Contributions to the rounds CASES that a peer should not make, against the honest ones."""
    bench, found = Bench(place), {}
    for name, cheat in CHEATS.items():
        found[name] = {
            str(n): bench.compare(n, blob) for n in CASES if (blob := cheat(bench, n)) is not None
        }
        print(name, {n: f"{one['share']:.2e}" for n, one in found[name].items()}, flush=True)
    return found


def trained(bench: Bench, number: int, **other: Any) -> bytes:
    """A contribution made from something else than it should be."""
    state, span = bench.state(number), bench.span(number)
    learner = other.get("learner", bench.learner)
    begin = msgspec.structs.replace(other.get("state", state), round=number)
    worker = Worker(other.get("spec", bench.spec), bench.layout, learner)
    worker.carried = other.get("carried", bench.carried(number)) or worker.carried
    done = worker.train(begin, other.get("span", span))
    if "steps" in other:  # the missing ones are claimed
        done.span = span
        done.steps = span.steps
    return worker.compress(state, 0, done).blob


def recoded(change: Callable[[np.ndarray, Bench], np.ndarray]) -> Callable[[Bench, int], bytes]:
    """The honest contribution with its values changed."""

    def cheat(bench: Bench, number: int) -> bytes:
        codec, shared = codec_of(bench.spec.wire, bench.layout), bench.state(number).shared
        values = codec.decode(bench.claimed(number), shared).values.copy()
        return codec.encode(change(values, bench), shared).blob

    return cheat


def _fewer(steps: int) -> Callable[[Bench, int], bytes]:
    def cheat(bench: Bench, number: int) -> bytes:
        return trained(bench, number, span=Span(bench.span(number).block, 0, steps), steps=steps)

    return cheat


def _stale(bench: Bench, number: int) -> bytes | None:
    return trained(bench, number, state=bench.state(number - 1)) if number else None


def _batch(bench: Bench, number: int) -> bytes:
    spec = override(bench.spec, {"inner.batch": bench.spec.inner.batch // 2})
    learner = founding.learner(spec, bench.ground, "cpu")
    return trained(bench, number, spec=spec, learner=learner)


def _rate(bench: Bench, number: int) -> bytes:
    rate = 0.9 * bench.spec.inner.learning_rate
    spec = override(bench.spec, {"inner.learning_rate": rate})
    return trained(bench, number, spec=spec, learner=founding.learner(spec, bench.ground, "cpu"))


def _without_carried(bench: Bench, number: int) -> bytes | None:
    nothing = Worker(bench.spec, bench.layout, bench.learner).carried
    return trained(bench, number, carried=nothing) if number else None


def _jitter(values: np.ndarray, bench: Bench) -> np.ndarray:
    """Zeros, but for a tenth of the codes, drawn."""
    draw, out = np.random.default_rng(0), np.zeros_like(values)
    for part in bench.layout.slices():
        top = np.abs(values[part]).max()
        here = draw.integers(NOISE, size=part.stop - part.start) == 0
        out[part] = here * top * draw.choice([-1, 1], size=len(here))
    return out


def _shuffled(values: np.ndarray, bench: Bench) -> np.ndarray:
    """As many codes of each kind as the honest ones have, at places that are drawn."""
    out, draw = values.copy(), np.random.default_rng(0)
    for part in bench.layout.slices():
        draw.shuffle(out[part])
    return out


def _head(values: np.ndarray, bench: Bench) -> np.ndarray:
    """The head alone, flipped."""
    out, slices = values.copy(), dict(zip(bench.layout.names, bench.layout.slices(), strict=True))
    name = next((n for n in slices if "lm_head" in n), bench.layout.names[0])
    out[slices[name]] *= -1
    return out


def _part_flipped(share: float) -> Callable[[np.ndarray, Bench], np.ndarray]:
    def change(values: np.ndarray, bench: Bench) -> np.ndarray:
        return np.where(np.random.default_rng(0).random(len(values)) < share, -values, values)

    return change


CHEATS: dict[str, Callable[[Bench, int], bytes | None]] = {
    "sign flip": recoded(lambda values, bench: -values),
    "zeros (lazy)": recoded(lambda values, bench: np.zeros_like(values)),
    "zeros and a tenth of drawn codes (lazy)": recoded(_jitter),
    "own codes, shuffled": recoded(_shuffled),
    "another peer's contribution": lambda bench, n: (bench.place / f"other-{n}").read_bytes(),
    "another block": lambda bench, n: trained(bench, n, span=bench.span(ROUNDS + n)),
    "from the state before (stale)": _stale,
    "8 of 15 steps": _fewer(8),
    "12 of 15 steps": _fewer(12),
    "13 of 15 steps": _fewer(13),
    "14 of 15 steps": _fewer(14),
    "half of each batch": _batch,
    "learning rate a tenth lower": _rate,
    "without what was carried": _without_carried,
    "head alone, flipped": recoded(_head),
    "a tenth of the codes, flipped": recoded(_part_flipped(0.1)),
    "a hundredth of the codes, flipped": recoded(_part_flipped(0.01)),
}


def write(part: str, found: Any) -> None:
    facts = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    facts |= {part: found}
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def table() -> str:
    """The tables of docs/audit.md. Of a machine the largest figure of its rounds, of a cheat the least."""
    facts = json.loads(RESULTS.read_text("utf-8"))
    head = "| {} | codes that differ | distance | of the worst tensor |\n|---|---|---|---|\n"
    names = {name: f"{name} (against bf16)" if name in AGAINST else name for name in MACHINES}
    machines = "".join(
        _row(names[name], found["rounds"].values(), max).rstrip("\n") + _carried_on(found["rounds"])
        for name, found in facts["machines"].items()
    )
    cheats = "".join(_row(name, found.values(), min) for name, found in facts["cheats"].items())
    chains = [
        "| round | " + " | ".join(facts["chains"]) + " |",
        "|---" * (1 + len(facts["chains"])) + "|",
    ]
    for number in range(ROUNDS):
        found = [one["rounds"][str(number)] for one in facts["chains"].values()]
        row = (f"{100 * one['share']:.2g} %, distance {one['distance']:.2g}" for one in found)
        chains.append(f"| {number} | {' | '.join(row)} |")
    return "\n".join(
        [
            head.format("honest").replace(" |\n|", " | carried on |\n|---|") + machines,
            "\n".join(chains) + "\n",
            head.format("cheat") + cheats,
        ]
    )


def _carried_on(rounds: dict[str, dict[str, Any]]) -> str:
    """The largest distance of what is carried on; "-" where it was not measured."""
    found = [one["carried"] for one in rounds.values() if "carried" in one]
    return f" {max(found):.2g} |\n" if found else " - |\n"


def _row(
    name: str, rounds: Iterable[dict[str, Any]], of: Callable[[Iterable[float]], float]
) -> str:
    shares, distances, worst = (
        of([one[key] for one in rounds])
        for key in ("share", "distance", "worst distance of a tensor")
    )
    return f"| {name} | {100 * shares:.2g} % | {distances:.2g} | {worst:.2g} |\n"


def main() -> None:
    place, part = Path(sys.argv[1]), sys.argv[2]
    if part == "make":
        make(place)
    elif part == "work":
        work(place, Path(sys.argv[3]), sys.argv[4], "chain" in sys.argv, "compiled" in sys.argv)
    elif part == "cheats":
        write(part, cheats(place))
    elif part == "table":
        print(table())
    else:
        alone = [name for name in MACHINES if part == "machines" or name not in AGAINST]
        wanted = sys.argv[3:] or alone
        known = json.loads(RESULTS.read_text("utf-8")).get(part, {}) if RESULTS.exists() else {}
        for name in wanted:
            known[name] = elsewhere(place, name, part == "chains")
            write(part, known)


if __name__ == "__main__":
    main()
