"""A site beside one process: `python -m bench.peer.site`, some minutes on two cores; one part: `memory` or `distance`.

*memory*: llama-15m (14.4 million parameters, bytes), made-up tokens, two steps of 4 sequences of 64 tokens in
micro-batches of one, Muon, float32, one thread a process. What each process takes beside what it had before the model
was built (it has trained a smaller one before), at its peak; of process 0 without the vectors of a round. *distance*: the demo's model (1.07 million parameters, 20 steps of 8 x 128 bytes) from its first
weights: the contribution of a site beside that of one process, counted as an audit counts it (docs/audit.md).

All processes are on this machine, over gloo. Writes bench/results/site.json after each case, where what was measured
already is not measured again, and prints the tables of docs/learn.md and docs/audit.md.
"""

import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from duckweed.process import environment
from duckweed.process.forkserver import ForkServer

RESULTS = Path(__file__).parents[1] / "results" / "site.json"
CASES = [
    {"part": part, "processes": size, "sharded": sharded}
    for part in ("memory", "distance")
    for size, sharded in ((1, False), (2, False), (4, False), (2, True), (4, True))
]


def spec_of(case: dict[str, Any]) -> Any:
    from duckweed.run.spec import RunSpec, override

    if case["part"] == "distance":
        return override(
            RunSpec(),
            {"inner.steps": 20, "inner.batch": 8, "model.sequence": 128, "inner.precision": "fp32"},
        )
    facts = {
        "model.source": "llama-15m", "model.sequence": 64, "inner.batch": 4, "inner.steps": 2, "inner.warmup": 0,
        "inner.precision": "fp32",
    }  # fmt: skip
    return override(RunSpec(), facts)


def rank(case: dict[str, Any], out: Path) -> None:
    """One process of a case."""
    import numpy as np
    import torch

    from duckweed.learn import memory, registry
    from duckweed.learn.fit import Fit
    from duckweed.learn.learner import Part
    from duckweed.learn.model import model as models
    from duckweed.learn.site.group import Group, Place
    from duckweed.learn.site.leader import leading
    from duckweed.learn.site.member import Member
    from duckweed.learn.tasks.text import TOKENS, NextToken

    class Made(NextToken):
        def __init__(self, spec: Any) -> None:
            self.spec = spec

        def batches(self, part: Part, model: torch.nn.Module) -> Iterator[dict[str, np.ndarray]]:
            text = np.frombuffer(Path(models.__file__).read_bytes(), np.uint8).astype(np.int64)
            inner, length = self.spec.inner, self.spec.model.sequence + 1
            rng = np.random.default_rng(part.first)
            for _ in range(part.steps):
                places = rng.integers(0, len(text) - length, inner.batch)
                yield {TOKENS: np.stack([text[place : place + length] for place in places])}

    torch.set_num_threads(1)
    memory.one_heap()
    spec, place = spec_of(case), Place.here()
    micro = 1 if case["part"] == "memory" else spec.inner.batch
    way = Fit(micro, processes=case["processes"], sharded=case["sharded"])
    config = models.configuration(spec.model.source, Path(), 257, spec.model.sequence)
    group = Group.meet(place, "bench", "cpu") if place else None
    weights = (
        models.read_weights(models.build(config, seed=1)) if not group or not group.rank else None
    )
    _warm_up(spec)
    memory.trim()
    before = _resident("VmRSS")
    _forget()
    if group and group.rank:
        Member(group, print).follow()
    else:
        task = Made(spec)
        found: dict[str, Any] = {}

        def work(one: Any) -> None:
            one.fit([way], lambda text: None)
            assert weights is not None
            done = one.train(weights, Part(0, 0, spec.inner.steps), keep=True)
            found["loss"] = done.loss
            if case["part"] == "distance":
                np.save(out / "delta.npy", done.delta)

        if group:
            with leading(group):
                work(registry.LEARNERS["site"].make(spec, config, task, "cpu"))
        else:
            work(registry.LEARNERS["single"].make(spec, config, task, "cpu"))
        (out / "loss.json").write_text(json.dumps(found))
    peak = _resident("VmHWM") - before
    (out / f"peak-{place.rank if place else 0}.json").write_text(json.dumps(peak))


def _warm_up(spec: Any) -> None:
    """Train something small: what a process needs for its first step, whatever the model, is no part of the figures."""
    import msgspec
    import numpy as np

    from duckweed.learn.learner import Part
    from duckweed.learn.model import model as models
    from duckweed.learn.single import SingleDevice
    from duckweed.learn.tasks.text import TOKENS, NextToken

    class Zeros(NextToken):
        def __init__(self) -> None:
            pass

        def batches(self, part: Part, model: Any) -> Iterator[dict[str, Any]]:
            yield {TOKENS: np.zeros((1, 17), np.int64)}

    small = msgspec.structs.replace(
        spec, model=msgspec.structs.replace(spec.model, source="llama-1m")
    )
    one = SingleDevice(small, models.configuration("llama-1m", Path(), 257, 16), Zeros(), "cpu")
    one.train(one.weights(), Part(0, 0, 1))


def measure(case: dict[str, Any], forks: ForkServer, deltas: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from duckweed.learn import memory
    from duckweed.learn.fit import Fit
    from duckweed.learn.model import model as models

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as place:
        out, size = Path(place), case["processes"]
        each = [
            forks.start(
                "bench.peer.site", [json.dumps(case), str(n), str(port), place], out / f"{n}.log"
            )
            for n in range(size)
        ]
        codes = [one.wait(600) for one in each]
        if any(codes):
            sys.exit("\n".join((out / f"{n}.log").read_text() for n in range(size)))
        peaks = [json.loads((out / f"peak-{n}.json").read_text()) for n in range(size)]
        loss = json.loads((out / "loss.json").read_text())["loss"]
        if case["part"] == "distance":
            deltas[str(case)] = np.load(out / "delta.npy")
    found: dict[str, Any] = {**case, "loss": loss}
    spec = spec_of(case)
    config = models.configuration(spec.model.source, Path(), 257, spec.model.sequence)
    skeleton = models.skeleton(config)
    if case["part"] == "memory":
        way = Fit(1, processes=size, sharded=case["sharded"])
        predicted = memory.whole(skeleton, spec, "cuda", way)  # what lies on its device
        return found | {"peaks": peaks, "predicted": predicted}
    return found | _distance(
        spec, models.layout_of(skeleton), deltas[str(CASES[5])], deltas[str(case)]
    )


def _distance(spec: Any, layout: Any, alone: Any, together: Any) -> dict[str, Any]:
    """Of two pseudo-gradients, and of the contributions made of them."""
    import numpy as np

    from duckweed.audit.difference import difference
    from duckweed.audit.verdict import distances
    from duckweed.run.state import first
    from duckweed.wire.codec import codec_of

    codec = codec_of(spec.wire, layout)
    shared = first(layout, np.zeros_like(alone), codec.first_shared(lambda: alone)).shared
    a, b = codec.encode(together, shared).blob, codec.encode(alone, shared).blob
    found = difference(spec, layout, shared, a, b)
    worst = distances(found)
    raw = float(np.linalg.norm(together - alone) / np.linalg.norm(alone))
    return {
        "pseudo_gradient": raw,
        "codes": found.share,
        "distance": worst.whole,
        "tensor": worst.tensor,
    }


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def _forget() -> None:
    """Let the peak begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def table(found: list[dict[str, Any]]) -> None:
    print(
        "| processes | model | process 0, MB | each other, MB | predicted for a device, MB |\n|--:|---|--:|--:|--:|"
    )
    for one in (x for x in found if x["part"] == "memory"):
        others = max(one["peaks"][1:], default=0)
        rest = f"{others / 1e6:.0f}" if others else "-"
        how = (
            "cut over them"
            if one["sharded"]
            else "whole in each"
            if one["processes"] > 1
            else "whole"
        )
        print(
            f"| {one['processes']} | {how} | {one['peaks'][0] / 1e6:.0f} | {rest} | {one['predicted'] / 1e6:.0f} |"
        )
    print(
        "\n| beside one process | pseudo-gradient | codes that differ | distance | of the worst tensor |"
    )
    print("|---|---|---|---|---|")
    for one in (x for x in found if x["part"] == "distance"):
        name = f"{one['processes']} processes{', model cut over them' if one['sharded'] else ''}"
        print(
            f"| {name} | {one['pseudo_gradient']:.2g} | {one['codes']:.2%} | {one['distance']:.2g} | {one['tensor']:.2g} |"
        )


def main() -> int:
    if len(sys.argv) == 5:
        case, number, port, out = sys.argv[1:]
        size = json.loads(case)["processes"]
        os.environ |= {
            "RANK": number, "WORLD_SIZE": str(size), "LOCAL_RANK": number, "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        rank(json.loads(case), Path(out))
        return 0
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    done = [{name: one[name] for name in CASES[0]} for one in found]
    deltas: dict[str, Any] = {}
    with ForkServer(environment.of_child(1)) as forks:
        for case in CASES:
            if sys.argv[1:] not in ([], [case["part"]]):
                continue
            again = case == CASES[5] and any(
                x not in done for x in CASES[6:]
            )  # the others need it beside them
            if case in done and not again:
                continue
            one = measure(case, forks, deltas)
            if case not in done:
                found.append(one)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
            print(one, flush=True)
    table(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
